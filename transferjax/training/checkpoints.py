"""Checkpoints by Orbax: written beside the training, whole or not there, and read back to the bit."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transferjax._files import hash_arrays, writable_folder
from transferjax._validate import InputError, fail

_SPARE = 2**20  # bytes that a checkpoint takes besides its arrays, at most
_DIGEST = "sha256"
_FULL = ("no space left on device", "disk quota exceeded", "file too large")


class Checkpoints:
    """The last good checkpoints of one population, in a folder of its own.

    A checkpoint is written into a temporary folder and renamed when all of it is there; only then the one before is
    removed. So whenever the process is killed the folder holds a whole one, or none before the first.
    """

    def __init__(self, folder: str | os.PathLike[str], *, seconds: float = 60.0) -> None:
        """Opens a folder; half-written checkpoints of a killed process are removed from it.

        Args:
          folder: made if it is not there.
          seconds: `due` says so when the last checkpoint was begun so long ago.

        Raises:
          InputError: the folder cannot be written.
        """
        import orbax.checkpoint as ocp  # takes two seconds

        self._ocp = ocp
        self._folder = writable_folder("workdir", folder).resolve()
        self._seconds, self._begun = seconds, time.monotonic()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=True, cleanup_tmp_directories=True, save_root_metadata=False
        )
        self._quiet = _OrbaxIsQuiet()
        logging.getLogger("absl").addFilter(self._quiet)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def due(self) -> bool:
        """Returns whether it is time for another."""
        return time.monotonic() - self._begun >= self._seconds

    def save(self, epoch: int, tree: Any) -> None:
        """Begins to write a checkpoint; the arrays may change as soon as this returns.

        Args:
          epoch: how many epochs are done.
          tree: of arrays.

        Raises:
          InputError: there is no room for it, or was none for the one before, which was written meanwhile. The last
            good one stays.
        """
        arrays = {name: np.array(leaf) for name, leaf in _flat(tree).items()}  # copies: the others may change
        arrays[_DIGEST] = _digest(arrays)
        needed = sum(array.nbytes for array in arrays.values()) + _SPARE
        self.wait()
        if (free := shutil.disk_usage(self._folder).free) < needed:
            raise self._full(f"{free / 2**20:,.0f} MiB are free, a checkpoint takes {needed / 2**20:,.0f}")
        self._begun = time.monotonic()
        self._guarded(lambda: self._manager.save(epoch, args=self._ocp.args.StandardSave(arrays), force=True))

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is there.

        Raises:
          InputError: it could not be written; the last good one stays.
        """
        self._guarded(self._manager.wait_until_finished)

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Returns the last checkpoint: how many epochs are done, and a tree of NumPy arrays; None if there is none.

        Args:
          like: a tree of the structure, shapes and dtypes that were saved.

        Raises:
          InputError: it is damaged, or of another structure.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            return None
        wanted = _flat(like)
        empty = {name: np.empty(np.shape(leaf), np.asarray(leaf).dtype) for name, leaf in wanted.items()}
        empty[_DIGEST] = np.empty(32, np.uint8)
        try:
            arrays = self._manager.restore(epoch, args=self._ocp.args.StandardRestore(empty))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._unreadable(epoch, _line(error)) from error
        digest = arrays.pop(_DIGEST)
        if not np.array_equal(digest, _digest(arrays)):
            raise self._unreadable(epoch, "it is damaged")
        for name, leaf in wanted.items():  # Orbax takes others without a word
            if arrays[name].shape != np.shape(leaf) or arrays[name].dtype != np.asarray(leaf).dtype:
                raise self._unreadable(epoch, f"{name} has shape {arrays[name].shape}")
        leaves = [np.asarray(arrays[name]) for name in wanted]
        return epoch, jax.tree.unflatten(jax.tree.structure(like), leaves)

    def close(self) -> None:
        """Waits, and ends Orbax's threads."""
        try:
            self.wait()
            self._manager.close()
        finally:
            logging.getLogger("absl").removeFilter(self._quiet)

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:
            for half in self._folder.glob("*orbax-checkpoint-tmp*"):
                shutil.rmtree(half, ignore_errors=True)
            text = str(error).lower()
            if reason := next((words for words in _FULL if words in text), None):
                raise self._full(reason) from error
            raise

    def _unreadable(self, epoch: int, why: str) -> InputError:
        found = f"the checkpoint of epoch {epoch} cannot be read ({why})"
        return fail(str(self._folder), found, "Remove this folder to start anew.")

    def _full(self, found: str) -> InputError:
        done = max((int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()), default=None)
        kept = f"the checkpoint after {done} epochs is kept" if done is not None else "there is no checkpoint yet"
        return fail(str(self._folder), f"cannot be written ({found}); {kept}", "Make room and run the same again.")


class _OrbaxIsQuiet(logging.Filter):
    """Orbax logs each failure several times, with tracebacks of its threads, and then raises it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname


def _flat(tree: Any) -> Mapping[str, Any]:
    """Returns path → leaf, in the order of leaves."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(hash_arrays(arrays)), np.uint8)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def folder_of(root: str | os.PathLike[str], key: str) -> Path:
    """Returns where the checkpoints of what has this hash are."""
    return Path(root) / key[:20]
