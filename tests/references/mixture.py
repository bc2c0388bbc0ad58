"""Gaussian mixture with full covariances, by EM.

References:
  Dempster, Laird and Rubin (1977), "Maximum Likelihood from Incomplete Data via the EM Algorithm". Bishop (2006),
  "Pattern Recognition and Machine Learning", section 9.2.2. Details as in scikit-learn's GaussianMixture: a constant is
  added to the covariances' diagonal, 10 machine epsilons to the components' sizes; EM ends when the mean log-likelihood
  changes by less than 1e-3, and the posteriors are those after one more step.
"""

from __future__ import annotations

import numpy as np


def posteriors(
    points: np.ndarray, clusters: np.ndarray, num_components: int, regularization: float, max_iterations: int = 100
) -> np.ndarray:
    """Returns P(component | point), [n, k], from the cluster 0..k-1 that each point starts in."""
    n, q = points.shape
    shares = np.eye(num_components)[clusters]
    before = -np.inf
    last = False
    for iteration in range(max_iterations + 1):
        densities = np.empty((n, num_components))
        sizes = shares.sum(axis=0) + 10 * np.finfo(float).eps
        for k in range(num_components):
            mean = shares[:, k] @ points / sizes[k]
            away = points - mean
            covariance = (shares[:, k][:, None] * away).T @ away / sizes[k] + regularization * np.eye(q)
            values, vectors = np.linalg.eigh(covariance)
            distances = (((away @ vectors) ** 2) / values).sum(axis=1)
            densities[:, k] = np.log(sizes[k] / sizes.sum()) - 0.5 * (
                q * np.log(2 * np.pi) + np.log(values).sum() + distances
            )
        top = densities.max(axis=1, keepdims=True)
        powers = np.exp(densities - top)
        shares = powers / powers.sum(axis=1, keepdims=True)
        if last:
            break
        bound = float(np.mean(top[:, 0] + np.log(powers.sum(axis=1))))
        last = abs(bound - before) < 1e-3 or iteration + 1 == max_iterations
        before = bound
    return shares
