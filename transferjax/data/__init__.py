"""Targets: from a name, a file or a folder to labelled images in memory."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from pathlib import Path

from transferjax._files import hash_arrays, sha256
from transferjax._lazy import LazyImages
from transferjax._validate import InputError, fail, one_of, positive
from transferjax.data._checks import MIN_PER_CLASS, SPLITS, checked_dataset
from transferjax.data._resize import resize_all
from transferjax.data.folder import load_folder, splits_of_folder
from transferjax.data.npz import load_npz, splits_of_npz
from transferjax.data.radimagenet import open_radimagenet
from transferjax.data.reading import DEFAULTS, Options
from transferjax.data.splits import in_memory, leave_out_rare_labels, subsample
from transferjax.data.table import SUFFIXES as TABLE_SUFFIXES
from transferjax.data.table import Columns, load_table, splits_of_table
from transferjax.types import TargetDataset

__all__ = [
    "MIN_PER_CLASS",
    "SPLITS",
    "Columns",
    "Options",
    "content_hash",
    "demo_names",
    "in_memory",
    "leave_out_rare_labels",
    "load",
    "load_folder",
    "load_npz",
    "load_table",
    "splits_of",
    "subsample",
]

_DEMO_FOLDER = Path(__file__).parent / "demo"
_MEDMNIST, _TFDS, _RADIMAGENET = "medmnist:", "tfds:", "radimagenet:"


def demo_names() -> list[str]:
    """Returns the names of the tasks that come with the package."""
    return sorted(file.stem for file in _DEMO_FOLDER.glob("[!.]*.npz"))


def load(
    target: str | os.PathLike[str] | TargetDataset,
    *,
    split: str = "train",
    image_size: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    skip_unreadable: bool = False,
    options: Options = DEFAULTS,
    scored: bool | None = None,
) -> TargetDataset:
    """Opens one split of a target and checks all that scoring relies on.

    Args:
      target: one of
        - the name of a demo task (it wins over a file of the same name: write `./name` for that);
        - `medmnist:<dataset>/<size>`, e.g. `medmnist:bloodmnist/224`, made by `experiments/prepare_data.py`; without a
          size 28 pixels;
        - `tfds:<dataset>`, any other data set of TFDS that is prepared and has images and labels;
        - `radimagenet:<folder>`;
        - the path of a `.npz` in MedMNIST's layout; of a folder with one sub-folder per class (`load_folder`); of a
          `.csv`, `.tsv` or `.parquet` table of image files (`load_table`);
        - a data set.
      split: `"train"`, `"val"` or `"test"`; a data set has but one split and is taken as it is.
      image_size: make every image this high and this wide (bilinear, antialiased, aspect ratio not kept).
      data_dir: where TFDS keeps its data sets; None for its own default.
      columns: of a table.
      skip_unreadable: of a folder or a table, leave out files that cannot be read, and say so.
      options: of a folder or a table, how to read what can be read in several ways.
      scored: whether there have to be enough examples of every class for scoring, and none of a class that training has
        not; None for that with the split for training, False to take the data as they are.

    Returns:
      The data set: images uint8 [n, h, w, 3], in memory or read when they are asked for; labels int32 [n], for
      training at least `MIN_PER_CLASS` examples of every class. Of a multi-label target: labels int8 [n, c] with -1 for
      a missing one, no example without a known label; for training at least one label has `MIN_PER_CLASS` examples with
      it and as many without it. The others are kept, so that all splits have the same columns;
      `leave_out_rare_labels` drops them where scores are computed.

    Raises:
      InputError: there is no such target, or something in it cannot be used; the message names it.
    """
    one_of("split", split, SPLITS)
    if image_size is not None:
        positive("image_size", image_size)
    enough = split == "train" if scored is None else scored
    if isinstance(target, TargetDataset):
        return _resized(_checked(target, enough), image_size)
    path = os.path.expanduser(os.fspath(target))
    of_files = os.path.isdir(path) or path.lower().endswith(TABLE_SUFFIXES)
    _only_for(of_files, "folders and tables", skip_unreadable=(skip_unreadable, False), options=(options, DEFAULTS))
    _only_for(path.lower().endswith(TABLE_SUFFIXES), "tables", columns=(columns or Columns(), Columns()))
    if isinstance(target, str):
        if target in demo_names():
            return _resized(load_npz(_DEMO_FOLDER / f"{target}.npz", split=split, scored=enough), image_size)
        if target.startswith(_MEDMNIST):
            from transferjax.data.medmnist import open_medmnist  # here, since TFDS takes a second to import

            name, _, size = target.removeprefix(_MEDMNIST).partition("/")
            found = open_medmnist(name, _medmnist_size(target, size), split=split, data_dir=data_dir)
            return _resized(_checked(found, enough), image_size)
        if target.startswith(_TFDS):
            from transferjax.data.tfds_target import open_tfds

            name = target.removeprefix(_TFDS)
            found = open_tfds(name, split=split, data_dir=data_dir, image_size=image_size)
            return _checked(found, enough)
        if target.startswith(_RADIMAGENET):
            folder = os.path.expanduser(target.removeprefix(_RADIMAGENET))
            return _checked(open_radimagenet(folder, split=split, image_size=image_size or 224), enough)
    if os.path.isdir(path):
        return load_folder(
            path,
            split=split,
            image_size=image_size,
            skip_unreadable=skip_unreadable,
            options=options,
            scored=scored,
        )
    if not os.path.isfile(path):
        raise _unknown(str(target))
    if path.lower().endswith(TABLE_SUFFIXES):
        return load_table(
            path,
            split=split,
            image_size=image_size,
            columns=columns,
            skip_unreadable=skip_unreadable,
            options=options,
            scored=scored,
        )
    _check_suffix(path)
    return _resized(load_npz(path, split=split, scored=enough), image_size)


def _only_for(applies: bool, what: str, **given: tuple[object, object]) -> None:
    """Raises `InputError` if an argument has another value than its usual one, and nothing to do with the target."""
    for argument, (value, usual) in given.items():
        if not applies and value != usual:
            raise fail(argument, f"{value}", f"This is for {what} of image files only: leave it out.")


def _check_suffix(path: str) -> None:
    if not path.lower().endswith(".npz"):
        kinds = f".npz, {', '.join(TABLE_SUFFIXES)}"
        raise fail("target", f"{path!r} is neither a folder nor one of {kinds}", "Give the path of one of these.")


def splits_of(
    target: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
) -> tuple[str, ...]:
    """Returns which of `SPLITS` a target has; arguments as for `load`."""
    if isinstance(target, str):
        if target in demo_names() or target.startswith((_MEDMNIST, _RADIMAGENET)):
            return SPLITS
        if target.startswith(_TFDS):
            from transferjax.data.tfds_target import splits_of_tfds

            return splits_of_tfds(target.removeprefix(_TFDS), data_dir=data_dir)
    path = os.path.expanduser(os.fspath(target))
    if os.path.isdir(path):
        return splits_of_folder(path)
    if not os.path.isfile(path):
        raise _unknown(str(target))
    if path.lower().endswith(TABLE_SUFFIXES):
        return splits_of_table(path, columns=columns)
    _check_suffix(path)
    return splits_of_npz(path)


def _medmnist_size(target: str, size: str) -> int:
    if not size:
        return 28
    if not size.isdecimal():
        raise fail("target", f"{target!r}: {size!r} is no size", "Write e.g. medmnist:bloodmnist/224.")
    return int(size)


def _checked(dataset: TargetDataset, scored: bool) -> TargetDataset:
    return checked_dataset(
        dataset.name,
        name=dataset.name,
        images=dataset.images,
        labels=dataset.labels,
        class_names=dataset.class_names,
        task=dataset.task,
        groups=dataset.groups,
        scored=scored,
    )


def _resized(dataset: TargetDataset, image_size: int | None) -> TargetDataset:
    if image_size is None:
        return dataset
    return dataclasses.replace(dataset, images=resize_all(dataset.images, image_size))


def content_hash(dataset: TargetDataset) -> str:
    """Returns the hexadecimal SHA-256 over images, labels and class names: equal only if the content is.

    Images in memory are told by their pixels, others by their files: the two differ.
    """
    if isinstance(dataset.images, LazyImages):
        arrays = sha256(*dataset.images.fingerprints(), hash_arrays({"labels": dataset.labels}).encode())
    else:
        arrays = hash_arrays({"images": dataset.images, "labels": dataset.labels})
    return sha256(arrays.encode(), json.dumps(dataset.class_names).encode())


def _unknown(target: str) -> InputError:
    """Returns the error for a target that is neither a name nor a path."""
    names = demo_names()
    close = difflib.get_close_matches(target, names, n=1)
    found = f"{target!r} is unknown" + (f"; did you mean {close[0]!r}?" if close else "")
    tasks = ", ".join(names) or "none is installed"
    remedy = (
        f"Choose a demo task ({tasks}), medmnist:<dataset>/<size> or tfds:<dataset>, or give the path of a .npz file, "
        "of a folder with one sub-folder per class, or of a table of image files."
    )
    return fail("target", found, remedy)
