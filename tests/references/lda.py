"""LDA: the probability of the true class, and ETran, which adds the energy of the logits.

References:
  Gholami, Akbari, Wang, Kamranian and Zhang (2023), "ETran: Energy-Based Transferability Estimation", ICCV,
  https://arxiv.org/abs/2308.02027, sections 3.1 and 3.2; the shrinkage is that of SFDA, https://arxiv.org/abs/2207.03036.
"""

from __future__ import annotations

import math

import numpy as np


def lda(features: np.ndarray, labels: np.ndarray, *, num_components: int | None = None) -> float:
    """Returns the mean posterior of the true class of Gaussian classes with one covariance, example by example."""
    x = np.asarray(features, np.float64)
    if num_components is not None and num_components < x.shape[1]:
        x = x - x.mean(axis=0)
        x = x @ np.linalg.svd(x, full_matrices=False)[2][:num_components].T
    n, d = x.shape
    classes = np.unique(labels)
    means = {c: x[labels == c].mean(axis=0) for c in classes}
    within = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(x, labels, strict=True)) / n
    shrinkage = max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
    precision = np.linalg.inv((1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d))
    posteriors = []
    for row, label in zip(x, labels, strict=True):
        logs = {
            c: math.log((labels == c).mean()) - 0.5 * (row - means[c]) @ precision @ (row - means[c]) for c in classes
        }
        top = max(logs.values())
        posteriors.append(math.exp(logs[label] - top) / sum(math.exp(value - top) for value in logs.values()))
    return float(np.mean(posteriors))


def energy(logits: np.ndarray) -> float:
    """Returns the mean of log sum exp of the logits."""
    return float(
        np.mean([max(row) + math.log(sum(math.exp(v - max(row)) for v in row)) for row in logits.astype(float)])
    )
