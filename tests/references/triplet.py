"""The triplet margin loss over all triples of a batch.

References:
  Schroff, Kalenichenko and Philbin (2015), "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR,
  https://arxiv.org/abs/1503.03832, there with squared distances and mined triples; here, as in Juodelyte et al. (2024),
  https://arxiv.org/abs/2412.20172, with plain euclidean distances, all triples, and the mean over those above zero.
"""

from __future__ import annotations

import numpy as np


def triplet_loss(features: np.ndarray, labels: np.ndarray, *, margin: float = 0.05) -> float:
    """Returns the mean of |a - p| - |a - n| + margin over the triples for which it is above zero; 0 if there is none.

    a, p and n are features divided by their euclidean norm (features of norm 0 stay 0); p is another example of a's
    class, n one of another class.

    Args:
      features: [b, d].
      labels: whole numbers [b].
      margin: how much farther than p the other class should be.
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
                if a == p or labels[a] != labels[p] or labels[a] == labels[n]:
                    continue
                to_positive = np.sqrt(((units[a] - units[p]) ** 2).sum())
                to_negative = np.sqrt(((units[a] - units[n]) ** 2).sum())
                loss = to_positive - to_negative + margin
                if loss > 0:
                    losses.append(float(loss))
    return sum(losses) / len(losses) if losses else 0.0
