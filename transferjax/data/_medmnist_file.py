"""The official `.npz` files of MedMNIST: where they are, and whether they are what they should be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from transferjax._validate import fail
from transferjax.data import _npz_stream, medmnist_info
from transferjax.data._checks import SPLITS

Fetch = Callable[..., Path]
"""`fetch(url, folder=..., name=...)` → path of the file, which is downloaded if it is not there."""

_CHUNK = 1 << 22
_NOT_OFFICIAL = "Download it again; a file of your own can be prepared with --noverify."


def find_file(dataset: str, size: int, *, root: Path | None, downloads: Path, fetch: Fetch | None) -> Path:
    """Returns the path of a set's file.

    Args:
      dataset: such as `"bloodmnist"`.
      size: 28, 64, 128 or 224.
      root: the folder where it is; None to download it.
      downloads: the folder for downloads.
      fetch: how to download; None not to.

    Raises:
      InputError: it is not there, or cannot be downloaded.
    """
    name, url = medmnist_info.file_name(dataset, size), medmnist_info.url(dataset, size)
    if root is None and fetch is not None:
        return fetch(url, folder=downloads, name=name)
    path = (downloads if root is None else root) / name
    if not path.is_file():
        argument = "medmnist_root" if root is not None else "fetch"
        raise fail(argument, f"{str(path)!r} is not there", f"Put it there; it can be downloaded from {url}")
    return path


def check_layout(path: Path, dataset: str, size: int) -> dict[str, int]:
    """Returns the number of images of each split of a file that has the arrays of this set, of this size.

    Raises:
      InputError: an array is missing, or has another shape or dtype.
    """
    info = medmnist_info.info(dataset)
    remedy = f"Give the file of {dataset} with {size} pixels."
    pixels = (size, size) if info.channels == 1 else (size, size, info.channels)
    columns = len(info.class_names) if info.task == "multilabel" else 1
    rows = {"images": ("uint8", pixels), "labels": ("whole numbers", (columns,))}
    arrays = _npz_stream.headers(path)
    numbers = {}
    for split in SPLITS:
        for kind, (values, row) in rows.items():
            name = f"{split}_{kind}"
            if name not in arrays:
                raise fail(str(path), f"has no array {name} (but: {', '.join(arrays) or 'nothing'})", remedy)
            shape, dtype = arrays[name].shape, arrays[name].dtype
            right = dtype == np.uint8 or (kind == "labels" and dtype.kind in "iu")
            if shape[1:] != row or shape[0] == 0 or not right:
                wanted = ", ".join(map(str, ("n", *row)))
                raise fail(f"{path}, {name}", f"{dtype} {list(shape)} instead of {values} [{wanted}]", remedy)
        numbers[split], labels = (arrays[f"{split}_{kind}"].shape[0] for kind in rows)
        if numbers[split] != labels:
            raise fail(f"{path}, {split}", f"{numbers[split]} images, but {labels} labels", remedy)
    return numbers


def check_official(path: Path, dataset: str, size: int) -> None:
    """Raises `InputError` if a file is not the one that MedMNIST published: other numbers of images, or another MD5."""
    info = medmnist_info.info(dataset)
    for split, number in check_layout(path, dataset, size).items():
        if number != info.num_examples[split]:
            found = f"{number} images, but MedMNIST published {info.num_examples[split]}"
            raise fail(f"{path}, {split}", found, _NOT_OFFICIAL)
    check_md5(path, info.md5[size])


def check_md5(path: Path, expected: str) -> None:
    """Raises `InputError` if a file's MD5 is another one; tells the progress on a terminal."""
    digest = hashlib.md5(usedforsecurity=False)
    bar = tqdm(
        total=path.stat().st_size, desc=f"Checking {path.name}", unit="B", unit_scale=True, disable=None, leave=False
    )
    with bar, path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != expected:
        raise fail(str(path), f"its MD5 is {digest.hexdigest()}, expected was {expected}", _NOT_OFFICIAL)


def checked_labels(path: Path, dataset: str, split: str) -> np.ndarray:
    """Returns the labels of a split as int32 [n], or int8 [n, c] for a multi-label set.

    Raises:
      InputError: a label is out of range.
    """
    info = medmnist_info.info(dataset)
    labels = _npz_stream.whole(path, f"{split}_labels")
    multilabel = info.task == "multilabel"
    high = 1 if multilabel else len(info.class_names) - 1
    wrong = ((labels < 0) | (labels > high)).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        found = f"{labels[row].tolist()} at example {row} is out of range 0..{high}"
        raise fail(f"{path}, {split}_labels", found, f"Give the file of {dataset}.")
    return labels.astype(np.int8) if multilabel else labels[:, 0].astype(np.int32)
