"""Nearest neighbours, each example left out of its own.

References:
  Cover and Hart (1967), "Nearest neighbor pattern classification", IEEE Transactions on Information Theory,
  https://doi.org/10.1109/TIT.1967.1053964.
"""

from __future__ import annotations

import numpy as np


def neighbor_share(features: np.ndarray, labels: np.ndarray, *, k: int = 5, include_self: bool = False) -> float:
    """Returns the mean over the examples of the share of their own class among their k nearest neighbours.

    Args:
      features: [n, d].
      labels: whole numbers [n].
      k: how many neighbours; all others if there are fewer than k.
      include_self: whether an example is one of its own neighbours.

    Returns:
      The score in 0..1, bigger is better. Of neighbours at the same distance those of the smaller index are taken.
    """
    x = np.asarray(features, np.float64)
    n = len(x)
    shares = []
    for i in range(n):
        others = [j for j in range(n) if include_self or j != i]
        others.sort(key=lambda j: (float(((x[i] - x[j]) ** 2).sum()), j))
        nearest = others[:k]
        shares.append(sum(labels[j] == labels[i] for j in nearest) / len(nearest))
    return float(sum(shares) / n)
