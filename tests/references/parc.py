"""PARC: pairwise annotation representation comparison.

References:
  Bolya, Mittapalli and Hoffman (2021), "Scalable Diverse Model Selection for Accessible Transfer Learning", NeurIPS,
  https://arxiv.org/abs/2111.06977.

The published code: scikit-learn's randomised PCA and StandardScaler, `numpy.corrcoef`, `scipy.stats.spearmanr` over the
upper triangles. The rounding of `numpy.corrcoef` on one-hot rows is followed in rational numbers, operation by
operation, with each product and sum rounded together (FMA).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA


def parc(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns 100 times Spearman's correlation of feature and label distances; labels [n], or label sets [n, c]."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    axes = np.linalg.svd(x, full_matrices=False)[2][:32]
    axes = np.array([axis * np.sign(axis[np.argmax(abs(axis))]) for axis in axes])
    distance = set_distance if np.ndim(labels) == 2 else lambda a, b: float(a != b)
    return spearman(x @ axes.T, labels, distance)


def parc_published(features: np.ndarray, labels: np.ndarray, *, num_classes: int) -> float:
    """Returns the published code's score."""
    q = min(32, *np.shape(features))
    pca = PCA(n_components=q, svd_solver="randomized", random_state=1919, iterated_power=1)
    table = label_distances(num_classes)
    return spearman(pca.fit_transform(np.asarray(features, np.float64)), labels, lambda a, b: table[a, b])


def spearman(scores: np.ndarray, labels: np.ndarray, label_distance) -> float:
    """Returns the score of principal components [n, q]."""
    variances = scores.var(axis=0)
    z = np.zeros_like(scores)
    alive = variances > 1e-12 * variances.max()
    z[:, alive] = (scores[:, alive] - scores[:, alive].mean(axis=0)) / np.sqrt(variances[alive])
    feature_distances, label_distances = [], []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            feature_distances.append(1 - correlation(z[i], z[j]))
            label_distances.append(label_distance(labels[i], labels[j]))
    if np.ptp(feature_distances) < 1e-9 or np.ptp(label_distances) == 0:
        return 0.0
    return 100 * float(stats.spearmanr(feature_distances, label_distances)[0])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Pearson's correlation, 0 if one of the two is constant."""
    a_away, b_away = a - a.mean(), b - b.mean()
    if min(np.linalg.norm(a_away), np.linalg.norm(b_away)) <= 1e-10:
        return 0.0
    return float(a_away @ b_away / np.sqrt((a_away @ a_away) * (b_away @ b_away)))


def set_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns 1 minus the Jaccard index of two label sets over the labels known for both."""
    known = [k for k in range(len(a)) if a[k] >= 0 and b[k] >= 0]
    either = sum(1 for k in known if a[k] == 1 or b[k] == 1)
    both = sum(1 for k in known if a[k] == 1 and b[k] == 1)
    return 1 - both / either if either else 0.0


def label_distances(c: int) -> np.ndarray:
    """Returns 1 - `numpy.corrcoef` of one-hot rows of c classes as it is rounded, [c, c]."""
    rows = np.eye(c) - 1 / c
    covariance = np.empty((c, c))
    for i in range(c):
        for j in range(c):
            value = 0.0
            for k in range(c):
                value = float(Fraction(value) + Fraction(rows[i, k]) * Fraction(rows[j, k]))
            covariance[i, j] = value * (1 / (c - 1))
    deviations = [np.sqrt(covariance[i, i]) for i in range(c)]
    distances = np.empty((c, c))
    for i in range(c):
        for j in range(c):
            distances[i, j] = 1 - min(max(covariance[i, j] / deviations[i] / deviations[j], -1.0), 1.0)
    return distances
