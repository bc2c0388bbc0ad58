"""Peers of the metrics that compare variance between and within classes: see `peers`."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from experiments.benchmarks.peer_data import Data, class_means, of_true_class


def h_score(data: Data) -> float:
    """`np.cov` of the features and of the class mean of each example, and `np.linalg.pinv`."""
    between = np.cov(class_means(data.features, data)[data.labels], rowvar=False)
    return float(np.sum(np.linalg.pinv(np.cov(data.features, rowvar=False), rcond=1e-15) * between))


def h_score_regularized(data: Data) -> float:
    """The same with `LedoitWolf`, in float64 as in the authors' code."""
    f = data.features.astype(np.float64)
    fitted = LedoitWolf().fit(f)
    between = np.cov(class_means(f, data)[data.labels], rowvar=False)
    return float((1 - fitted.shrinkage_) * np.sum(np.linalg.pinv(fitted.covariance_, rcond=1e-15) * between))


def _reduced(data: Data) -> np.ndarray:
    """Returns float64 [n, q], the n/10 leading principal components if there are more features, by the fastest PCA."""
    n, d = data.features.shape
    if n // 10 >= d:
        return data.features.astype(np.float64)
    return PCA(n // 10, svd_solver="covariance_eigh" if n >= d else "full").fit_transform(data.features).astype(float)


def _shrinkage(within: np.ndarray, *, published: bool = False) -> float:
    """Returns SFDA's λ from the largest eigenvalue; `published`: from its estimate by power iteration."""
    if not published:
        largest = scipy.linalg.eigh(within, eigvals_only=True, subset_by_index=[len(within) - 1, len(within) - 1])[0]
    else:
        x = within.sum(axis=1)
        for _ in range(3):
            y = within @ x
            y /= np.linalg.norm(y)
            x = within @ y
            x /= np.linalg.norm(x)
        largest = x @ within @ y
    return max(float(np.exp(-5 * largest)), 1e-10)


def _challenged(x: np.ndarray, data: Data, *, published: bool = False) -> float:
    """Returns SFDA's score: `np.cov` and `scipy.linalg.eigh` twice."""
    priors = np.bincount(data.labels, minlength=data.num_classes) / len(x)
    shrinkage, d = 0.0, x.shape[1]
    for first in (True, False):
        means = class_means(x, data)
        within, total = np.cov(x - means[data.labels], rowvar=False, bias=True), np.cov(x, rowvar=False, bias=True)
        if first:
            shrinkage = _shrinkage(within, published=published)
        for matrix in (within, total):
            mean = np.trace(matrix) / d
            matrix *= 1 - shrinkage
            matrix.flat[:: d + 1] += shrinkage * mean
        _, vectors = scipy.linalg.eigh(total - within, within)
        weights = means @ vectors @ vectors.T
        scores = x @ weights.T - 0.5 * np.sum(means * weights, axis=1) + np.log(priors)
        shares = scipy.special.softmax(scores, axis=1)
        if first:
            own = scipy.special.softmax(shares, axis=1)[np.arange(len(x)), data.labels][:, None]
            others = (means.sum(axis=0) - means) / (len(means) - 1)
            x = own * x + (1 - own) * others[data.labels]
    return of_true_class(shares, data)


def sfda(data: Data) -> float:
    """PCA to n/10 components, the guard, then the authors' code."""
    return _challenged(_reduced(data), data)


def sfda_published(data: Data) -> float:
    """The authors' code."""
    return _challenged(data.features.astype(np.float64), data, published=True)


def lda(data: Data) -> float:
    """PCA to n/10 components, λ, and `LinearDiscriminantAnalysis`."""
    x = _reduced(data)
    within = np.cov(x - class_means(x, data)[data.labels], rowvar=False, bias=True)
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=_shrinkage(within))
    return of_true_class(model.fit(x, data.labels).predict_proba(x), data)


def etran(data: Data) -> float:
    """`lda` and `scipy.special.logsumexp` of the logits."""
    return lda(data) + float(np.mean(scipy.special.logsumexp(data.logits, axis=1)))


def ped(data: Data) -> float:
    """The classes pushed apart, all pairs at once; then `sfda`."""
    x = data.features.astype(np.float64)
    means = start = class_means(x, data)
    squares = np.sum((x - means[data.labels]) ** 2, axis=1)
    radii = 0.6 * np.sqrt(np.bincount(data.labels, squares) / np.bincount(data.labels))
    first = 0.0
    for _ in range(6):
        away = means[:, None] - means
        distances = np.linalg.norm(away, axis=2)
        np.fill_diagonal(distances, np.inf)
        overlap = np.maximum(radii[:, None] + radii - distances, 0)
        moves = np.einsum("ij,ijk->ik", 0.005 * overlap / distances, away)
        size = float(np.linalg.norm(moves, axis=1).sum())
        first = first or size
        if size <= 0.5 * first:
            break
        means = means + moves
    moved = x + (means - start)[data.labels]
    return sfda(data._replace(features=moved))
