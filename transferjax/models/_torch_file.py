"""State dicts out of PyTorch's checkpoints, without torch and without running what a checkpoint says.

A checkpoint is a pickle with the numbers beside it, in a zip archive (since PyTorch 1.6) or one after the other in a
file (before). Both are read in three steps: the pickle is interpreted, which gives tensors as (storage, offset, size,
stride); the state dict is found; the storages of its tensors are read.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transferjax._validate import fail
from transferjax.models._pickle_machine import WEIGHTS_ALONE, Global, Instance, Machine, RefusedError, Window, shown

WRAPPERS = ("state_dict", "model_state_dict", "net", "model")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.")
HEADS = ("fc.", "classifier.", "head.")
MAX_UNWRAPPED = 3
MAX_STRIPPED = 8

MAX_PICKLE = 2**24  # bytes; ResNet-152's takes 100,000
MAX_TENSORS = 10_000
MAX_NAMES = 2**20  # characters of all tensors' names
MAX_DIRECTORY = 2**20  # bytes of a zip archive's list of entries; zipfile takes ten for each
MAX_DIMENSIONS = 32
MAX_EXPANDED = 2**20  # elements that a tensor may have if its storage has fewer
CHUNK = 2**20  # bytes

AGAIN = "Load it with PyTorch and save the state dict again."
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_STORED = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
_STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _STORED.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """Numbers in the file: `length` of those that are stored under `key`, from `start` on."""

    key: str
    dtype: np.dtype
    start: int
    length: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_Totals = dict[str, tuple[np.dtype, int]]  # a storage's key → its dtype and how many numbers it has


def read_torch(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads the state dict of a checkpoint that `torch.save` wrote, in its present or its earlier format.

    Nothing in the file is run. Names of Python's other than those of tensors and containers are refused, so a whole
    pickled model is too. Reading allocates at most the file's size and 64 MB.

    The state dict is looked for in the top object: while that has a dict under "state_dict", "model_state_dict", "net"
    or "model", the first of them takes its place, three times at most. Of these dicts the innermost with tensors under
    string keys is taken. From its names "module.", "_orig_mod.", "backbone.", "model." or "encoder." is removed if all
    begin with it, again and again; "backbone." also if only those that begin with "fc.", "classifier." or "head." do
    not, which stay as they are.

    Args:
      path: of the file.

    Returns:
      The tensors by name, in the file's order: read-only views of the storages, so that tied ones share memory;
      bfloat16 is that of ml_dtypes. And the names, as in the file, of the entries that are no tensors, left out.

    Raises:
      InputError: the file is damaged, is no such checkpoint, needs code, or claims more than it holds.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise RefusedError("there is no such file", "Check the path.")
        with _File(io.FileIO(path)) as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except RefusedError as error:
        raise fail(str(path), error.found, error.remedy) from error
    except Exception as error:  # a stranger's bytes can fail anywhere in zipfile, pickletools and NumPy
        found = f"it cannot be read as a PyTorch checkpoint ({type(error).__name__}: {shown(error)})"
        raise fail(str(path), found, "Get or write the file again.") from error


class _File(io.BufferedReader):
    """A file of which no large piece is read in one go, as the list of a zip archive's entries would be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise RefusedError(f"the list of its archive's entries takes {size:,} bytes, more than any state dict's")
        return super().read(size)


def _read(file: _File, size: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    start = file.read(512)
    file.seek(0)
    if start[257:262] == b"ustar":
        raise RefusedError("it is a tar archive, PyTorch's first format", AGAIN)
    totals: _Totals = {}
    machine = Machine(_known(), functools.partial(_storage, totals, size))
    opened = (_Zip if start.startswith(b"PK\x03\x04") else _Legacy)(file, size)
    tensors, left_out = _state_dict(opened.top(machine))
    stored = opened.storages(totals, {tensor.storage.key for tensor in tensors.values()})
    for key, array in stored.items():
        dtype = totals[key][0]
        if opened.byteorder != sys.byteorder:
            array.view(f"u{dtype.itemsize}").byteswap(inplace=True)
        if dtype.kind == "b" and array.max(initial=0) > 1:
            raise RefusedError(f"it has a boolean in storage {shown(key)} that is neither 0 nor 1")
        array.flags.writeable = False
    return {name: _view(tensor, stored[tensor.storage.key]) for name, tensor in tensors.items()}, left_out


# What the pickle's names stand for.


def _known() -> dict[str, Global]:
    """Returns what stands for the names that state dicts use."""
    known = [
        Global("torch._utils._rebuild_tensor", _tensor),
        Global("torch._utils._rebuild_tensor_v2", _tensor),
        Global("torch._utils._rebuild_parameter", lambda data, *_: _is_tensor(data)),
        Global("torch.nn.parameter.Parameter", build=lambda state: _is_tensor(state[0])),  # PyTorch 0.1 to 0.3
        Global("torch.Size", lambda size: size),
        Global("torch.device", lambda *_: None),
    ]
    known += [Global(name) for name in _STORAGES]
    known += [Global(f"torch.{name}Tensor", build=lambda state: _tensor(*state)) for name in _STORED]
    known += [Global(f"torch.{dtype.name}") for dtype in _STORAGES.values()]
    return {entry.name: entry for entry in known}


def _is_tensor(value: Any) -> _Tensor:
    value = value.value if isinstance(value, Instance) else value
    if not isinstance(value, _Tensor):
        raise RefusedError(f"it has a parameter that is a {type(value).__name__}")
    return value


def _counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """Returns a tensor that lies within its storage."""
    if not (isinstance(storage, _Storage) and type(size) is tuple and type(stride) is tuple and _counts(offset)):
        raise RefusedError("it has a tensor whose description is malformed")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS or not _counts(*size, *stride):
        raise RefusedError("it has a tensor whose shape or strides are malformed")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    if count and last >= storage.length:
        raise RefusedError(f"it has a tensor that ends beyond its {storage.length:,} numbers")
    if count > max(storage.length, MAX_EXPANDED):
        raise RefusedError("it has a tensor that repeats few numbers very often")
    return _Tensor(storage, offset, size, stride)


def _storage(totals: _Totals, size: int, identity: Any) -> _Storage:
    """Returns the storage for a persistent id and notes its dtype and length in `totals`."""
    fine = type(identity) is tuple and len(identity) in (5, 6) and identity[0] == "storage"
    described: Any = identity[1:5] if fine else (None,) * 4
    kind, key, _, total = described
    view = identity[5] if fine and len(identity) == 6 else None
    if not (isinstance(kind, Global) and kind.name in _STORAGES and type(key) is str and _counts(total)):
        raise RefusedError("it has a storage whose description is malformed")
    dtype = _STORAGES[kind.name]
    if total * dtype.itemsize > size:
        raise RefusedError(f"it claims {total:,} numbers in storage {shown(key)} but has {size:,} bytes altogether")
    if totals.setdefault(key, (dtype, total)) != (dtype, total):
        raise RefusedError(f"it describes storage {shown(key)} in two ways")
    if view is None:
        return _Storage(key, dtype, 0, total)
    if type(view) is not tuple or len(view) != 3 or not _counts(*view[1:]) or view[1] + view[2] > total:
        raise RefusedError(f"it has a malformed view of storage {shown(key)}")
    return _Storage(key, dtype, view[1], view[2])


def _view(tensor: _Tensor, stored: np.ndarray) -> np.ndarray:
    """Returns a tensor as a view of the bytes of its storage; NumPy checks once more that it lies within."""
    storage, width = tensor.storage, tensor.storage.dtype.itemsize
    if 0 in tensor.size:
        return np.ndarray(tensor.size, storage.dtype, buffer=stored[:0])
    strides = [step * width if n > 1 else 0 for n, step in zip(tensor.size, tensor.stride, strict=True)]
    start = (storage.start + tensor.offset) * width
    return np.ndarray(tensor.size, storage.dtype, buffer=stored, offset=start, strides=strides)


# The two formats.


def _take(stream: Any, count: int) -> np.ndarray:
    """Returns the stream's next `count` bytes, which the caller knows to be there."""
    taken = np.empty(count, np.uint8)
    view, done = taken.data, 0
    while done < count:
        step = stream.readinto(view[done : done + CHUNK])
        if not step:
            raise RefusedError("it ends too early")
        done += step
    return taken


class _Zip:
    """The archive: <name>/data.pkl, and the numbers of storage "0" in <name>/data/0, nothing compressed."""

    def __init__(self, file: _File, size: int) -> None:
        self._archive = zipfile.ZipFile(file)
        self._room = size  # bytes that may still be read; entries can overlap
        self._entries = {info.orig_filename: info for info in self._archive.infolist()}
        if len(self._entries) != len(self._archive.infolist()):
            raise RefusedError("its archive has two entries of one name")
        for name in self._entries:
            if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
                raise RefusedError(f"its archive has an entry {shown(name)}, which is no name of PyTorch's")
        folders = [name[: -len("data.pkl")] for name in self._entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(folders) != 1:
            raise RefusedError("it is a zip archive but no PyTorch checkpoint, which has one data.pkl")
        self._folder = folders[0]
        self.byteorder = "little"
        if f"{self._folder}byteorder" in self._entries:
            self.byteorder = self._take(f"{self._folder}byteorder").tobytes().decode()
        else:  # as before PyTorch 2.1, or its name is damaged: opening compares each with the name before the content
            for info in self._entries.values():
                self._archive.open(info).close()
        if self.byteorder not in ("little", "big"):
            raise RefusedError(f"its byte order is {shown(self.byteorder)}")

    def _take(self, name: str, count: int | None = None) -> np.ndarray:
        if name not in self._entries:
            raise RefusedError(f"its archive has no entry {shown(name)}")
        info = self._entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise RefusedError(f"its entry {shown(name)} is compressed, which PyTorch never does")
        if count is None and info.file_size > MAX_PICKLE:
            raise RefusedError(f"its entry {shown(name)} has {info.file_size:,} bytes, more than any state dict's")
        if count not in (None, info.file_size):
            raise RefusedError(f"its entry {shown(name)} has {info.file_size:,} bytes instead of {count:,}")
        self._room -= info.file_size
        if self._room < 0:
            raise RefusedError("its entries claim more bytes than it has altogether")
        with self._archive.open(info) as stream:  # raises if the CRC is another once all was read
            return _take(stream, info.file_size)

    def top(self, machine: Machine) -> Any:
        """Returns the object that was saved."""
        return machine.run(Window(self._take(f"{self._folder}data.pkl").data))

    def storages(self, totals: _Totals, keys: set[str]) -> dict[str, np.ndarray]:
        """Returns the bytes of the storages by key."""
        sizes = {key: totals[key][1] * totals[key][0].itemsize for key in keys}
        return {key: self._take(f"{self._folder}data/{key}", size) for key, size in sizes.items()}


class _Legacy:
    """Pickles of a magic number, a version, facts on the machine, the object and the keys; then the storages."""

    byteorder = "little"  # on every machine

    def __init__(self, file: _File, size: int) -> None:
        self._file, self._size = file, size
        self._keys: list[str] = []
        self._start = 0

    def top(self, machine: Machine) -> Any:
        """Returns the object that was saved."""
        window = Window(_take(self._file, min(self._size, MAX_PICKLE)).data)
        if machine.run(window) != MAGIC:
            raise RefusedError("it is in neither of PyTorch's formats", "Give a file that torch.save wrote.")
        if machine.run(window) != PROTOCOL or not isinstance(machine.run(window), dict):
            raise RefusedError("its format has another version", AGAIN)
        top, self._keys = machine.run(window), machine.run(window)
        if type(self._keys) is not list or any(type(key) is not str for key in self._keys):
            raise RefusedError("its list of storages is malformed")
        self._start = window.tell()
        return top

    def storages(self, totals: _Totals, keys: set[str]) -> dict[str, np.ndarray]:
        """Returns the bytes of the storages by key."""
        stored, position = {}, self._start
        for key in self._keys:
            if key not in totals or key in stored:
                raise RefusedError(f"its list of storages has {shown(key)} wrongly")
            dtype, total = totals[key]
            self._file.seek(position)
            if int.from_bytes(self._file.read(8), "little") != total:
                raise RefusedError(f"its storage {shown(key)} has not the {total:,} numbers that it should have")
            count = total * dtype.itemsize
            position += 8 + count
            if position > self._size:
                raise RefusedError("it ends too early")
            if key in keys:
                stored[key] = _take(self._file, count)
        if position != self._size:
            raise RefusedError(f"it goes on for {self._size - position:,} bytes after its end")
        if missing := keys - stored.keys():
            raise RefusedError(f"it has no storage {shown(min(missing))}")
        return stored


# The state dict.


def _state_dict(top: Any) -> tuple[dict[str, _Tensor], tuple[str, ...]]:
    """Finds the state dict; returns its tensors, and the names of its other entries."""
    levels = [top]
    for _ in range(MAX_UNWRAPPED):
        outer = levels[-1] if isinstance(levels[-1], dict) else {}
        levels += [outer[name] for name in WRAPPERS if isinstance(outer.get(name), dict)][:1]
    for level in reversed(levels):
        tensors = {}
        for key, value in level.items() if isinstance(level, dict) else ():
            tensor = value.value if isinstance(value, Instance) else value
            if type(key) is str and isinstance(tensor, _Tensor):
                tensors[key] = tensor
        if tensors:
            break
    else:
        keys = ", ".join(shown(key) for key in list(top)[:8]) if isinstance(top, dict) else ""
        found = f"it has no tensors by name, but a {type(top).__name__}{keys and ' of ' + keys}"
        raise RefusedError(found, WEIGHTS_ALONE)
    if len(tensors) > MAX_TENSORS or sum(map(len, tensors)) > MAX_NAMES:
        raise RefusedError(f"it has {len(tensors):,} tensors, more than any network here, or they have very long names")
    return _stripped(tensors), tuple(str(key) for key in level if key not in tensors)


def _stripped(tensors: dict[str, _Tensor]) -> dict[str, _Tensor]:
    """Returns the tensors without what wrappers put before their names."""
    for _ in range(MAX_STRIPPED):
        for prefix in PREFIXES:
            others = [name for name in tensors if not name.startswith(prefix)]
            own_head = prefix == "backbone." and all(name.startswith(HEADS) for name in others)
            if len(others) < len(tensors) and (own_head or not others):
                break
        else:
            break
        names = [name.removeprefix(prefix) for name in tensors]
        if len(set(names)) < len(names):
            raise RefusedError(f"it has names that are the same without {prefix!r}", WEIGHTS_ALONE)
        tensors = dict(zip(names, tensors.values(), strict=True))
    return tensors
