"""TMI: the conditional entropy of the features given the class.

References:
  Xu and Kang (2023), "Fast and Accurate Transferability Measurement by Evaluating Intra-class Feature Variance", ICCV,
  https://arxiv.org/abs/2308.05986; Kozachenko and Leonenko (1987), "Sample estimate of the entropy of a random vector";
  Singh, Misra, Hnizdo, Fedorowicz and Demchuk (2003), "Nearest neighbor estimates of entropy", for k > 1.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def tmi(features: np.ndarray, labels: np.ndarray, *, k: int = 3) -> float:
    """Returns the mean of the classes' entropies in nats, weighted by size, of the classes of two examples at least."""
    x, y = np.asarray(features, np.float64), np.asarray(labels)
    floor = 1e-6 * math.sqrt(sum(float(np.sum((row - x.mean(axis=0)) ** 2)) for row in x) / len(x))
    total, count = 0.0, 0
    for c in np.unique(y):
        rows = x[y == c]
        if len(rows) > 1:
            total += len(rows) * entropy(rows, k=min(k, len(rows) - 1), floor=floor)
            count += len(rows)
    return total / count if count else 0.0


def entropy(x: np.ndarray, *, k: int, floor: float = 0.0) -> float:
    """Returns the differential entropy in nats of what the rows are drawn from."""
    m, d = x.shape
    logs = []
    for i in range(m):
        distances = sorted(math.sqrt(float(np.sum((x[i] - x[j]) ** 2))) for j in range(m) if j != i)
        logs.append(math.log(max(distances[k - 1], floor)))
    log_volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return float(special.digamma(m) - special.digamma(k)) + log_volume + d * float(np.mean(logs))
