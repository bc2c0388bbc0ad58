"""What several metrics derive from one pair, computed once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import jax.numpy as jnp
import numpy as np

from transferjax._linalg import Scatter, Spectrum, scatter, spectrum
from transferjax.types import TransferPair, class_size_bound

Share = Literal["scatter", "total", "gram", "within"]
# These do not depend on the labels but through rounding: labels known for the same examples can share them.
OF_FEATURES_ALONE = ("total", "gram")


class View:
    """A pair with what metrics share, each computed when first asked for. Use it inside `jax.enable_x64(True)`.

    Works inside a trace as well as outside.
    """

    def __init__(self, pair: TransferPair) -> None:
        """Nothing is computed yet."""
        self.pair = pair

    @functools.cached_property
    def scatter(self) -> Scatter:
        """Sizes, means and scatter of the classes."""
        return scatter(self.pair.features, self.pair.labels, num_classes=self.pair.num_classes)

    @functools.cached_property
    def total(self) -> Spectrum:
        """Of the scatter about the mean of all examples: principal components."""
        return spectrum(self.scatter.total)

    @functools.cached_property
    def gram(self) -> Spectrum:
        """Of the scatter about zero: squared singular values of the features as they are."""
        return spectrum(self.scatter.gram)

    @functools.cached_property
    def within(self) -> Spectrum:
        """Of the scatter about the class means."""
        return spectrum(self.scatter.within)


def label_views(view: View, *, columns: bool) -> Iterator[tuple[View, int]]:
    """Splits a multi-label target into targets without missing labels.

    Labels that no example is known to have, or all have, are left out: they ask nothing.

    Args:
      view: of labels [n, c] with -1 for a missing one.
      columns: whether labels that are known for the same examples stay together, as labels [n', c'] of 0 and 1.

    Yields:
      A view, of labels [n', c'] or [n'] (a binary target), and how many labels it stands for.
    """
    pair = view.pair
    labels = np.asarray(pair.labels)
    groups: dict[bytes, list[int]] = {}
    for index in np.flatnonzero((labels == 0).any(axis=0) & (labels == 1).any(axis=0)):
        groups.setdefault((labels[:, index] >= 0).tobytes(), []).append(int(index))
    for group in groups.values():
        known = np.flatnonzero(labels[:, group[0]] >= 0)
        rows = pair if len(known) == len(labels) else pair.take(known)
        if columns:
            chosen = jnp.asarray(labels[known][:, group])
            yield View(dataclasses.replace(rows, labels=chosen, num_classes=len(group))), len(group)
            continue
        first = None
        for label in group:
            column = labels[known, label]
            size = class_size_bound(column)
            part = View(dataclasses.replace(rows, labels=jnp.asarray(column), num_classes=2, max_class_size=size))
            if first is None:
                first = part
            else:
                for name in OF_FEATURES_ALONE:
                    if name in first.__dict__:
                        part.__dict__[name] = first.__dict__[name]
            yield part, 1
