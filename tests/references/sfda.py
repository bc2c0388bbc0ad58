"""SFDA: self-challenging Fisher discriminant analysis.

References:
  Shao, Zhao, Ge, Zhang, Yang, Wang, Shan and Luo (2022), "Not All Models Are Equal: Predicting Model Transferability in
  a Self-challenging Fisher Space", ECCV, https://arxiv.org/abs/2207.03036, equations (3) to (8).

What reproduces the golden values of the published code to 1e-14: covariances divide by n; three times two steps of
power iteration, whose estimate is x.A.y of the last two vectors; softmax twice in the first round, once in the second.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg


def softmax(scores: np.ndarray) -> np.ndarray:
    """Returns the softmax of every row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def largest_eigenvalue(matrix: np.ndarray) -> float:
    """Returns the estimate by power iteration from the row sums."""
    x = matrix.sum(axis=1)
    for _ in range(3):
        y = matrix @ x
        y = y / np.linalg.norm(y)
        x = matrix @ y
        x = x / np.linalg.norm(x)
    return float(x @ matrix @ y)


def sfda(features: np.ndarray, labels: np.ndarray, *, num_components: int | None = None) -> float:
    """Returns the mean share of the true class after the challenge.

    With `num_components`: after PCA to so many (if there are more), and with the exact largest eigenvalue.
    """
    x = np.asarray(features, np.float64)
    n, d = x.shape
    classes, y = np.unique(labels, return_inverse=True)
    if num_components is not None and num_components < d:
        x = x - x.mean(axis=0)
        x = x @ np.linalg.svd(x, full_matrices=False)[2][:num_components].T
        d = x.shape[1]
    shrinkage, shares = None, np.zeros((n, len(classes)))
    for challenge in (False, True):
        means = np.array([x[y == c].mean(axis=0) for c in range(len(classes))])
        if challenge:
            moved = np.empty_like(x)
            for i in range(n):
                rest = sum(means[c] for c in range(len(classes)) if c != y[i]) / (len(classes) - 1)
                moved[i] = shares[i, y[i]] * x[i] + (1 - shares[i, y[i]]) * rest
            x = moved
            means = np.array([x[y == c].mean(axis=0) for c in range(len(classes))])
        within = sum(np.outer(x[i] - means[y[i]], x[i] - means[y[i]]) for i in range(n)) / n
        total = np.cov(x.T, bias=True).reshape(d, d)
        if shrinkage is None:
            largest = largest_eigenvalue(within) if num_components is None else np.linalg.eigvalsh(within)[-1]
            shrinkage = max(math.exp(-5 * largest), 1e-10)
        within = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
        total = (1 - shrinkage) * total + shrinkage * np.trace(total) / d * np.eye(d)
        _, vectors = linalg.eigh(total - within, within)
        weights = means @ vectors @ vectors.T
        priors = np.array([(y == c).mean() for c in range(len(classes))])
        scores = x @ weights.T - 0.5 * (means * weights).sum(axis=1) + np.log(priors)
        shares = softmax(scores) if challenge else softmax(softmax(scores))
    return float(np.mean(shares[np.arange(n), y]))
