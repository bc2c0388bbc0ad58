"""TransRate: how many fewer bits the features take once the class is known."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._groups import class_members
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

EPSILON = 1e-4


@functools.partial(jax.jit, static_argnames=("num_classes", "max_class_size"))
def transrate(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    max_class_size: int,
    epsilon: float = EPSILON,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Mutual information of features and labels, by coding rates: R(Z) - Σ_c (n_c/n)·R(Z_c).

    R(Z) = ½ log det(I + Z·Zᵀ/(m·ε)) of m examples. Z are the centred features, scaled so that their squares sum to 1;
    Z_c those of class c, not centred again.

    Deviations of the authors' code: it weighs all classes alike instead of by their shares (the same if they are
    balanced), and scales before it centres.

    Invariances: rotation, translation, scaling.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; classes without examples add nothing.
      num_classes: c.
      max_class_size: no class has more examples (`TransferPair.max_class_size`).
      epsilon: ε, the distortion.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar >= 0 but for rounding; bigger is better; 0 if all features are equal. float64 for float64 features, else
      float32.

    References:
      Huang, Huang, Rong, Yang, Wei, 2022. Frustratingly easy transferability estimation.
      https://arxiv.org/abs/2106.09362
    """
    n = len(features)
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        total = total or _linalg.spectrum(scatter.total)
        points, mean, counts = scatter.points, scatter.mean, scatter.counts
        r, m = points.shape[1], max_class_size
        size = jnp.sum(total.values)
        scale = 1 / (jnp.where(size > 0, size, 1) * epsilon)
        # a class's determinant is the same of its m x m products and of its r x r ones: take what costs less
        small = num_classes * (2 * m * m * r + m**3 // 3) <= 2 * n * r * r + num_classes * (r**3 // 3)
        of_classes = _small_grams if small else _large_grams

        def rate(gram: jax.Array, count: jax.Array) -> jax.Array:
            factor = jnp.linalg.cholesky(jnp.eye(len(gram)) + scale / jnp.maximum(count, 1) * gram)
            return count * jnp.sum(jnp.log(jnp.diag(factor)))

        rates = of_classes(rate, points, labels, mean, counts, m)
        whole = jnp.sum(jnp.log1p(scale / n * total.values)) / 2
        return (whole - jnp.sum(rates) / n).astype(output_dtype(features))


_Rate = Callable[[jax.Array, jax.Array], jax.Array]


def _small_grams(
    rate: _Rate, points: jax.Array, labels: jax.Array, mean: jax.Array, counts: jax.Array, m: int
) -> jax.Array:
    """Returns `rate` of every class, from products between its examples, [m, m]."""
    indices, present = class_members(labels, num_classes=len(counts), size=m)

    def of_class(entry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        members, mask, count = entry
        rows = jnp.where(mask[:, None], points[members].astype(jnp.float64) - mean, 0)
        return rate(jnp.matmul(rows, rows.T, precision="highest"), count)

    chunk = _linalg.chunk_size(len(counts), 4 * m * (m + points.shape[1]))
    return jax.lax.map(of_class, (indices, present, counts), batch_size=chunk)


def _large_grams(
    rate: _Rate, points: jax.Array, labels: jax.Array, mean: jax.Array, counts: jax.Array, m: int
) -> jax.Array:
    """Returns `rate` of every class, from products between the coordinates, [r, r], summed over chunks of examples."""
    n, r = points.shape
    order = jnp.argsort(labels, stable=True).astype(jnp.int32)
    ends = jnp.cumsum(counts).astype(jnp.int32)
    chunk = _linalg.chunk_size(m, 4 * r)

    def of_class(entry: tuple[jax.Array, jax.Array]) -> jax.Array:
        end, count = entry
        begin = end - count.astype(jnp.int32)

        def add(index: jax.Array, gram: jax.Array) -> jax.Array:
            places = begin + index * chunk + jnp.arange(chunk, dtype=jnp.int32)
            rows = points[order[jnp.minimum(places, n - 1)]].astype(jnp.float64) - mean
            rows = jnp.where((places < end)[:, None], rows, 0)
            return gram + jnp.matmul(rows.T, rows, precision="highest")

        # only as many chunks as this class has: a large class does not make the others cost as much
        chunks = (end - begin + chunk - 1) // chunk
        return rate(jax.lax.fori_loop(0, chunks, add, jnp.zeros((r, r), jnp.float64)), count)

    return jax.lax.map(of_class, (ends, counts))


METRIC = Metric(
    name="transrate",
    fn=transrate,
    inputs=("features", "labels"),
    static=("num_classes", "max_class_size"),
    shares=("scatter", "total"),
    invariances=frozenset({"rotation", "translation", "scaling"}),
)
