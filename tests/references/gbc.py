"""GBC: the Gaussian Bhattacharyya coefficient, spherical form.

References:
  Pandy, Agostinelli, Uijlings, Ferrari and Mensink (2022), "Transferability Estimation using Bhattacharyya Class
  Separability", CVPR, https://arxiv.org/abs/2111.12780, equations (2) to (4); Bhattacharyya distance of Gaussians.
"""

from __future__ import annotations

import numpy as np


def gbc(features: np.ndarray, labels: np.ndarray, *, num_components: int = 64) -> float:
    """Returns minus the sum over ordered pairs of classes of exp(-distance), after PCA."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    q = min(num_components, *x.shape)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:q].T
    total = 0.0
    for a in np.unique(labels):
        for b in np.unique(labels):
            if a == b:
                continue
            one, other = x[labels == a], x[labels == b]
            cov_a, cov_b = one.var(axis=0).mean() * np.eye(q), other.var(axis=0).mean() * np.eye(q)
            cov = (cov_a + cov_b) / 2
            away = one.mean(axis=0) - other.mean(axis=0)
            logs = [np.linalg.slogdet(matrix)[1] for matrix in (cov, cov_a, cov_b)]
            total += np.exp(-away @ np.linalg.solve(cov, away) / 8 - (logs[0] - (logs[1] + logs[2]) / 2) / 2)
    return -float(total)
