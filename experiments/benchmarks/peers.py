"""What a competent user of NumPy, SciPy and scikit-learn writes for each metric, as the published codes do it.

Vectorised, with the libraries' own threads, in the dtype that the published code works in: features come as float32 and
are widened where it widens them, or calls what does (`np.cov`, `RidgeCV`). Each works for itself, as their users do:
nothing is shared between metrics. Where a metric deviates from the published code by definition (its docstring in
`transferjax.metrics` says so) the peer computes our definition, so that both do the same work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors, NeighborhoodComponentsAnalysis
from sklearn.preprocessing import StandardScaler

from experiments.benchmarks.peer_data import Data, class_means, of_true_class, one_hot
from experiments.benchmarks.peers_fisher import (
    etran,
    h_score,
    h_score_regularized,
    lda,
    ped,
    sfda,
    sfda_published,
)


def logme(data: Data) -> float:
    """For n > d singular vectors by way of XᵀX, as in the authors' code; then class by class."""
    f = data.features.astype(np.float64)
    n, d = f.shape
    if n > d:
        _, s, vh = np.linalg.svd(f.T @ f)
        s = np.sqrt(s[s > 1e-20])
        u = (f @ vh[: len(s)].T) / s
    else:
        u, s, _ = np.linalg.svd(f, full_matrices=False)
    sigma, evidences = s**2, []
    for c in range(data.num_classes):
        y = (data.labels == c).astype(np.float64)
        x2 = (u.T @ y) ** 2
        outside = y @ y - x2.sum()
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * x2 / (t + sigma) ** 2).sum()
            res2 = (x2 / (1 + sigma / t) ** 2).sum() + outside
            alpha, beta = gamma / (m2 + 1e-5), (n - gamma) / (res2 + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        evidence = len(s) / 2 * np.log(alpha) + n / 2 * np.log(beta) - 0.5 * np.log(alpha + beta * sigma).sum()
        evidences.append((evidence - beta / 2 * res2 - alpha / 2 * m2 - n / 2 * np.log(2 * np.pi)) / n)
    return float(np.mean(evidences))


def linear_probe(data: Data) -> float:
    """`RidgeCV` on the one-hot labels, which leaves one out in closed form."""
    n, d = data.features.shape
    y = one_hot(data).astype(np.float64)
    scale = n * np.var(data.features, axis=0, dtype=np.float64).sum() / min(n, d)
    fitted = RidgeCV(alphas=scale * np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4])).fit(data.features, y)
    baseline = ((y - y.mean(axis=0)) ** 2).mean() * (n / (n - 1)) ** 2
    return float(1 + fitted.best_score_ / baseline)


def gbc(data: Data) -> float:
    """`PCA` to 64 dimensions, then all pairs of classes at once."""
    x = PCA(min(64, *data.features.shape), random_state=0).fit_transform(data.features).astype(np.float64)
    means, q = class_means(x, data), x.shape[1]
    squares = np.sum((x - means[data.labels]) ** 2, axis=1)
    variances = np.bincount(data.labels, squares) / np.bincount(data.labels) / q
    mean = (variances[:, None] + variances) / 2
    squares = np.sum((means[:, None] - means) ** 2, axis=2)
    distances = squares / (8 * mean) + q / 2 * np.log(mean / np.sqrt(variances[:, None] * variances))
    return float(len(means) - np.exp(-distances).sum())


def grad_norm(data: Data) -> float:
    """One product of the features with 1/c less the one-hot labels."""
    away = 1 / data.num_classes - one_hot(data)
    return float(np.linalg.norm(data.features.T @ away)) / len(away)


def lfc(data: Data) -> float:
    """Both n x n kernels, centred, in float32."""
    x = data.features - data.features.mean(axis=0)
    kernel = x @ x.T
    same = np.where(data.labels[:, None] == data.labels, np.float32(1), np.float32(-1))
    same -= same.mean(axis=0)
    same -= same.mean(axis=1, keepdims=True)
    return float(np.vdot(kernel, same) / (np.linalg.norm(kernel) * np.linalg.norm(same)))


def knn(data: Data) -> float:
    """`NearestNeighbors`, which leaves each example out of its own."""
    found = NearestNeighbors(n_neighbors=5).fit(data.features).kneighbors(return_distance=False)
    return float(np.mean(data.labels[found] == data.labels[:, None]))


def leep(data: Data) -> float:
    """A softmax and two products."""
    theta = scipy.special.softmax(data.logits, axis=1)
    joint = one_hot(data).T @ theta
    conditional = joint / joint.sum(axis=0)
    return float(np.mean(np.log(np.sum(conditional[data.labels] * theta, axis=1))))


def nce(data: Data) -> float:
    """`np.bincount` over both labels."""
    n, k = data.logits.shape
    places = data.labels * k + data.logits.argmax(axis=1)
    joint = np.bincount(places, minlength=k * data.num_classes).reshape(-1, k)
    return float(np.sum(scipy.special.xlogy(joint, joint / np.maximum(joint.sum(axis=0), 1))) / n)


def rankme(data: Data) -> float:
    """`np.linalg.svd` without vectors, in float32 as given."""
    singular = np.linalg.svd(data.features, compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))


def transrate(data: Data) -> float:
    """`np.linalg.slogdet` of a d x d matrix for all and for each class, as the authors publish it."""
    z = data.features - data.features.mean(axis=0)
    z /= np.linalg.norm(z)

    def rate(rows: np.ndarray) -> float:
        return 0.5 * float(np.linalg.slogdet(np.eye(rows.shape[1]) + rows.T @ rows / (len(rows) * 1e-4))[1])

    parts = (z[data.labels == c] for c in range(data.num_classes))
    return rate(z) - sum(len(part) / len(z) * rate(part) for part in parts)


def parc(data: Data) -> float:
    """`PCA`, `StandardScaler`, `np.corrcoef` and `scipy.stats.spearmanr` over the pairs."""
    x = PCA(min(32, *data.features.shape), random_state=0).fit_transform(data.features)
    upper = np.triu_indices(len(x), 1)
    distances = (1 - np.corrcoef(rows)[upper] for rows in (StandardScaler().fit_transform(x), one_hot(data)))
    of_features, of_labels = distances
    return 100 * float(scipy.stats.spearmanr(of_features, of_labels.round(9))[0])


def tmi(data: Data) -> float:
    """`NearestNeighbors` within each class."""
    d, total, count = data.features.shape[1], 0.0, 0
    volume = d / 2 * np.log(np.pi) - scipy.special.gammaln(d / 2 + 1)
    for c in range(data.num_classes):
        rows = data.features[data.labels == c]
        if len(rows) > 1:
            k = min(3, len(rows) - 1)
            logs = np.log(NearestNeighbors(n_neighbors=k).fit(rows).kneighbors()[0][:, -1], dtype=np.float64)
            entropy = scipy.special.digamma(len(rows)) - scipy.special.digamma(k) + volume + d * logs.mean()
            total, count = total + len(rows) * entropy, count + len(rows)
    return float(total / count)


def pactran_gauss(data: Data) -> float:
    """`scipy.optimize.minimize` of the softmax regression, as often and as exactly as in the authors' code."""
    x, (n, d), c = data.features.astype(np.float64), data.features.shape, data.num_classes
    x -= x.mean(axis=0)
    y, strength = one_hot(data), 1 / (0.1 * n)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = flat[: d * c].reshape(d, c), flat[d * c :]
        logs = scipy.special.log_softmax(x @ weights + biases, axis=1)
        away = (np.exp(logs) - y) / n
        gradient = np.concatenate([(x.T @ away + strength * weights).ravel(), away.sum(axis=0)])
        return strength / 2 * np.sum(weights**2) - np.sum(y * logs) / n, gradient

    start = np.append(np.random.default_rng(0).standard_normal(d * c) / d, np.zeros(c))
    options = {"maxiter": 100}
    found = scipy.optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", tol=1e-6, options=options)
    shares = scipy.special.softmax(x @ found.x[: d * c].reshape(d, c) + found.x[d * c :], axis=1)
    trace = np.sum(np.sum(shares * (1 - shares), axis=1) * (1 + np.sum(x**2, axis=1))) / n
    return -float(found.fun + c * strength / 2 * np.log1p(trace / (strength * d * c)))


def ncti(data: Data) -> tuple[float, float, float]:
    """`PCA` to 64 dimensions, `LinearDiscriminantAnalysis` and nuclear norms by `np.linalg.norm`."""
    pca = PCA(min(64, *data.features.shape), random_state=0)
    x = pca.fit_transform(data.features).astype(np.float64)
    shrinkage = max(float(np.exp(-pca.explained_variance_[:32].sum())), 1e-10)
    if shrinkage > 1e-10:
        model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
    else:
        model = LinearDiscriminantAnalysis(solver="svd")
    coordinates = model.fit(x, data.labels).transform(x)
    shares = model.predict_proba(x)
    norms = sum(np.linalg.norm(shares[data.labels == c], "nuc") for c in range(data.num_classes))
    centred = coordinates - coordinates.mean(axis=0)
    return float(np.linalg.norm(centred, "nuc")), of_true_class(shares, data), -float(np.log(norms))


def nleep(data: Data) -> float:
    """`PCA` to 80 % of the variance and `GaussianMixture`, in float64: in float32 it often fails.

    Its covariances are regularised as ours, a thousandth of the mean variance.
    """
    x = PCA(0.8).fit_transform(data.features.astype(np.float64))
    floor = 1e-3 * x.var(axis=0).mean()
    theta = GaussianMixture(5 * data.num_classes, reg_covar=floor, random_state=0).fit(x).predict_proba(x)
    joint = one_hot(data).T.astype(np.float64) @ theta
    conditional = joint / np.maximum(joint.sum(axis=0), np.finfo(float).tiny)
    return float(np.mean(np.log(np.sum(conditional[data.labels] * theta, axis=1))))


def _neighborhood_components(x: np.ndarray) -> NeighborhoodComponentsAnalysis:
    k = min(50, x.shape[1])
    start = "pca" if k < min(x.shape) else "identity"
    return NeighborhoodComponentsAnalysis(k, init=start, max_iter=50, tol=1e-5, random_state=0)


def feature_quality(data: Data) -> float:
    """`NeighborhoodComponentsAnalysis` and `KNeighborsClassifier`."""
    x = data.features.astype(np.float64)
    mapped = _neighborhood_components(x).fit_transform(x, data.labels)
    return of_true_class(KNeighborsClassifier(5).fit(mapped, data.labels).predict_proba(mapped), data)


def feature_quality_loo(data: Data) -> float:
    """The same fitted to four fifths of the examples and judged on the rest, for each fifth."""
    x, total = data.features.astype(np.float64), 0.0
    for known, asked in StratifiedKFold(5).split(x, data.labels):
        nca = _neighborhood_components(x[known]).fit(x[known], data.labels[known])
        model = KNeighborsClassifier(5).fit(nca.transform(x[known]), data.labels[known])
        right = data.labels[asked][:, None] == model.classes_
        total += float(np.sum(model.predict_proba(nca.transform(x[asked])) * right))
    return total / len(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer.

    Attributes:
      fn: `Data` → the value, or one for each of `metrics`.
      metrics: which of ours do the same work together.
      tolerance: relative difference of the values up to which they count as the same.
    """

    fn: Callable[[Data], float | tuple[float, ...]]
    metrics: tuple[str, ...]
    tolerance: float

    def values(self, data: Data) -> dict[str, float]:
        """Returns metric → value."""
        found = self.fn(data)
        return dict(zip(self.metrics, found if isinstance(found, tuple) else (found,), strict=True))


_SAME = 1e-3  # the peer has only float32 here and there
_RANDOM_PCA = 0.05  # the peer's principal components are approximate
_CUT_OFF = 0.05  # the peer's optimiser stops before the optimum
_RANDOM_START = 0.15  # either is one draw of many
PEERS = {
    peer.fn.__name__: peer
    for peer in (
        Peer(fn=etran, metrics=("etran",), tolerance=_SAME),
        Peer(fn=feature_quality, metrics=("feature_quality",), tolerance=_RANDOM_PCA),
        Peer(fn=feature_quality_loo, metrics=("feature_quality_loo",), tolerance=_RANDOM_START),
        Peer(fn=gbc, metrics=("gbc",), tolerance=_RANDOM_PCA),
        Peer(fn=grad_norm, metrics=("grad_norm",), tolerance=_SAME),
        Peer(fn=h_score, metrics=("h_score",), tolerance=_SAME),
        Peer(fn=h_score_regularized, metrics=("h_score_regularized",), tolerance=_SAME),
        Peer(fn=knn, metrics=("knn",), tolerance=_SAME),
        Peer(fn=lda, metrics=("lda",), tolerance=_SAME),
        Peer(fn=leep, metrics=("leep",), tolerance=_SAME),
        Peer(fn=lfc, metrics=("lfc",), tolerance=_SAME),
        Peer(fn=linear_probe, metrics=("linear_probe",), tolerance=_SAME),
        Peer(fn=logme, metrics=("logme",), tolerance=_SAME),
        Peer(fn=nce, metrics=("nce",), tolerance=_SAME),
        Peer(fn=ncti, metrics=("ncti_seli", "ncti_ncc", "ncti_vc"), tolerance=_RANDOM_PCA),
        Peer(fn=nleep, metrics=("nleep",), tolerance=_RANDOM_START),
        Peer(fn=pactran_gauss, metrics=("pactran_gauss",), tolerance=_CUT_OFF),
        Peer(fn=parc, metrics=("parc",), tolerance=_RANDOM_START),
        Peer(fn=ped, metrics=("ped",), tolerance=_SAME),
        Peer(fn=rankme, metrics=("rankme",), tolerance=_SAME),
        Peer(fn=sfda, metrics=("sfda",), tolerance=_SAME),
        Peer(fn=sfda_published, metrics=("sfda_published",), tolerance=_SAME),
        Peer(fn=tmi, metrics=("tmi",), tolerance=_SAME),
        Peer(fn=transrate, metrics=("transrate",), tolerance=_SAME),
    )
}
