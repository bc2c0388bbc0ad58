"""NCTI: three terms that measure how near features are to neural collapse.

References:
  Wang, Luo, Zheng, Huang and Baktashmotlagh (2023), "How Far Pre-trained Models Are from Neural Collapse on the Target
  Dataset Informs their Transferability", ICCV, section 4. The discriminant is written out: what scikit-learn's solvers
  compute differs between its versions by a factor n/(n-c).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg


def terms(features: np.ndarray, labels: np.ndarray, *, num_components: int = 64) -> dict[str, float]:
    """Returns the three terms, bigger is better, before any scaling over candidates."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    _, singular, axes = np.linalg.svd(x, full_matrices=False)
    q = min(num_components, *x.shape)
    x = x @ axes[:q].T
    shrinkage = max(math.exp(-(singular[:32] ** 2).sum() / (len(x) - 1)), 1e-10)
    classes, places = np.unique(labels, return_inverse=True)
    priors = np.bincount(places) / len(x)
    means = np.array([x[labels == c].mean(axis=0) for c in classes])
    within = sum(np.outer(row, row) for row in x - means[places]) / len(x)
    total = x.T @ x / len(x)
    if shrinkage > 1e-10:
        within = (1 - shrinkage) * within + shrinkage * np.trace(within) / q * np.eye(q)
        total = (1 - shrinkage) * total + shrinkage * np.trace(total) / q * np.eye(q)
        basis = np.eye(q)
    else:  # only where the classes have spread
        deviations = np.sqrt(np.diag(within))
        deviations[deviations < 1e-12 * deviations.max()] = 1
        values, vectors = np.linalg.eigh(within / np.outer(deviations, deviations))
        basis = vectors[:, values > 1e-8] / deviations[:, None]
    inside = basis.T @ within @ basis
    values, vectors = linalg.eigh(basis.T @ total @ basis - inside, inside)
    axes = basis @ vectors[:, np.argsort(-values)]
    rule = means @ axes @ axes.T
    scores = x @ rule.T - 0.5 * (means * rule).sum(axis=1) + np.log(priors)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    coordinates = x @ axes[:, : len(classes) - 1]
    coordinates = coordinates - coordinates.mean(axis=0)
    norms = sum(np.linalg.norm(shares[labels == c], ord="nuc") for c in classes)
    return {
        "seli": float(np.linalg.norm(coordinates, ord="nuc")),
        "ncc": float(shares[np.arange(len(x)), places].mean()),
        "vc": -math.log(norms),
    }
