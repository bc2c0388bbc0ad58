"""What all scripts share: how they start, and how they fail."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from absl import app, flags, logging

from experiments import INTERRUPTED
from transferjax._validate import InputError


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs `main`; bad input and ctrl-C end in one message and exit code 1, without a traceback.

    Args:
      main: takes the arguments left over after the flags.
    """

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # absl's default shows what JAX tells itself about its backends
        try:
            if len(argv) > 1:
                raise InputError(f"{argv[1]!r} is not a flag. Flags look like --name=value; --help lists them.")
            main(argv)
        except InputError as error:
            sys.exit(f"Error: {error}")

    signal.signal(signal.SIGINT, _stop)
    app.run(guarded)


def _stop(_signum: int, _frame: object) -> None:
    sys.exit(INTERRUPTED)  # an exception, so that half-written files are removed
