"""What there is to know of a data set before anything is trained on it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from transferjax._lazy import LazyImages
from transferjax.types import TargetDataset

_SEEN = 200  # images of each split that are looked at for colours


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """Facts of a target.

    Attributes:
      counts: examples of each class (of a multi-label target, with each label), one column per split.
      missing: of a multi-label target, examples whose label is missing, likewise; None if no label is.
      sizes: split → number of images, height, width.
      colours: whether one of the images looked at has colours.
      looked_at: how many these were.
      imbalance: the largest class's examples over the smallest's, in training; infinite if a class has none.
      groups: split → number of groups; empty if there are none.
      duplicates: for each pair of splits, "train, test" → how many images of the second are in the first too; and
        "train" → how many images of a split are repeats of others in it.
      shared_groups: pair of splits → number of groups that are in both.
    """

    counts: pd.DataFrame
    missing: pd.DataFrame | None
    sizes: Mapping[str, tuple[int, int, int]]
    colours: bool
    looked_at: int
    imbalance: float
    groups: Mapping[str, int]
    duplicates: Mapping[str, int]
    shared_groups: Mapping[str, int]


def describe(splits: Mapping[str, TargetDataset]) -> Card:
    """Counts and compares.

    Images are the same if their pixels are; images in files if the files' bytes (and the frame) are, so that a copy in
    another format or of another size is not found.

    Args:
      splits: name → the target's split; all with the same classes.
    """
    first = next(iter(splits.values()))
    names = list(first.class_names)
    counts = pd.DataFrame({name: _counts(split, 1) for name, split in splits.items()}, index=names)
    missing = pd.DataFrame({name: _counts(split, -1) for name, split in splits.items()}, index=names)
    train = counts[next(iter(splits))]
    keys = {name: _keys(split) for name, split in splits.items()}
    duplicates = {name: len(found) - len(set(found)) for name, found in keys.items()}
    shared = {}
    for one, other in _pairs(list(splits)):
        known = set(keys[one])
        duplicates[f"{one}, {other}"] = sum(key in known for key in keys[other])
        groups = [splits[name].groups for name in (one, other)]
        if groups[0] is not None and groups[1] is not None:
            shared[f"{one}, {other}"] = len(np.intersect1d(groups[0], groups[1]))
    looked_at = {name: min(_SEEN, len(split)) for name, split in splits.items()}
    colours = any(_has_colours(split, looked_at[name]) for name, split in splits.items())
    return Card(
        counts=counts,
        missing=missing if missing.to_numpy().any() else None,
        sizes={name: (len(split), *split.images.shape[1:3]) for name, split in splits.items()},
        colours=colours,
        looked_at=sum(looked_at.values()),
        imbalance=float(train.max() / train.min()) if train.min() else float("inf"),
        groups={name: len(np.unique(split.groups)) for name, split in splits.items() if split.groups is not None},
        duplicates=duplicates,
        shared_groups=shared,
    )


def _counts(split: TargetDataset, value: int) -> np.ndarray:
    if split.labels.ndim == 2:
        return (split.labels == value).sum(axis=0)
    if value < 0:
        return np.zeros(split.num_classes, int)
    return np.bincount(split.labels, minlength=split.num_classes)


def _has_colours(split: TargetDataset, count: int) -> bool:
    """Returns whether one of so many images has, one at a time, since they may be large."""
    for place in np.linspace(0, len(split) - 1, count).astype(int):
        image = split.images[int(place)]
        if (image != image[..., :1]).any():
            return True
    return False


def _keys(split: TargetDataset) -> list[bytes]:
    if isinstance(split.images, LazyImages):
        return split.images.fingerprints()
    return [hashlib.sha256(image.tobytes()).digest() for image in split.images]


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    return [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
