"""Which examples of a data set are used, and in what order."""

from __future__ import annotations

import numpy as np

from transferjax._validate import fail, positive
from transferjax.types import TargetDataset


def subsample(dataset: TargetDataset, max_examples_per_class: int | None, *, rng: np.random.Generator) -> TargetDataset:
    """Draws at most so many examples of each class, without replacement, and shuffles them.

    The order matters: batches are cut from it, and the triplet loss needs several classes in a batch. With the
    same generator state a smaller draw is a subset of a bigger one.

    Args:
      dataset: labels [n].
      max_examples_per_class: classes with fewer keep all; None keeps all examples, shuffled too.
      rng: where the randomness comes from.

    Returns:
      The drawn examples in random order, with all classes of `dataset`.

    Raises:
      InputError: the number is not positive, or an example has several labels.
    """
    if dataset.labels.ndim != 1:
        raise fail(
            f"{dataset.name}, labels", f"shape {list(dataset.labels.shape)}", "Draws need one class number per image."
        )
    if max_examples_per_class is not None:
        positive("max_examples_per_class", max_examples_per_class)
    drawn = [
        rng.permutation(np.flatnonzero(dataset.labels == label))[:max_examples_per_class]
        for label in range(dataset.num_classes)
    ]
    return dataset.take(rng.permutation(np.concatenate(drawn)))
