"""An interpreter of the few pickle opcodes that PyTorch's checkpoints consist of; it imports and runs nothing.

Python's own `pickle` imports and calls what a file names. Here `pickletools` parses, containers are built, and a name
that is not in the given table is an error.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

WEIGHTS_ALONE = "Write the weights alone, torch.save(model.state_dict(), path), where the file's code is at hand."

MAX_ARGUMENT = 2**20  # bytes of one string; Python may take four for each
MAX_OBJECTS = 40_000_000  # bytes of all objects, as estimated below; ends a flood after 500,000 opcodes
PER_OPCODE = 80  # bytes: the most that an opcode was found to leave behind, e.g. in an ordered dict of one entry

_LITERAL = re.compile(r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE|BYTES)8?")
_LITERALS = frozenset(opcode.name for opcode in pickletools.opcodes if _LITERAL.fullmatch(opcode.name))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class RefusedError(ValueError):
    """The file cannot be used: `found` says why, `remedy` what to do."""

    def __init__(self, found: str, remedy: str = "Get or write the file again.") -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


def shown(text: object) -> str:
    """Returns what a file says so that it can stand in a message: short and without control characters."""
    plain = repr(str(text)[:200])
    return plain if len(plain) <= 100 else f"{plain[:96]}...{plain[0]}"


class Window(io.BytesIO):
    """Bytes with pickles in them, of which nothing long can be read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns the next `size` bytes."""
        if size is None or not 0 <= size <= MAX_ARGUMENT:
            raise RefusedError(f"it holds a string of {size:,} bytes, which no state dict needs")
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Returns the next line; without its end if that is far, which `pickletools` takes for an error."""
        return super().readline(MAX_ARGUMENT)


@dataclasses.dataclass(frozen=True)
class Global:
    """What stands for a name of Python's.

    Attributes:
      name: module and name.
      call: gives what the name applied to arguments stands for; None if it is never called.
      build: gives what an instance with a certain state stands for; None if there are no instances.
    """

    name: str
    call: Callable[..., Any] | None = None
    build: Callable[[Any], Any] | None = None


class Instance:
    """An object made without arguments, the value of which comes later, as its state."""

    __slots__ = ("kind", "value")

    def __init__(self, kind: Global) -> None:
        self.kind = kind
        self.value: Any = None


class Machine:
    """Runs pickles one after the other; what they may build is bounded for all of them together."""

    def __init__(self, known: Mapping[str, Global], persistent: Callable[[Any], Any]) -> None:
        """Makes a machine.

        Args:
          known: the names that pickles may use, besides those of an ordered dict and a set.
          persistent: gives the object for a persistent id.
        """
        own = {
            "collections.OrderedDict": self._ordered,
            "builtins.set": lambda items=(): items,
            "__builtin__.set": lambda items=(): items,
        }
        self._known = {name: Global(name, call) for name, call in own.items()} | dict(known)
        self._persistent = persistent
        self._spent = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # a stack for each mark
        self._memo: dict[int, Any] = {}

    def run(self, window: Window) -> Any:
        """Returns the object of the pickle at the window's position and leaves the position behind it.

        Raises:
          RefusedError: it does what it may not.
          Exception: of any other kind for a malformed pickle.
        """
        self._stack, self._below, self._memo = [], [], {}  # memo: a list would let a large index allocate
        for opcode, argument, _ in pickletools.genops(window):
            self._charge(PER_OPCODE + (0 if argument is None else sys.getsizeof(argument)))
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            else:
                self._step(opcode.name, argument)
        (result,) = self._stack
        self._stack, self._memo = [], {}
        return result

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[_index(argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self._memo[_index(argument)])
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "EMPTY_DICT":
                stack.append({})
            case (
                "EMPTY_LIST" | "EMPTY_SET"
            ):  # a set is kept as a list: to hash what a file nests could recurse without end
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(opcode[-1]))))
            case "TUPLE":
                items = self._marked()
                self._stack.append(tuple(items))
            case "LIST":
                items = self._marked()
                self._stack.append(items)
            case "DICT":
                items = self._marked()
                self._stack.append({})
                self._set(items)
            case "APPEND" | "APPENDS" | "ADDITEMS":
                self._extend(self._pop(1) if opcode == "APPEND" else self._marked())
            case "SETITEM" | "SETITEMS":
                self._set(self._pop(2) if opcode == "SETITEM" else self._marked())
            case "GLOBAL":
                stack.append(self._find(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                stack.append(self._find(".".join(self._pop(2))))
            case "REDUCE" | "NEWOBJ":
                self._make(opcode, *self._pop(2))
            case "BUILD":
                self._build(*self._pop(1))
            case "BINPERSID":
                stack.append(self._persistent(*self._pop(1)))
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self._marked()
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                if self._below or len(stack) != 1:
                    raise RefusedError("its pickle ends in the middle of an object")
            case _:
                raise RefusedError(f"it uses pickle's opcode {opcode}, which no state dict needs", WEIGHTS_ALONE)

    def _charge(self, amount: int) -> None:
        self._spent += amount
        if self._spent > MAX_OBJECTS:
            raise RefusedError("it holds more objects than any state dict", WEIGHTS_ALONE)

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise RefusedError("its pickle takes more from the stack than there is")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise RefusedError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedError(f"it sets items of a {type(target).__name__}")
        _fill(target, zip(items[::2], items[1::2], strict=True))

    def _find(self, name: str) -> Global:
        if name not in self._known:
            raise RefusedError(f"it needs {shown(name)}, which is code or unknown here, and was not run", WEIGHTS_ALONE)
        return self._known[name]

    def _make(self, opcode: str, kind: Any, arguments: Any) -> None:
        if not isinstance(kind, Global) or type(arguments) is not tuple:
            raise RefusedError(f"it calls a {type(kind).__name__}")
        if opcode == "REDUCE" and kind.call is not None:
            self._stack.append(kind.call(*arguments))
        elif opcode == "NEWOBJ" and kind.build is not None and not arguments:
            self._stack.append(Instance(kind))
        else:
            raise RefusedError(f"it calls {kind.name} in a way which no state dict needs", WEIGHTS_ALONE)

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, Instance) and target.kind.build is not None:
            target.value = target.kind.build(state)
        elif not isinstance(target, OrderedDict):  # the state of which, `_metadata` for one, is dropped
            raise RefusedError(f"it sets the state of a {type(target).__name__}", WEIGHTS_ALONE)

    def _ordered(self, pairs: Any = ()) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()
        self._charge(3 * PER_OPCODE * len(pairs))  # one list can be handed over again and again
        _fill(made, pairs)
        return made


def _index(argument: int) -> int:
    if not 0 <= argument < 2**32:  # larger ones, in text, could be chosen to have one hash
        raise RefusedError("its pickle has an index out of range")
    return argument


def _fill(target: dict[Any, Any], pairs: Any) -> None:
    for key, value in pairs:
        # Tuples nested deeply would overflow the C stack when hashed, and huge numbers may share a hash.
        if not (type(key) is str or (type(key) is int and abs(key) < 2**60)):
            raise RefusedError(f"it has a dict with a key of type {type(key).__name__}", WEIGHTS_ALONE)
        target[key] = value
