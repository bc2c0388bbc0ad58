"""H-score: how much of the features' variance lies between the classes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype


@functools.partial(jax.jit, static_argnames=("num_classes", "regularized"))
def h_score(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    regularized: bool = False,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Trace of the inverse covariance of the features times the covariance of their class means.

    Plain: tr(S⁺·B), S the covariance of the features, B that of the class mean of each example. If the n examples are
    linearly independent (always so for random features with n <= d) it is exactly c-1 **whatever the labels**: take
    `h_score_regularized` there.

    Regularised: S is shrunk by Ledoit and Wolf's intensity α towards a multiple of the identity, and B by the factor
    1-α; with random labels and n < d it stays far below c-1. As in the authors' code B is divided by n-1 and S by n.

    Invariances: rotation, translation, scaling.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1.
      num_classes: c.
      regularized: see above (preset `h_score_regularized`).
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar in 0..c-1 (regularised: up to n/(n-1) times that); bigger is better. float64 for float64 features, else
      float32. Plain: directions with less than r·1e-12 of the largest variance count as without data, r = min(n, d).

    References:
      Bao, Li, Huang, Zhang, Zheng, Zamir, Guibas, 2019. An information-theoretic approach to transferability in task
      transfer learning. https://arxiv.org/abs/2212.10082
      Ibrahim, Ponomareva, Mazumder, 2021. Newer is not always better: rethinking transferability metrics, their
      peculiarities, stability and performance. https://arxiv.org/abs/2110.06893
    """
    n, d = features.shape
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        total = total or _linalg.spectrum(scatter.total)
        away = jnp.matmul(scatter.means - scatter.mean, total.vectors, precision="highest")
        between = scatter.counts @ away**2  # of each principal axis
        variances = total.values
        if not regularized:
            kept = variances > len(variances) * 1e-12 * variances[0]
            score = jnp.sum(jnp.where(kept, between / jnp.where(kept, variances, 1), 0))
        else:
            shrinkage = ledoit_wolf(scatter, total, d)
            mean_variance = jnp.sum(variances) / d
            shrunk = ((1 - shrinkage) * variances + shrinkage * mean_variance) / n
            share = between / jnp.where(shrunk > 0, shrunk, 1)
            score = (1 - shrinkage) * jnp.sum(jnp.where(shrunk > 0, share, 0)) / max(n - 1, 1)
        return score.astype(output_dtype(features))


def ledoit_wolf(scatter: Scatter, total: Spectrum, d: int) -> jax.Array:
    """Returns the intensity in 0..1 by which Ledoit and Wolf shrink the covariance towards its mean variance.

    Args:
      scatter: of the features.
      total: spectrum of `scatter.total`.
      d: number of features.

    References:
      Ledoit, Wolf, 2004. A well-conditioned estimator for large-dimensional covariance matrices.
      https://doi.org/10.1016/S0047-259X(03)00096-4
    """
    n = len(scatter.points)

    def add(state: jax.Array, rows: jax.Array, present: jax.Array) -> jax.Array:
        return state + jnp.sum(present * jnp.sum((rows - scatter.mean) ** 2, axis=1) ** 2)

    fourth = _linalg.fold_rows(add, jnp.float64(0.0), scatter.points) / n
    variances = total.values / n
    square, mean = jnp.sum(variances**2), jnp.sum(variances) / d
    distance = square - d * mean**2  # of the covariance from its target, squared
    error = jnp.minimum((fourth - square) / n, distance)
    return jnp.where(error > 0, error / jnp.where(distance > 0, distance, 1), 0)


def _metric(name: str, *, regularized: bool) -> Metric:
    return Metric(
        name=name,
        fn=functools.partial(h_score, regularized=regularized),
        inputs=("features", "labels"),
        shares=("scatter", "total"),
        range=(0.0, float("inf")),
        invariances=frozenset({"rotation", "translation", "scaling"}),
    )


METRICS = (_metric("h_score", regularized=False), _metric("h_score_regularized", regularized=True))
