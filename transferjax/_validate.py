"""Checks of what users hand in, and the one error that they raise.

Every message has the same three parts: the argument, the value that was found, and the remedy.
"""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Something a user handed in cannot be used; the message says what, why and what to do.

    Scripts print the message alone and exit with code 1; everything that is not an `InputError` is a defect of
    the program and keeps its traceback.
    """


def fail(argument: str, found: Any, remedy: str) -> InputError:
    """Returns the error for one argument, ready to be raised.

    Args:
      argument: what the user knows the input by: an argument's, a flag's or a file's name.
      found: what is wrong with it, the value included.
      remedy: what the user can do.
    """
    return InputError(f"{argument}: {found}. {remedy}")


def one_of(argument: str, value: str, allowed: tuple[str, ...] | list[str]) -> str:
    """Returns `value` if it is one of `allowed`; raises `InputError` naming the choices if not."""
    if value not in allowed:
        raise fail(argument, f"{value!r} is unknown", f"Choose from: {', '.join(allowed)}.")
    return value


def positive(argument: str, value: int) -> int:
    """Returns `value` if it is at least 1; raises `InputError` if not."""
    if value < 1:
        raise fail(argument, f"{value} is not positive", "Give a whole number of at least 1.")
    return value


def reason(error: BaseException) -> str:
    """Returns what an exception says, for the middle of a message: on one line, without a full stop."""
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__
