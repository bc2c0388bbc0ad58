"""Data sets in folders: one sub-folder per class, or `train`, `val` and `test` with one sub-folder per class each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from transferjax._validate import fail
from transferjax.data import reading
from transferjax.data._checks import SPLITS, checked_dataset
from transferjax.data.image_files import open_files, torn_apart
from transferjax.types import TargetDataset


def load_folder(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int | None = None,
    skip_unreadable: bool = False,
    options: reading.Options = reading.DEFAULTS,
) -> TargetDataset:
    """Opens one split of a folder; pixels are read when they are asked for.

    Class names are the sub-folders' names, sorted. If the folder has a sub-folder `train` which has sub-folders itself,
    then `train`, `val` and `test` are splits, and a class is one that any of them has. Otherwise everything is
    `train`. Files come in sorted order. Hidden files, files without an image's suffix (and that do not begin like
    DICOM) and folders below a class are not read. Images are taken as `reading.read_image` says; each slice or frame of
    a file is an image.

    Args:
      path: the folder.
      split: `"train"`, `"val"` or `"test"`.
      image_size: make every image this high and this wide; see `image_files.open_files`, also for the rest.
      skip_unreadable: leave out what cannot be read, and say so; without, it is an error.
      options: how to read what can be read in several ways.

    Returns:
      The data set, named as the folder is. If files hold several images, those of one file are a group.

    Raises:
      InputError: no such split, a class without enough images or without any for training, or a file that is no image;
        the message names the folder or the file.
    """
    root = Path(path)
    folder, class_names = _classes(root, split)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = _image_files(folder / name)
        if found and folder.name != "train" and folder != root and not _image_files(root / "train" / name):
            remedy = "Add images for training, or remove the folder."
            raise fail(str(folder / name), "is a class that train/ has no image of", remedy)
        files += found
        labels += [label] * len(found)
    others = [root / other for other in splits_of_folder(root) if root / other != folder] if folder != root else []
    opened = open_files(
        str(folder),
        files,
        others=[file for other in others for name in _sub_folders(other) for file in _image_files(other / name)],
        image_size=image_size,
        skip_unreadable=skip_unreadable,
        options=options,
    )
    return checked_dataset(
        str(folder),
        name=root.resolve().name,
        images=opened.images,
        labels=np.array(labels, np.int32)[opened.files],
        class_names=class_names,
        groups=torn_apart(opened.files),
        scored=split == "train",
    )


def splits_of_folder(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns which splits `load_folder` finds there."""
    root = Path(path)
    top = _sub_folders(root)
    has_splits = "train" in top and bool(_sub_folders(root / "train"))
    return tuple(name for name in SPLITS if name in top) if has_splits else ("train",)


def _sub_folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise fail(str(folder), found, "Check the path and its rights.") from error


def _classes(root: Path, split: str) -> tuple[Path, list[str]]:
    """Returns the folder whose sub-folders are the classes of a split, and the names of the classes."""
    top = _sub_folders(root)
    if "train" in top and _sub_folders(root / "train"):
        splits = splits_of_folder(root)
        if split not in splits:
            raise fail(str(root), f"no sub-folder {split!r}", f"Choose a split that it has: {', '.join(splits)}.")
        return root / split, sorted({name for other in splits for name in _sub_folders(root / other)})
    if split != "train":
        remedy = "Use split='train', or put the classes' folders below train/, val/ and test/."
        raise fail(str(root), f"has no splits, so no {split!r}", remedy)
    if not top:
        raise fail(str(root), "has no sub-folders", "Put the images of each class into a sub-folder of its name.")
    return root, top


def _image_files(folder: Path) -> list[Path]:
    """Returns the images of one class, sorted by name; none if its folder is missing (another split has the class)."""
    if not folder.is_dir():
        return []
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise fail(str(folder), found, "Check the path and its rights.") from error
    entries = [entry for entry in entries if not entry.is_dir()]
    files = [entry for entry in entries if reading.is_image_name(entry.name)]
    if not files:  # DICOM files often have no suffix
        files = [entry for entry in entries if reading.is_image_file(entry)]
    if not files:
        others = ", ".join(sorted({entry.suffix or entry.name for entry in entries})[:5])
        raise fail(
            str(folder),
            f"no images in it (only: {others})" if others else "is empty",
            "Add PNG, JPEG, TIFF, DICOM or NIfTI files, or remove the folder.",
        )
    return files
