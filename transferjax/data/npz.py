"""Data sets in MedMNIST's layout: one `.npz` with `<split>_images` and `<split>_labels` for each split."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from transferjax._validate import fail, reason
from transferjax.data._checks import (
    SPLITS,
    checked_dataset,
    class_indices,
    has_columns,
    in_range,
    label_sets,
    not_one_hot,
    one_name_per_label,
)
from transferjax.types import TargetDataset

_RESAVE = "Save it again with numpy.savez_compressed."
# What numpy and zipfile raise on damaged input; MemoryError: a damaged header that claims a huge array.
_DAMAGED = (ValueError, OSError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def load_npz(path: str | os.PathLike[str], *, split: str = "train", scored: bool | None = None) -> TargetDataset:
    """Loads one split of a `.npz` file; nothing in it is ever unpickled.

    Args:
      path: a file with the arrays `<split>_images`, uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3], and
        `<split>_labels`, whole numbers [n] or [n, 1]; optionally `class_names`, unicode [c]. Without them the number
        of classes is one more than the biggest label of all splits. Labels [n, c] with several columns are those of a
        multi-label target, one column per label: 0, 1, and -1 for a missing one. If every example of every split has
        exactly one of them, they are classes in one-hot code and refused, since they would be scored as labels.
      split: `"train"`, `"val"` or `"test"`.
      scored: see `transferjax.data.load`.

    Returns:
      The data set, named as the file is.

    Raises:
      InputError: the file, an array or a value cannot be used; the message names it.
    """
    path = Path(path)
    wanted = (f"{split}_images", f"{split}_labels")
    with _opened(path) as file:
        missing = [name for name in wanted if name not in file.files]
        if missing:
            have = ", ".join(file.files) or "nothing"
            raise fail(str(path), f"no array {' and no '.join(missing)} (it has: {have})", _missing_remedy(file.files))
        images = _array(file, path, wanted[0])
        arrays = {}
        for name in dict.fromkeys((wanted[1], *(f"{other}_labels" for other in SPLITS))):
            if name in file.files:
                array = _array(file, path, name)
                if array.size or name == wanted[1]:  # another split may be empty
                    arrays[name] = array
        multilabel = has_columns(arrays[wanted[1]])
        checked = label_sets if multilabel else class_indices
        labels = {name: checked(f"{path}, {name}", array) for name, array in arrays.items()}
        class_names = _class_names(file, path, labels)
    named = one_name_per_label if multilabel else in_range
    for name, array in labels.items():
        named(f"{path}, {name}", array, class_names)
    if multilabel:
        not_one_hot({f"{path}, {name}": array for name, array in labels.items()})
    return checked_dataset(
        str(path),
        name=path.stem,
        images=images,
        labels=labels[wanted[1]],
        class_names=class_names,
        task="multilabel" if multilabel else "multiclass",
        scored=split == "train" if scored is None else scored,
        arrays=wanted,
    )


def splits_of_npz(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns which splits `load_npz` finds there: those with images and labels, and not empty."""
    path = Path(path)
    with _opened(path) as file:
        return tuple(split for split in _whole_splits(file.files) if _array(file, path, f"{split}_labels").size)


def _whole_splits(arrays: list[str]) -> tuple[str, ...]:
    return tuple(split for split in SPLITS if {f"{split}_images", f"{split}_labels"} <= set(arrays))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Yields the open file; raises `InputError` if it is none that NumPy wrote."""
    try:
        handle = path.open("rb")
    except OSError as error:
        raise fail(str(path), f"cannot be read ({error.strerror})", "Check the path and its rights.") from error
    with handle:
        if not zipfile.is_zipfile(handle):
            raise fail(str(path), "is truncated or no .npz file", _RESAVE)
        handle.seek(0)
        try:
            file = np.load(handle, allow_pickle=False)
        except _DAMAGED as error:
            raise fail(str(path), f"is truncated or damaged ({reason(error)})", _RESAVE) from error
        with file:
            yield file


def _array(file: np.lib.npyio.NpzFile, path: Path, name: str) -> np.ndarray:
    """Returns one array of the file."""
    try:
        array = file[name]
    except _DAMAGED as error:
        if "Object arrays" in str(error):
            remedy = "Pickled objects are never loaded; save a plain array, text with dtype=str."
            raise fail(f"{path}, {name}", "holds Python objects", remedy) from error
        found = f"is truncated or damaged ({reason(error)})"
        raise fail(f"{path}, {name}", found, _RESAVE) from error
    if not isinstance(array, np.ndarray):
        raise fail(f"{path}, {name}", "is no array", _RESAVE)
    return array


def _class_names(file: np.lib.npyio.NpzFile, path: Path, labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the names in the file, or the numbers of the classes or columns if it has none."""
    if "class_names" in file.files:
        names = _array(file, path, "class_names")
        if names.dtype.kind != "U" or names.ndim != 1 or len(set(names)) != len(names) or not len(names):
            found = f"{names.dtype}, shape {list(names.shape)}, {len(np.unique(names))} different"
            remedy = "Give one text per class, all different: numpy.array([...], dtype=str)."
            raise fail(f"{path}, class_names", found, remedy)
        return tuple(str(name) for name in names)
    columns = next(iter(labels.values())).shape[1:]  # none for classes
    if columns:
        return tuple(str(number) for number in range(columns[0]))
    array, biggest = max(((name, int(values.max())) for name, values in labels.items()), key=lambda pair: pair[1])
    if biggest >= sum(len(values) for values in labels.values()):
        found = f"{biggest} is bigger than the number of examples"
        raise fail(f"{path}, {array}", found, "Number the classes 0..c-1 without gaps.")
    return tuple(str(number) for number in range(biggest + 1))


def _missing_remedy(arrays: list[str]) -> str:
    """Says what to do about missing arrays: ask for another split if one is whole, or rename them."""
    if splits := _whole_splits(arrays):
        return f"Choose a split that it has: {', '.join(splits)}."
    return "Name the arrays as MedMNIST does: train_images and train_labels, likewise val_ and test_."
