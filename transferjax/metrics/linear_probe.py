"""Linear probe: how well a linear model predicts the labels of examples that it has not seen."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

# Penalties, as multiples of the mean eigenvalue of the scatter: from hardly any to almost nothing learnt.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4)


@functools.partial(jax.jit, static_argnames=("num_classes",))
def linear_probe(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Leave-one-out predictive R² of ridge regression onto the one-hot labels.

    One model with an intercept, its left-out predictions in closed form (residual/(1 - leverage)); of the penalties
    `PENALTIES` times the mean eigenvalue the one with the smallest left-out error counts. The score is 1 minus that
    error over that of predicting the mean label of the other examples.

    R² and not accuracy: where nothing can be learnt, left-out predictions lean towards the classes that the left-out
    example is *not* of, and the accuracy falls to 0 instead of to chance.

    Invariances: rotation, translation, scaling.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; or [n, c] of 0 and 1, each column a target of its own with a penalty of its own.
      num_classes: c.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar up to 1; 0: no better than the mean label; bigger is better. Choosing among eight penalties by the error
      that is reported leaves a little optimism. float64 for float64 features, else float32.

    References:
      Allen, 1974. The relationship between variable selection and data augmentation and a method for prediction.
      https://doi.org/10.1080/00401706.1974.10489157
    """
    n = len(features)
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        total = total or _linalg.spectrum(scatter.total)
        mean = scatter.mean
        if labels.ndim == 2:
            targets = labels
            sums = jnp.sum(labels, axis=0, dtype=jnp.float64)
            cross = _linalg.cross_products(scatter.points, labels) - mean[:, None] * sums
        else:
            targets = labels[:, None] == jnp.arange(num_classes)
            sums = scatter.counts
            cross = ((scatter.means - mean) * sums[:, None]).T
        along = jnp.matmul(total.vectors.T, cross, precision="highest")  # [r, c]
        scale = jnp.sum(total.values) / len(total.values)
        tiny = jnp.finfo(jnp.float64).tiny
        inverse = 1 / jnp.maximum(total.values + jnp.asarray(PENALTIES)[:, None] * scale, tiny)  # [penalties, r]

        def add(state: jax.Array, rows: jax.Array, present: jax.Array, target: jax.Array) -> jax.Array:
            axes = jnp.matmul(rows - mean, total.vectors, precision="highest")
            leverage = 1 / n + jnp.matmul(axes**2, inverse.T, precision="highest")  # [b, penalties]
            left = target.astype(jnp.float64) - sums / n
            errors = []
            for index in range(len(PENALTIES)):
                fitted = jnp.matmul(axes * inverse[index], along, precision="highest")
                out = (left - fitted) / jnp.maximum(1 - leverage[:, index], 1e-9)[:, None]
                errors.append(jnp.sum(present[:, None] * out**2, axis=0))
            return state + jnp.stack(errors)

        start = jnp.zeros((len(PENALTIES), targets.shape[1]), jnp.float64)
        errors = _linalg.fold_rows(add, start, scatter.points, targets)
        baseline = sums * (1 - sums / n) * (n / max(n - 1, 1)) ** 2  # Σ (y - mean of the others)²
        if labels.ndim == 2:
            return jnp.mean(1 - jnp.min(errors, axis=0) / baseline).astype(output_dtype(features))
        return (1 - jnp.min(jnp.sum(errors, axis=1)) / jnp.sum(baseline)).astype(output_dtype(features))


METRIC = Metric(
    name="linear_probe",
    fn=linear_probe,
    inputs=("features", "labels"),
    shares=("scatter", "total"),
    range=(-float("inf"), 1.0),
    multilabel="columns",
    invariances=frozenset({"rotation", "translation", "scaling"}),
)
