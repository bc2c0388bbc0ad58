"""Linear probe: ridge regression, refitted without each example.

References:
  Allen (1974), "The Relationship between Variable Selection and Data Augmentation and a Method for Prediction",
  Technometrics 16, https://doi.org/10.1080/00401706.1974.10489157.
"""

from __future__ import annotations

import numpy as np


def linear_probe(features: np.ndarray, labels: np.ndarray, penalties: tuple[float, ...]) -> float:
    """Returns 1 - (smallest left-out squared error) / (that of the mean label of the other examples).

    The penalty is a multiple of the mean eigenvalue of the centred scatter of all examples. Every model is fitted anew
    without the example, its features and labels centred by the means of those it is fitted to.
    """
    x = np.asarray(features, np.float64)
    n, d = x.shape
    y = np.array([[float(label == c) for c in range(int(max(labels)) + 1)] for label in labels])
    scale = ((x - x.mean(axis=0)) ** 2).sum() / min(n, d)
    errors = []
    for penalty in penalties:
        error = 0.0
        for i in range(n):
            kept = np.arange(n) != i
            mean, offset = x[kept].mean(axis=0), y[kept].mean(axis=0)
            away = x[kept] - mean
            weights = np.linalg.solve(away.T @ away + penalty * scale * np.eye(d), away.T @ (y[kept] - offset))
            error += float(((y[i] - offset - (x[i] - mean) @ weights) ** 2).sum())
        errors.append(error)
    baseline = sum(float(((y[i] - y[np.arange(n) != i].mean(axis=0)) ** 2).sum()) for i in range(n))
    return 1 - min(errors) / baseline
