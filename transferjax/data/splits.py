"""Which examples and labels of a data set are used, and in what order."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from tqdm import tqdm

from transferjax._lazy import LazyImages
from transferjax._validate import positive
from transferjax.data._checks import usable_labels
from transferjax.types import TargetDataset

IN_MEMORY = 2**30
"""Bytes of images that are kept in memory instead of being read again for each source."""

_BLOCK = 256


def subsample(dataset: TargetDataset, max_examples_per_class: int | None, *, rng: np.random.Generator) -> TargetDataset:
    """Draws at most so many examples of each class, without replacement, and shuffles them.

    The order matters: batches are cut from it, and the triplet loss needs several classes in a batch. With the
    same generator state a smaller draw is a subset of a bigger one.

    Of a multi-label target, m examples are sought with each label, m without it, and m without any, in m rounds. In
    round t every one of these groups, the rarest first, that has fewer than t examples in the draw so far gets one
    more. So each has at least m in the draw, or all that there are; common labels have more, since they come with
    others. The draw has at most m·(2c+1) examples, and mostly far fewer: who has one label lacks another.

    Args:
      dataset: labels [n] or, of a multi-label target, [n, c].
      max_examples_per_class: m; classes with fewer keep all; None keeps all examples, shuffled too.
      rng: where the randomness comes from.

    Returns:
      The drawn examples in random order, with all classes of `dataset`.

    Raises:
      InputError: the number is not positive.
    """
    if max_examples_per_class is not None:
        positive("max_examples_per_class", max_examples_per_class)
    if dataset.labels.ndim == 2:
        order = rng.permutation(len(dataset))
        if max_examples_per_class is not None:
            order = order[_in_rounds(dataset.labels[order], max_examples_per_class)]
        return dataset.take(rng.permutation(order))
    drawn = [
        rng.permutation(np.flatnonzero(dataset.labels == label))[:max_examples_per_class]
        for label in range(dataset.num_classes)
    ]
    return dataset.take(rng.permutation(np.concatenate(drawn)))


def in_memory(dataset: TargetDataset, *, limit: int = IN_MEMORY) -> TargetDataset:
    """Reads images that are still in their files, if they are few enough to be kept: each source wants to see them.

    Args:
      dataset: with images in memory, or lazy ones.
      limit: how many bytes they may take; with more the data set comes back as it is.

    Raises:
      InputError: an image cannot be read; the message names its file.
    """
    images = dataset.images
    if not isinstance(images, LazyImages) or math.prod(images.shape) > limit:
        return dataset
    found = np.empty(images.shape, np.uint8)
    with tqdm(total=len(images), desc="Reading images", unit="image", disable=None, leave=False) as bar:
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            found[start : start + len(block)] = block
            bar.update(len(block))
    return dataclasses.replace(dataset, images=found)


def leave_out_rare_labels(dataset: TargetDataset) -> tuple[TargetDataset, dict[str, tuple[int, int]]]:
    """Drops the labels of a multi-label target that fewer than `MIN_PER_CLASS` examples have, or have not.

    A class that is too small is an error, since leaving it out means leaving out its images. A label can be left out
    without harm to the others, and most multi-label data sets have rare ones. An example of which no other label is
    known goes with it.

    Args:
      dataset: as `load` checks it; one whose examples have one class each comes back as it is.

    Returns:
      The data set, and name → examples with and without it, of each label that was left out.
    """
    if dataset.labels.ndim == 1:
        return dataset, {}
    usable, labels = usable_labels(dataset.labels), dataset.labels
    if usable.all():
        return dataset, {}
    left_out = {
        dataset.class_names[j]: (int((labels[:, j] == 1).sum()), int((labels[:, j] == 0).sum()))
        for j in np.flatnonzero(~usable)
    }
    names = tuple(dataset.class_names[j] for j in np.flatnonzero(usable))
    kept = dataclasses.replace(dataset, labels=labels[:, usable], class_names=names)
    known = (kept.labels >= 0).any(axis=1)
    return (kept if known.all() else kept.take(np.flatnonzero(known))), left_out


def _in_rounds(labels: np.ndarray, rounds: int) -> np.ndarray:
    """Returns the indices of the draw that `subsample` describes, taking earlier rows first: labels [n, c]."""
    has, lacks = labels == 1, labels == 0
    members = np.column_stack([has, lacks, ~has.any(axis=1)])
    members = members[:, np.argsort(members.sum(axis=0), kind="stable")]
    groups = [np.flatnonzero(column) for column in members.T]
    drawn = np.zeros(len(labels), bool)
    counts, places = np.zeros(len(groups), int), [0] * len(groups)  # of each group: drawn so far; where to look next
    for wanted in range(1, rounds + 1):
        for g, group in enumerate(groups):
            if counts[g] >= min(wanted, len(group)):
                continue
            while drawn[group[places[g]]]:
                places[g] += 1
            drawn[group[places[g]]] = True
            counts += members[group[places[g]]]
    return np.flatnonzero(drawn)
