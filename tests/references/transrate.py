"""TransRate: mutual information by coding rates.

References:
  Huang, Huang, Rong, Yang and Wei (2022), "Frustratingly Easy Transferability Estimation", ICML,
  https://arxiv.org/abs/2106.09362, section 3.
"""

from __future__ import annotations

import numpy as np


def coding_rate(z: np.ndarray, epsilon: float) -> float:
    """Returns half the log-determinant of I + ZᵀZ/(m·epsilon)."""
    m, d = z.shape
    return 0.5 * float(np.linalg.slogdet(np.eye(d) + z.T @ z / (m * epsilon))[1])


def transrate(features: np.ndarray, labels: np.ndarray, *, epsilon: float = 1e-4) -> float:
    """Returns the rate of all examples less that within the classes, weighted by their shares."""
    x = np.asarray(features, np.float64)
    z = x - x.mean(axis=0)
    z = z / np.sqrt(np.trace(z @ z.T))
    within = sum((labels == c).mean() * coding_rate(z[labels == c], epsilon) for c in np.unique(labels))
    return coding_rate(z, epsilon) - float(within)
