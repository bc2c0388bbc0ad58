"""RadImageNet as its owners hand it out: a folder of images and three lists in CSV."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from transferjax._files import sha256
from transferjax._lazy import LazyImages
from transferjax._validate import fail, one_of, positive, reason
from transferjax.data._checks import SPLITS
from transferjax.data.reading import read_image
from transferjax.types import TargetDataset, Task

NUM_CLASSES = 165
_COLUMNS = ("filename", "label")


def open_radimagenet(
    folder: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int = 224,
    num_classes: int | None = NUM_CLASSES,
) -> TargetDataset:
    """Opens one split of RadImageNet; its images stay in their files until they are asked for.

    The lists are `RadiologyAI_train.csv`, `RadiologyAI_val.csv` and `RadiologyAI_test.csv`, in the folder or in its
    sub-folder `RadImageNet_split`. Their columns `filename` and `label` are read, others are not looked at. File names
    are relative to the folder or, if there is one, to its sub-folder `RadImageNet_data`. Classes are the labels of the
    list for training, sorted; a class's number is its place there, in all splits.

    Args:
      folder: where it is.
      split: `"train"`, `"val"` or `"test"`.
      image_size: make every image this high and this wide: bilinear, antialiased.
      num_classes: how many classes there have to be; None for any number, for a part of it.

    Returns:
      The data set: lazy images uint8 [n, image_size, image_size, 3], grey repeated to three channels, and labels
      int32 [n], in the order of the list.

    Raises:
      InputError: a list or an image is not there, a list has not these columns or a row without a value, a class is not
        in the list for training, or there is another number of classes; the message names the file and the first case.

    References:
      Mei et al., 2022. RadImageNet: an open radiologic deep learning research dataset for effective transfer learning.
      https://doi.org/10.1148/ryai.210315
    """
    one_of("split", split, SPLITS)
    positive("image_size", image_size)
    root = Path(folder)
    names, labels, class_names = _listed(root, split, num_classes)
    images = root / "RadImageNet_data" if (root / "RadImageNet_data").is_dir() else root
    _all_there(_list_path(root, split), images, names)

    def read(number: int) -> np.ndarray:
        return read_image(images / names[number], image_size=image_size)

    def fingerprint(number: int) -> bytes:
        path = images / names[number]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise fail(str(path), f"cannot be read ({error.strerror})", "Check the file and its rights.") from error
        return bytes.fromhex(sha256(str(image_size).encode(), content))

    lazy = LazyImages(read, rows=np.arange(len(names)), size=(image_size, image_size), fingerprint=fingerprint)
    task: Task = "binary" if len(class_names) == 2 else "multiclass"
    return TargetDataset(name="radimagenet", images=lazy, labels=labels, class_names=class_names, task=task)


def _list_path(root: Path, split: str) -> Path:
    """Returns where the list of a split is."""
    name = f"RadiologyAI_{split}.csv"
    for path in (root / name, root / "RadImageNet_split" / name):
        if path.is_file():
            return path
    remedy = "Give the folder that has RadImageNet's three lists, or a sub-folder RadImageNet_split with them."
    raise fail(str(root), f"no {name} in it" if root.is_dir() else "is no folder", remedy)


def _listed(root: Path, split: str, num_classes: int | None) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Returns file names, labels int32 [n], and the names of the classes."""
    train = _read_list(_list_path(root, "train"))
    class_names = tuple(sorted(set(train["label"])))
    if num_classes is not None and len(class_names) != num_classes:
        found = f"{len(class_names)} classes instead of {num_classes}"
        remedy = "Take the whole list; for a part of it give num_classes=None."
        raise fail(str(_list_path(root, "train")), found, remedy)
    rows = train if split == "train" else _read_list(_list_path(root, split))
    labels = pd.Index(class_names).get_indexer(rows["label"]).astype(np.int32)
    if (labels < 0).any():
        unknown = sorted(set(rows["label"]) - set(class_names))
        found = f"classes that the list for training has not: {len(unknown)} (first: {unknown[0]!r})"
        raise fail(str(_list_path(root, split)), found, "Take all lists from one release.")
    return rows["filename"].tolist(), labels, class_names


def _read_list(path: Path) -> pd.DataFrame:
    """Returns a list's columns `filename` and `label` as texts, none of them empty."""
    try:  # no text means a missing value: a class may be called "NA" or "None"
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # ValueError: what pandas raises on damaged or empty files
        remedy = "Take the list from RadImageNet's release."
        raise fail(str(path), f"cannot be read ({reason(error)})", remedy) from error
    missing = [column for column in _COLUMNS if column not in rows]
    if missing:
        have = ", ".join(map(str, rows.columns)) or "none"
        raise fail(str(path), f"no column {' and no '.join(missing)} (it has: {have})", "Name them filename and label.")
    if rows.empty:
        raise fail(str(path), "has no rows", "Take the list from RadImageNet's release.")
    rows = rows[list(_COLUMNS)]
    for column in _COLUMNS:
        empty = rows[column].str.strip() == ""
        if empty.any():
            row = int(np.argmax(empty)) + 2  # counted from 1, after the header
            raise fail(str(path), f"no {column} in line {row}", "Correct or remove the line.")
    return rows


def _all_there(list_path: Path, images: Path, names: list[str]) -> None:
    """Raises `InputError` if a listed file is not there; folders are listed once each, there are a million files."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, _, file = name.rpartition("/")
        if parent not in present:
            try:
                present[parent] = set(os.listdir(images / parent))
            except OSError:
                present[parent] = set()
        if file not in present[parent]:
            missing.append(name)
    if missing:
        found = f"{len(missing)} of {len(names)} listed images are not in {images} (first: {missing[0]})"
        raise fail(str(list_path), found, "Unpack all of RadImageNet's images there.")
