"""H-score, plain and regularised.

References:
  Bao, Li, Huang, Zhang, Zheng, Zamir and Guibas (2019), "An Information-Theoretic Approach to Transferability in Task
  Transfer Learning", ICIP, definition 2; Ibrahim, Ponomareva and Mazumder (2021), "Newer is not always better",
  https://arxiv.org/abs/2110.06893, section 3; Ledoit and Wolf (2004), section 3.3.
"""

from __future__ import annotations

import numpy as np


def ledoit_wolf(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the shrunk covariance [d, d] and the intensity."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    n, d = x.shape
    covariance = sum(np.outer(row, row) for row in x) / n
    target = np.trace(covariance) / d * np.eye(d)
    distance = ((covariance - target) ** 2).sum()
    error = sum(((np.outer(row, row) - covariance) ** 2).sum() for row in x) / n**2
    alpha = min(error, distance) / distance if distance > 0 else 0.0
    return (1 - alpha) * covariance + alpha * target, alpha


def h_score(features: np.ndarray, labels: np.ndarray, *, regularized: bool = False) -> float:
    """Returns the trace of the (pseudo-)inverse covariance times the covariance of the class means."""
    x = np.asarray(features, np.float64)
    means = np.array([x[labels == label].mean(axis=0) for label in labels])
    if not regularized:
        return float(np.trace(np.linalg.pinv(np.cov(x.T, ddof=0), rcond=1e-10) @ np.cov(means.T, ddof=0)))
    covariance, alpha = ledoit_wolf(x)
    return float((1 - alpha) * np.trace(np.linalg.inv(covariance) @ np.cov(means.T, ddof=1)))
