"""Data sets in folders: one sub-folder per class, or `train`, `val` and `test` with one sub-folder per class each."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
from absl import logging

from transferjax._validate import InputError, fail
from transferjax.data import reading
from transferjax.data._checks import SPLIT_OF, SPLITS, checked_dataset
from transferjax.data.image_files import files_as_groups, open_files
from transferjax.types import TargetDataset

_LISTED = 5


def load_folder(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int | None = None,
    skip_unreadable: bool = False,
    options: reading.Options = reading.DEFAULTS,
    scored: bool | None = None,
) -> TargetDataset:
    """Opens one split of a folder; pixels are read when they are asked for.

    Class names are the sub-folders' names, sorted. If the folder has a sub-folder `train` which has sub-folders itself,
    then `train`, `val` and `test` are splits (or `validation`, `Test` and the like), and a class is one that any of
    them has. Otherwise everything is `train`. Files come in sorted order. Hidden files, files with another suffix than
    an image's (those without one are read if they begin like DICOM) and folders below a class are not read. Images are
    taken as `reading.read_image` says; each slice or frame of a file is an image.

    Args:
      path: the folder.
      split: `"train"`, `"val"` or `"test"`.
      image_size: make every image this high and this wide; see `image_files.open_files`, also for the rest.
      skip_unreadable: leave out what cannot be read, and say so; without, it is an error.
      options: how to read what can be read in several ways.
      scored: see `transferjax.data.load`.

    Returns:
      The data set, named as the folder is. If files hold several images, those of one file are a group.

    Raises:
      InputError: no such split, a class without enough images or without any for training, or a file that is no image;
        the message names the folder or the file.
    """
    root = Path(path)
    folders, class_names = _classes(root, split)
    image_files = functools.partial(_image_files, skip_unreadable=skip_unreadable)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = image_files(folders[split] / name)
        if found and scored is not False and split != "train" and not image_files(folders["train"] / name):
            remedy = "Add images for training, or remove the folder."
            raise fail(str(folders[split] / name), f"is a class that {folders['train'].name}/ has no image of", remedy)
        files += found
        labels += [label] * len(found)
    others = {
        other: [file for name in _sub_folders(folder) for file in image_files(folder / name)]
        for other, folder in folders.items()
        if other != split
    }
    opened = open_files(
        str(folders[split]),
        files,
        others=[file for found in others.values() for file in found],
        image_size=image_size,
        skip_unreadable=skip_unreadable,
        options=options,
    )
    before = sum(len(others[name]) for name in SPLITS[: SPLITS.index(split)] if name in others)
    return checked_dataset(
        str(folders[split]),
        name=root.resolve().name,
        images=opened.images,
        labels=np.array(labels, np.int32)[opened.files],
        class_names=class_names,
        groups=files_as_groups(opened.files, before + np.arange(len(files))),
        scored=split == "train" if scored is None else scored,
    )


def splits_of_folder(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns which splits `load_folder` finds there."""
    return tuple(name for name in SPLITS if name in _split_folders(Path(path))) or ("train",)


def _split_folders(root: Path) -> dict[str, Path]:
    """Returns split → its folder, if one of them is for training and has folders itself; else nothing."""
    top = _sub_folders(root)
    found: dict[str, Path] = {}
    for name in top:
        if (split := SPLIT_OF.get(name.lower())) is None:
            continue
        if split in found:
            remedy = "Merge them, or move one away."
            raise fail(str(root), f"{found[split].name!r} and {name!r} would both be {split!r}", remedy)
        found[split] = root / name
    if "train" not in found or not _sub_folders(found["train"]):
        return {}
    if left := [name for name in top if root / name not in found.values()]:
        logging.warning("%s: not read, since beside %s: %s", root, found["train"].name, ", ".join(left[:_LISTED]))
    return found


def _sub_folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    try:
        found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise fail(str(folder), reason, "Check the path and its rights.") from error
    for entry in found:
        _utf8(entry)
    return [entry.name for entry in found]


def _classes(root: Path, split: str) -> tuple[dict[str, Path], list[str]]:
    """Returns split → the folder whose sub-folders are its classes, and the names of the classes of all."""
    if folders := _split_folders(root):
        if split not in folders:
            has = ", ".join(name for name in SPLITS if name in folders)
            raise fail(str(root), f"no sub-folder {split!r}", f"Choose a split that it has: {has}.")
        return folders, sorted({name for folder in folders.values() for name in _sub_folders(folder)})
    if split != "train":
        remedy = "Use split='train', or put the classes' folders below train/, val/ and test/."
        raise fail(str(root), f"has no splits, so no {split!r}", remedy)
    names = _sub_folders(root)
    if not names:
        raise fail(str(root), "has no sub-folders", "Put the images of each class into a sub-folder of its name.")
    return {"train": root}, names


def _image_files(folder: Path, *, skip_unreadable: bool) -> list[Path]:
    """Returns the images of one class, sorted by name; none if its folder is missing (another split has the class)."""
    if not folder.is_dir():
        return []
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise fail(str(folder), found, "Check the path and its rights.") from error
    inner = [entry.name for entry in entries if entry.is_dir()]
    entries = [entry for entry in entries if not entry.is_dir()]
    for entry in entries:
        _utf8(entry)
    files = [entry for entry in entries if _is_image(entry, skip_unreadable)]
    if files and inner:
        logging.warning("%s: %d folders in it are not read: %s", folder, len(inner), ", ".join(inner[:_LISTED]))
    if not files:
        others = ", ".join(sorted({entry.suffix or entry.name for entry in entries})[:_LISTED])
        found = f"no images in it (only: {others})" if others else "has only sub-folders" if inner else "is empty"
        raise fail(str(folder), found, "Add PNG, JPEG, TIFF, DICOM or NIfTI files, or remove the folder.")
    return files


def _is_image(path: Path, skip_unreadable: bool) -> bool:
    """Returns whether a file is to be read: by its suffix; DICOM files often have none, but begin alike."""
    if path.suffix and not path.suffix[1:].isdigit():  # a name that ends as 1.2.840.113 has none
        return reading.is_image_name(path.name)
    try:
        return reading.is_image_file(path)
    except InputError:
        if skip_unreadable:
            return True  # left out, and named, with what else cannot be read
        raise


def _utf8(path: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise fail(ascii(str(path)), "its name is not UTF-8", "Rename it.") from error
