"""Files that are either whole or not there, and hashes of what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from transferjax._validate import fail


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` when the block ends without an error.

    Whatever goes wrong inside, ctrl-C included, leaves neither the temporary file nor a half-written `path`. The
    temporary name keeps the suffix, since writers such as matplotlib and pandas choose the format by it.

    Raises:
      InputError: the folder cannot be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=f".tmp{path.suffix}")
    except OSError as error:
        raise fail(str(path), f"cannot be written ({error.strerror})", "Choose another folder.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp gives 0600; the result should be as readable as any other file
        temporary.replace(path)
    except OSError as error:  # no space left, or `path` is a folder
        raise fail(
            str(path), f"cannot be written ({error.strerror or error})", "Make room or choose another."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(argument: str, path: str | os.PathLike[str], *, files: Iterable[str] = ()) -> Path:
    """Returns `path` as an existing folder in which a file can be made; raises `InputError` if that is not so.

    Args:
      argument: what the user knows the folder by.
      path: of the folder; made if it is not there.
      files: names that will be written there, and which no folder may have.
    """
    folder = Path(path)
    for name in files:
        if (folder / name).is_dir():
            raise fail(argument, f"{str(folder / name)!r} is a folder", "Move it away or choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise fail(
            argument, f"{str(path)!r} cannot be written ({error.strerror})", "Choose a folder you can write to."
        ) from error
    return folder


def sha256(*chunks: bytes) -> str:
    """Returns the hexadecimal SHA-256 of the chunks, each preceded by its length so that borders count."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the hexadecimal SHA-256 over names, shapes, dtypes and values of arrays, in the order of names."""
    chunks: list[bytes] = []
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        chunks += [f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()]
    return sha256(*chunks)
