"""What holds for every data set, whatever file it came from; each violation has one message."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transferjax._validate import fail
from transferjax.types import TargetDataset

MIN_PER_CLASS = 6
"""Fewest examples of a class: its neighbours and its batches of a sixth of the data are meaningless below."""

SPLITS = ("train", "val", "test")

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
      InputError: several labels per image, no numbers, no whole numbers, negative ones, or none at all.
    """
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise fail(
            argument,
            f"shape {list(labels.shape)}: several labels per image are not supported yet",
            "Give one class number per image: one column, or for one-hot labels labels.argmax(axis=1).",
        )
    if labels.ndim not in (1, 2):
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
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    arrays: tuple[str, str] = ("images", "labels"),
) -> TargetDataset:
    """Builds a data set of one split after all checks that do not depend on where it came from.

    Args:
      source: what messages call the whole: a path or a name.
      name: what tables and plots call it.
      images: uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3].
      labels: class numbers [n] or [n, 1].
      class_names: one per class.
      arrays: what messages call images and labels.

    Returns:
      The data set, its images uint8 [n, h, w, 3] and its labels int32 [n].

    Raises:
      InputError: whatever keeps it from being scored; the message names the array, the value and the remedy.
    """
    images = rgb_images(f"{source}, {arrays[0]}", images)
    labels = class_indices(f"{source}, {arrays[1]}", labels)
    if len(images) != len(labels):
        raise fail(source, f"{len(images)} {arrays[0]}, {len(labels)} {arrays[1]}", "Give one label per image.")
    in_range(f"{source}, {arrays[1]}", labels, class_names)
    enough_per_class(f"{source}, {arrays[1]}", labels, class_names)
    return TargetDataset(
        name=name,
        images=images,
        labels=labels.astype(np.int32),
        class_names=tuple(class_names),
        task="binary" if len(class_names) == 2 else "multiclass",
    )


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
