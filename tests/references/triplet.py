"""The triplet margin loss over all triples of a batch.

References:
  Schroff, Kalenichenko and Philbin (2015), "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR,
  https://arxiv.org/abs/1503.03832, there with squared distances and mined triples; here, as in Juodelyte et al. (2024),
  https://arxiv.org/abs/2412.20172, with plain euclidean distances, all triples, and the mean over those above zero.
  Jaccard (1912), "The distribution of the flora in the alpine zone", New Phytologist 11, for label sets.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def similarity(one: np.ndarray, other: np.ndarray) -> Fraction | None:
    """Returns how alike two label sets are: common labels per label of either; 1 if neither has any.

    Labels of which one is missing (-1) are passed over; None if none is left.

    Args:
      one: [c] of 0, 1, -1.
      other: [c] likewise.
    """
    known = [(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True) if a >= 0 and b >= 0]
    first, second = ({j for j, pair in enumerate(known) if pair[side] == 1} for side in (0, 1))
    if not known:
        return None
    return Fraction(len(first & second), len(first | second)) if first | second else Fraction(1)


def is_triple(labels: np.ndarray, a: int, p: int, n: int) -> bool:
    """Returns whether example p is to be nearer to example a than example n is.

    Args:
      labels: whole numbers [b], or [b, c] of 0, 1, -1.
      a: the anchor.
      p: the positive: another example of its class; or one whose label set is more like its own than n's is.
      n: the negative.
    """
    if a == p:
        return False
    if labels.ndim == 1:
        return bool(labels[a] == labels[p] and labels[a] != labels[n])
    to_positive, to_negative = similarity(labels[a], labels[p]), similarity(labels[a], labels[n])
    return to_positive is not None and to_negative is not None and to_positive > to_negative


def triplet_loss(features: np.ndarray, labels: np.ndarray, *, margin: float = 0.05) -> float:
    """Returns the mean of |a - p| - |a - n| + margin over the triples for which it is above zero; 0 if there is none.

    a, p and n are features divided by their euclidean norm (features of norm 0 stay 0).

    Args:
      features: [b, d].
      labels: whole numbers [b], or [b, c] of 0, 1, -1.
      margin: how much farther than p the negative should be.
    """
    units = []
    for x in np.asarray(features, np.float64):
        norm = np.sqrt((x**2).sum())
        units.append(x / norm if norm > 0 else x)
    losses = []
    b = len(units)
    for a in range(b):
        for p in range(b):
            for n in range(b):
                if not is_triple(np.asarray(labels), a, p, n):
                    continue
                to_positive = np.sqrt(((units[a] - units[p]) ** 2).sum())
                to_negative = np.sqrt(((units[a] - units[n]) ** 2).sum())
                loss = to_positive - to_negative + margin
                if loss > 0:
                    losses.append(float(loss))
    return sum(losses) / len(losses) if losses else 0.0
