"""What holds for every data set, whatever file it came from; each violation has one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from transferjax._lazy import LazyImages
from transferjax._validate import fail
from transferjax.types import TargetDataset, Task

MIN_PER_CLASS = 6
"""Fewest examples of a class: its neighbours and its batches of a sixth of the data are meaningless below.

Of a multi-label target, the fewest with a label, and the fewest without it."""

SPLITS = ("train", "val", "test")

SPLIT_OF = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What users call splits, in small letters."""

_TO_UINT8 = "Save uint8 in 0..255; from floats in 0..1: (255 * images).round().astype(numpy.uint8)."
_LISTED = 10


def rgb_images(argument: str, images: np.ndarray) -> np.ndarray:
    """Returns images as uint8 [n, h, w, 3]; grey is repeated to three channels.

    Args:
      argument: what a message calls them.
      images: uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3].

    Raises:
      InputError: another dtype or shape, or nothing in it.
    """
    if images.dtype != np.uint8:
        found = f"{images.dtype} instead of uint8"
        if np.issubdtype(images.dtype, np.floating) and np.isnan(images).any():
            image = int(np.argwhere(np.isnan(images))[0, 0]) if images.ndim else 0
            raise fail(argument, f"{found}, with NaN (first in image {image})", f"Remove the NaN. {_TO_UINT8}")
        raise fail(argument, found, _TO_UINT8)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise fail(argument, f"shape {list(images.shape)}", "Give [n, h, w], [n, h, w, 1] or [n, h, w, 3].")
    if 0 in images.shape:
        raise fail(argument, f"shape {list(images.shape)} is empty", "Give at least one image with at least one pixel.")
    if images.ndim == 3:
        images = images[..., None]
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def class_indices(argument: str, labels: np.ndarray) -> np.ndarray:
    """Returns labels as int64 [n], none negative.

    Args:
      argument: what a message calls them.
      labels: whole numbers [n] or [n, 1] of any numeric dtype.

    Raises:
      InputError: another shape, no numbers, no whole numbers, negative ones, or none at all.
    """
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        raise fail(argument, f"shape {list(labels.shape)}", "Give one class number per image: [n] or [n, 1].")
    if labels.size == 0:
        raise fail(argument, f"shape {list(labels.shape)} is empty", "Give one class number per image.")
    labels = labels.reshape(-1)
    if np.issubdtype(labels.dtype, np.floating):
        wrong = ~np.isfinite(labels) | (labels != np.round(labels)) | (np.abs(labels) >= 2**31)
        if wrong.any():
            where = int(np.argmax(wrong))
            found = f"{labels[where]} at example {where} is no class number"
            raise fail(argument, found, "Give whole numbers 0..c-1; leave out examples without a label.")
    elif labels.dtype.kind not in "biu":
        raise fail(argument, f"{labels.dtype} holds no numbers", "Give whole numbers 0..c-1, and names as class_names.")
    if labels.min() < 0:
        where = int(np.argmax(labels < 0))
        raise fail(argument, f"{labels[where]} at example {where} is negative", "Give class numbers 0..c-1.")
    if labels.max() >= 2**31:
        raise fail(argument, f"{labels.max()} is too big for a class number", "Give class numbers 0..c-1.")
    return labels.astype(np.int64)


def has_columns(labels: np.ndarray) -> bool:
    """Returns whether labels have a column each, [n, c] with c > 1: those of a multi-label target, or one-hot ones."""
    return labels.ndim == 2 and labels.shape[1] > 1


def label_sets(argument: str, labels: np.ndarray) -> np.ndarray:
    """Returns the labels of a multi-label target as int8 [n, c] of 0, 1 and -1 for a missing one.

    Args:
      argument: what a message calls them.
      labels: such numbers [n, c] of any numeric dtype.

    Raises:
      InputError: another shape, no numbers, another number, an example without any known label, or none at all.
    """
    if labels.ndim != 2 or 0 in labels.shape:
        found = f"shape {list(labels.shape)}" + (" is empty" if 0 in labels.shape else "")
        raise fail(argument, found, "Give one column per label: [n, c].")
    if labels.dtype.kind not in "biuf":
        raise fail(argument, f"{labels.dtype} holds no numbers", "Give 0, 1, or -1 for a missing label.")
    wrong = (labels != 0) & (labels != 1) & (labels != -1)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        value = labels[row, column]
        how = ": numpy.nan_to_num(labels, nan=-1)" if np.isnan(value) else ""
        how = "; save them as int8, uint8 makes 255 of -1" if value == 255 else how
        remedy = f"Labels in several columns are 0, 1, or -1 for a missing one{how}."
        raise fail(argument, f"{value} at example {row}, column {column}", remedy)
    labels = labels.astype(np.int8)
    unknown = np.flatnonzero((labels < 0).all(axis=1))
    if len(unknown):
        found = f"{len(unknown)} of {len(labels)} examples have no known label, only -1 (first example {unknown[0]})"
        raise fail(argument, found, "Leave them out: keep those where (labels >= 0).any(axis=1).")
    return labels


def not_one_hot(labels: Mapping[str, np.ndarray], *, otherwise: str = "") -> None:
    """Raises `InputError` if all these labels are one-hot: classes, that would be taken for labels.

    Args:
      labels: what a message calls them → int8 [n, c], c > 1; all that there are, since in a few examples each may have
        one of several labels by chance.
      otherwise: what can be done if they are labels all the same.
    """
    if all((array >= 0).all() and (array.sum(axis=1) == 1).all() for array in labels.values()):
        first = next(iter(labels))
        found = f"one-hot, every example has exactly one of {labels[first].shape[1]} labels"
        raise fail(first, found, f"These are classes: give their numbers, labels.argmax(axis=1){otherwise}.")


def in_range(argument: str, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises `InputError` if a label has no class name."""
    c = len(class_names)
    if labels.max() >= c:
        where = int(np.argmax(labels >= c))
        found = f"{labels[where]} at example {where} is out of range, there are {c} class names"
        raise fail(argument, found, f"Labels lie in 0..{c - 1}; correct them or class_names.")


def checked_dataset(
    source: str,
    *,
    name: str,
    images: np.ndarray | LazyImages,
    labels: np.ndarray,
    class_names: Sequence[str],
    task: Task = "multiclass",
    groups: np.ndarray | None = None,
    scored: bool = True,
    arrays: tuple[str, str] = ("images", "labels"),
) -> TargetDataset:
    """Builds a data set of one split after all checks that do not depend on where it came from.

    Args:
      source: what messages call the whole: a path or a name.
      name: what tables and plots call it.
      images: uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3], or lazy ones.
      labels: class numbers [n] or [n, 1]; or, of a multi-label target, [n, c] of 0, 1 and -1 for a missing label.
      class_names: one per class or label.
      task: `"multilabel"` if labels [n, c] are known to be label sets; else they are if they have several columns and
        are not one-hot, and the task follows from the labels.
      groups: see `TargetDataset`.
      scored: whether there have to be enough examples of each class for scoring, as in a split for training.
      arrays: what messages call images and labels.

    Returns:
      The data set, its images uint8 [n, h, w, 3] and its labels int32 [n] or, of a multi-label target, int8 [n, c].

    Raises:
      InputError: whatever keeps it from being scored; the message names the array, the value and the remedy.
    """
    argument = f"{source}, {arrays[1]}"
    if not isinstance(images, LazyImages):  # which are as they should be
        images = rgb_images(f"{source}, {arrays[0]}", images)
    multilabel = task == "multilabel" or has_columns(labels)
    labels = label_sets(argument, labels) if multilabel else class_indices(argument, labels)
    if len(images) != len(labels):
        one = "one row of labels" if multilabel else "one label"
        raise fail(source, f"{len(images)} {arrays[0]}, {len(labels)} {arrays[1]}", f"Give {one} per image.")
    if groups is not None and len(groups) != len(images):
        raise fail(source, f"{len(images)} {arrays[0]}, {len(groups)} groups", "Give one group per image.")
    if multilabel:
        one_name_per_label(argument, labels, class_names)
        if task != "multilabel":
            not_one_hot({argument: labels}, otherwise="; or set task='multilabel'")
        if scored and not usable_labels(labels).any():
            found = f"no label has {MIN_PER_CLASS} examples with it and as many without it"
            raise fail(argument, f"{found} ({_listed_counts(labels, class_names)})", "Add examples.")
    else:
        in_range(argument, labels, class_names)
        if scored:
            enough_per_class(argument, labels, class_names)
        labels = labels.astype(np.int32)
        task = "binary" if len(class_names) == 2 else "multiclass"
    return TargetDataset(
        name=name,
        images=images,
        labels=labels,
        class_names=tuple(class_names),
        task="multilabel" if multilabel else task,
        groups=groups,
    )


def one_name_per_label(argument: str, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises `InputError` if labels [n, c] do not have c names."""
    if labels.shape[1] != len(class_names):
        found = f"{labels.shape[1]} columns, but {len(class_names)} class names"
        raise fail(argument, found, "Give one column and one name per label.")


def usable_labels(labels: np.ndarray) -> np.ndarray:
    """Returns which labels have `MIN_PER_CLASS` examples with them and as many without: bool [c], of labels [n, c]."""
    return np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0)) >= MIN_PER_CLASS


def _listed_counts(labels: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns how many examples have each label, and how many have it not."""
    counts = zip(class_names, (labels == 1).sum(axis=0), (labels == 0).sum(axis=0), strict=True)
    few = [f"{name!r}: {have} with, {lack} without" for name, have, lack in counts]
    return "; ".join(few[:_LISTED]) + (f" and {len(few) - _LISTED} more" if len(few) > _LISTED else "")


def enough_per_class(argument: str, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises `InputError` if there is only one class or a class with fewer than `MIN_PER_CLASS` examples."""
    counts = np.bincount(labels, minlength=len(class_names))
    present = np.flatnonzero(counts)
    if len(present) == 1:
        only = class_names[int(present[0])]
        raise fail(argument, f"all {len(labels)} examples are of one class, {only!r}", "Give at least two classes.")
    few = [f"{name!r} has {count}" for name, count in zip(class_names, counts, strict=True) if count < MIN_PER_CLASS]
    if few:
        listed = ", ".join(few[:_LISTED]) + (f" and {len(few) - _LISTED} more" if len(few) > _LISTED else "")
        remedy = f"Every class needs at least {MIN_PER_CLASS} examples; add some or leave the class out."
        raise fail(argument, f"too few examples per class ({listed})", remedy)
