"""Arrays of a `.npz` file one row at a time, however large they are; nothing in it is ever unpickled."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from transferjax._validate import InputError, fail, reason

_AGAIN = "Download or copy it again; if you made it, save it again with numpy.savez_compressed."
# What zipfile and NumPy raise on damaged input.
_DAMAGED = (ValueError, OSError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Header:
    """What an array is said to be before its values are read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


def headers(path: Path) -> dict[str, Header]:
    """Returns name → head of all arrays of a file, without reading their values.

    Raises:
      InputError: there is no such file, it is no `.npz`, truncated, or has something else than arrays of numbers.
    """
    with _damage_told(path), zipfile.ZipFile(path) as file:
        found = {}
        for member in file.namelist():
            with file.open(member) as stream:
                found[member.removesuffix(".npy")] = _header(f"{path}, {member}", stream)
        return found


def rows(path: Path, name: str) -> Iterator[np.ndarray]:
    """Yields `array[0]`, `array[1]`, ... of one array, of which only a row is in memory.

    Rows are read-only. After the last one the array's checksum is compared: exhaust the iterator.

    Raises:
      InputError: the file is truncated or damaged; perhaps only after many rows.
    """
    with _damage_told(path, name), zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as stream:
        header = _header(f"{path}, {name}", stream)
        if header.fortran and len(header.shape) > 1:
            raise fail(f"{path}, {name}", "is in Fortran order", "Save numpy.ascontiguousarray(array).")
        shape = header.shape[1:]
        for data in _pieces(f"{path}, {name}", stream, header.shape[0], header.dtype.itemsize * math.prod(shape)):
            yield np.frombuffer(data, header.dtype).reshape(shape)


def whole(path: Path, name: str) -> np.ndarray:
    """Returns one array, all of it, read-only: for small ones. Raises as `rows` does."""
    with _damage_told(path, name), zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as stream:
        header = _header(f"{path}, {name}", stream)
        (data,) = _pieces(f"{path}, {name}", stream, 1, header.dtype.itemsize * math.prod(header.shape))
        return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _pieces(argument: str, stream: IO[bytes], count: int, size: int) -> Iterator[bytes]:
    """Yields what is left of an array in pieces of a size; there must be no more and no less."""
    for number in range(count):
        data = stream.read(size)
        if len(data) < size:
            raise fail(argument, f"ends in part {number} of {count}", _AGAIN)
        yield data
    if stream.read(1):  # at the end zipfile compares the checksum
        raise fail(argument, "has more values than its head says", _AGAIN)


def _header(argument: str, stream: IO[bytes]) -> Header:
    """Reads the head of an array; the stream is then at its first value."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:  # of a third version are only structured arrays; its head fails here, as it should
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.kind not in "biuf" or not shape:
        found = "holds a single number" if dtype.kind in "biuf" else f"holds {dtype}, not numbers"
        raise fail(argument, found, "Save plain arrays of numbers.")
    return Header(shape, dtype, fortran)


@contextlib.contextmanager
def _damage_told(path: Path, name: str = "") -> Iterator[None]:
    """Makes one message of what goes wrong while a file is read."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise fail(str(path), "is not there", "Check the path.") from error
    except _DAMAGED as error:
        found = f"is truncated or damaged ({reason(error)})"
        raise fail(f"{path}, {name}" if name else str(path), found, _AGAIN) from error
