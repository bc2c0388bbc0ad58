"""Targets: from a name, a file or a folder to labelled images in memory."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from pathlib import Path

from transferjax._files import hash_arrays, sha256
from transferjax._validate import InputError, fail, one_of, positive
from transferjax.data._checks import MIN_PER_CLASS, SPLITS, checked_dataset
from transferjax.data._resize import resize_all
from transferjax.data.folder import load_folder
from transferjax.data.npz import load_npz
from transferjax.data.splits import leave_out_rare_labels, subsample
from transferjax.types import TargetDataset

__all__ = [
    "MIN_PER_CLASS",
    "SPLITS",
    "content_hash",
    "demo_names",
    "leave_out_rare_labels",
    "load",
    "load_folder",
    "load_npz",
    "subsample",
]

_DEMO_FOLDER = Path(__file__).parent / "demo"


def demo_names() -> list[str]:
    """Returns the names of the tasks that come with the package."""
    return sorted(file.stem for file in _DEMO_FOLDER.glob("[!.]*.npz"))


def load(
    target: str | os.PathLike[str] | TargetDataset, *, split: str = "train", image_size: int | None = None
) -> TargetDataset:
    """Loads one split of a target and checks all that scoring relies on.

    Args:
      target: the name of a demo task (it wins over a file of the same name: write `./name` for that), the path
        of a `.npz` in MedMNIST's layout, the path of a folder with one sub-folder per class, or a data set.
      split: `"train"`, `"val"` or `"test"`; a data set has but one split and is taken as it is.
      image_size: make every image this high and this wide (bilinear, antialiased, aspect ratio not kept).

    Returns:
      The data set: images uint8 [n, h, w, 3], labels int32 [n], at least `MIN_PER_CLASS` examples of every class. Of a
      multi-label target: labels int8 [n, c] with -1 for a missing one, no example without a known label; at least one
      label has `MIN_PER_CLASS` examples with it and as many without it. The others are kept, so that all splits have
      the same columns; `leave_out_rare_labels` drops them where scores are computed.

    Raises:
      InputError: there is no such target, or something in it cannot be used; the message names it.
    """
    one_of("split", split, SPLITS)
    if image_size is not None:
        positive("image_size", image_size)
    if isinstance(target, TargetDataset):
        dataset = checked_dataset(
            target.name,
            name=target.name,
            images=target.images,
            labels=target.labels,
            class_names=target.class_names,
            task=target.task,
        )
    elif isinstance(target, str) and target in demo_names():
        dataset = load_npz(_DEMO_FOLDER / f"{target}.npz", split=split)
    else:
        path = os.path.expanduser(os.fspath(target))
        if os.path.isdir(path):
            return load_folder(path, split=split, image_size=image_size)
        if not os.path.isfile(path):
            raise _unknown(str(target))
        if not path.lower().endswith(".npz"):
            raise fail("target", f"{path!r} is neither a .npz file nor a folder", "Give the path of one of these.")
        dataset = load_npz(path, split=split)
    if image_size is None:
        return dataset
    return dataclasses.replace(dataset, images=resize_all(dataset.images, image_size))


def content_hash(dataset: TargetDataset) -> str:
    """Returns the hexadecimal SHA-256 over images, labels and class names: equal exactly if the content is."""
    arrays = hash_arrays({"images": dataset.images, "labels": dataset.labels})
    return sha256(arrays.encode(), json.dumps(dataset.class_names).encode())


def _unknown(target: str) -> InputError:
    """Returns the error for a target that is neither a name nor a path."""
    names = demo_names()
    close = difflib.get_close_matches(target, names, n=1)
    found = f"{target!r} is unknown" + (f"; did you mean {close[0]!r}?" if close else "")
    tasks = ", ".join(names) or "none is installed"
    remedy = (
        f"Choose a demo task ({tasks}), or give the path of a .npz file or of a folder with one sub-folder per class."
    )
    return fail("target", found, remedy)
