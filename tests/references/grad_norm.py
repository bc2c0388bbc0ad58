"""GradNorm of a linear head that is all zeros.

References:
  Abdelfattah, Mehrotra, Dudziak and Lane (2021), "Zero-Cost Proxies for Lightweight NAS", ICLR,
  https://arxiv.org/abs/2101.08134: the norm of the gradient; here of mean cross-entropy at the head's kernel.
"""

from __future__ import annotations

import numpy as np


def grad_norm(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the Frobenius norm of Σ_i x_i (p_i - y_i)ᵀ / n, with p uniform over the classes that occur."""
    x = np.asarray(features, np.float64)
    classes = np.unique(labels)
    total = np.zeros((x.shape[1], len(classes)))
    for row, label in zip(x, labels, strict=True):
        for k, c in enumerate(classes):
            total[:, k] += row * (1 / len(classes) - (label == c)) / len(x)
    return float(np.sqrt(np.sum(total**2)))
