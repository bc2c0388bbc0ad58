"""LFC: label-feature correlation.

References:
  Deshpande, Achille, Ravichandran, Li, Zancato, Fowlkes, Bhotika, Soatto and Perona (2021), "A Linearized Framework
  and a New Benchmark for Model Selection for Fine-Tuning", https://arxiv.org/abs/2102.00084, section 4.
"""

from __future__ import annotations

import numpy as np


def lfc(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the cosine between the centred kernels of features and labels (1 for the same class, else -1)."""
    x = np.asarray(features, np.float64)
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    kernel = centre @ (x @ x.T) @ centre
    same = np.array([[1.0 if a == b else -1.0 for b in labels] for a in labels])
    same = centre @ same @ centre
    return float((kernel * same).sum() / np.sqrt((kernel**2).sum() * (same**2).sum()))
