"""NLEEP: LEEP with the components of a Gaussian mixture of the features in place of the source's classes.

References:
  Li, Jia, Sang, Zhu, Green, Wang and Gong (2021), "Ranking Neural Checkpoints", CVPR, https://arxiv.org/abs/2011.11200,
  section 3.2: PCA, Gaussian mixture, equation (5).

What the published code of SFDA (Shao et al. 2022) and of Juodelyte et al. (2024) computes: PCA that keeps more than 80
percent of the variance, five components per class, and the mean of the likelihood, where the paper has that of its
logarithm.
"""

from __future__ import annotations

import numpy as np

from tests.references import leep, mixture


def principal_components(features: np.ndarray) -> np.ndarray:
    """Returns the leading principal components that hold more than 80 % of the variance, [n, q]."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    shares = singular**2 / np.sum(singular**2)
    q, held = 0, 0.0
    while held <= 0.8:
        held += shares[q]
        q += 1
    return left[:, :q] * singular[:q]


def nleep(
    features: np.ndarray, labels: np.ndarray, clusters: np.ndarray, *, published: bool = False, relative: float = 1e-3
) -> float:
    """Returns the mean log-likelihood of the labels given the mixture's components; as published, without the log.

    Args:
      features: [n, d].
      labels: whole numbers [n].
      clusters: the cluster that each example starts in, 0..5c-1 for the c classes that occur.
      published: see above; and the constant on the covariances' diagonal is 1e-6.
      relative: else that constant is this share of the mean variance of a component.
    """
    x = principal_components(features)
    regularization = 1e-6 if published else relative * x.var(axis=0).mean()
    theta = mixture.posteriors(x, clusters, 5 * len(np.unique(labels)), regularization)
    if not published:
        return leep.leep(theta, labels)
    total = 0.0
    for i in range(len(labels)):
        same = np.asarray(labels) == labels[i]
        total += sum(
            theta[i, z] * theta[same, z].sum() / theta[:, z].sum() for z in range(theta.shape[1]) if theta[i, z]
        )
    return total / len(labels)
