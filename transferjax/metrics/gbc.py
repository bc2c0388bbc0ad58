"""GBC: how little the classes overlap, if each is a Gaussian."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

NUM_COMPONENTS = 64
_FLOOR = 1e-12  # of the mean variance: what a class of one example, or of equal ones, is given


@functools.partial(jax.jit, static_argnames=("num_classes",))
def gbc(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Gaussian Bhattacharyya coefficient, negated: summed over all ordered pairs of classes.

    After PCA to 64 dimensions (all, if there are fewer) each class is a spherical Gaussian. Two of them overlap by
    exp(-D), D = ‖m_a - m_b‖²/(8·s) + (q/2)·log(s/√(s_a·s_b)), s_a and s_b the variances, s their mean, q the number of
    dimensions. The factor q belongs there (the determinant of s·I is s^q); a public implementation lacks it.

    Invariances: rotation, translation, scaling.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; a class without examples overlaps with none.
      num_classes: c.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar in -c·(c-1)..0; bigger is better. float64 for float64 features, else float32. A class without variance is
      given 1e-12 of the mean variance.

    References:
      Pándy, Agostinelli, Uijlings, Ferrari, Mensink, 2022. Transferability estimation using Bhattacharyya class
      separability. https://arxiv.org/abs/2111.12780
    """
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        total = total or _linalg.spectrum(scatter.total)
        q = min(NUM_COMPONENTS, len(total.values))
        axes = total.vectors[:, :q]
        centres = jnp.matmul(scatter.means - scatter.mean, axes, precision="highest")

        def add(state: jax.Array, rows: jax.Array, present: jax.Array, classes: jax.Array) -> jax.Array:
            away = jnp.matmul(rows - scatter.mean, axes, precision="highest") - centres[classes]
            return state.at[classes].add(present * jnp.sum(away**2, axis=1))

        squares = _linalg.fold_rows(add, jnp.zeros(num_classes, jnp.float64), scatter.points, labels)
        floor = _FLOOR * jnp.sum(total.values[:q]) / (q * jnp.sum(scatter.counts)) + jnp.finfo(jnp.float64).tiny
        variances = jnp.maximum(squares / (q * jnp.maximum(scatter.counts, 1)), floor)
        lengths = jnp.sum(centres**2, axis=1)
        products = jnp.matmul(centres, centres.T, precision="highest")
        distances = jnp.maximum(lengths[:, None] + lengths - 2 * products, 0)
        mean = (variances[:, None] + variances) / 2
        logs = jnp.log(variances)
        overlap = jnp.exp(-distances / (8 * mean) - q / 2 * (jnp.log(mean) - (logs[:, None] + logs) / 2))
        present = scatter.counts > 0
        counted = present[:, None] & present & ~jnp.eye(num_classes, dtype=bool)
        return -jnp.sum(jnp.where(counted, overlap, 0)).astype(output_dtype(features))


METRIC = Metric(
    name="gbc",
    fn=gbc,
    inputs=("features", "labels"),
    shares=("scatter", "total"),
    range=(-float("inf"), 0.0),
    invariances=frozenset({"rotation", "translation", "scaling"}),
)
