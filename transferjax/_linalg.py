"""Linear algebra that several metrics share: pure, traceable, wide sums in the input dtype, small ones in float64."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Elements of the largest temporary of a chunked kernel: 64 MB in float32, the size at which chunks stop costing time.
CHUNK_ELEMENTS = 2**24


def chunk_size(n: int, elements_per_item: int) -> int:
    """Returns how many of n items to process at once so that temporaries keep to `CHUNK_ELEMENTS`."""
    return max(1, min(n, CHUNK_ELEMENTS // max(1, elements_per_item)))


class Moments(NamedTuple):
    """Second moments of features about zero, exact enough for float64 work: see `moments`.

    Attributes:
      gram: float64 [d, d] if n >= d (XᵀX), else [n, n] (XXᵀ).
      cross: float64, Xᵀ·targets [d, c] if n >= d, else the targets themselves [n, c].
    """

    gram: jax.Array
    cross: jax.Array


def moments(features: jax.Array, targets: jax.Array) -> Moments:
    """Returns the smaller Gram matrix of the features and their products with the targets.

    The O(n·d·min(n, d)) product runs in the input dtype on *centred* features, and the mean's share, a rank-one matrix,
    is added in float64. Features after a ReLU have means larger than their spread; without the centring the small
    eigenvalues drown in the rounding of the large one (measured for logme on the golden case `scaled`: 1.5e-3 relative
    without, 7.5e-6 with).

    Args:
      features: float [n, d].
      targets: float [n, c].

    Returns:
      `Moments`, in float64. Call it, and use its result, inside `jax.enable_x64(True)`.
    """
    n, d = features.shape
    mean = jnp.mean(features, axis=0)
    centred = features - mean
    targets64, mean64 = targets.astype(jnp.float64), mean.astype(jnp.float64)
    if n >= d:
        rest = jnp.sum(centred, axis=0, dtype=jnp.float64)  # the rounding of the mean, not exactly zero
        outer = rest[:, None] * mean64
        gram = jnp.matmul(centred.T, centred, precision="highest").astype(jnp.float64)
        gram = gram + outer + outer.T + n * mean64[:, None] * mean64
        cross = jnp.matmul(centred.T, targets.astype(features.dtype), precision="highest").astype(jnp.float64)
        return Moments(gram, cross + mean64[:, None] * jnp.sum(targets64, axis=0))
    along = jnp.matmul(centred, mean, precision="highest").astype(jnp.float64)
    gram = jnp.matmul(centred, centred.T, precision="highest").astype(jnp.float64)
    return Moments(gram + along[:, None] + along + jnp.sum(mean64**2), targets64)


def principal_axes(features: jax.Array, k: int) -> jax.Array:
    """Returns the k leading principal axes as rows [k, d], of unit length, in the input dtype.

    Exact, by the eigenvectors of the smaller of the two Gram matrices of the centred features; the signs are arbitrary.
    k may not exceed min(n, d).
    """
    n, d = features.shape
    centred = features - jnp.mean(features, axis=0)
    if n >= d:
        _, vectors = jnp.linalg.eigh(jnp.matmul(centred.T, centred, precision="highest"))
        return vectors[:, ::-1][:, :k].T
    _, vectors = jnp.linalg.eigh(jnp.matmul(centred, centred.T, precision="highest"))
    axes = jnp.matmul(vectors[:, ::-1][:, :k].T, centred, precision="highest")
    return axes / jnp.maximum(jnp.linalg.norm(axes, axis=1, keepdims=True), jnp.finfo(axes.dtype).tiny)


def nearest_neighbors(points: jax.Array, k: int, *, include_self: bool) -> jax.Array:
    """Returns the indices of the k nearest neighbours of each point, int32 [n, k], nearest first.

    Euclidean distance; of equally distant neighbours the one of smaller index comes first. Works in chunks of rows:
    O(n²·d) time, memory bounded by `CHUNK_ELEMENTS`.

    Args:
      points: float [n, d].
      k: at most n, or n-1 without the point itself.
      include_self: whether a point is its own first neighbour.
    """
    n = len(points)
    points = points - jnp.mean(points, axis=0)  # distances stay, the cancellation in ‖a‖² + ‖b‖² − 2ab shrinks
    squares = jnp.sum(points**2, axis=1)
    own = -jnp.inf if include_self else jnp.inf

    def neighbors_of(index: jax.Array) -> jax.Array:
        # ‖a‖² is the same for all neighbours of a and does not change their order
        distances = squares - 2 * jnp.matmul(points, points[index], precision="highest")
        return jax.lax.top_k(-distances.at[index].set(own), k)[1]

    return jax.lax.map(neighbors_of, jnp.arange(n), batch_size=chunk_size(n, n))


@functools.partial(jax.jit, static_argnames=("num_neighbors", "include_self"))
def neighbor_share(
    features: jax.Array, labels: jax.Array, *, num_neighbors: int = 5, include_self: bool = False
) -> jax.Array:
    """Mean share of the own class among the nearest neighbours.

    It is the expected accuracy of naming the class of a neighbour drawn at random, which needs no rule for ties.

    Args:
      features: float [n, d], n > num_neighbors.
      labels: int [n].
      num_neighbors: of how many.
      include_self: whether an example counts as its own first neighbour.

    Returns:
      Scalar in 0..1; bigger is better. float64 for float64 features, else float32.
    """
    k = min(num_neighbors, len(labels) if include_self else len(labels) - 1)
    found = nearest_neighbors(features, k, include_self=include_self)
    return jnp.mean(labels[found] == labels[:, None], dtype=jnp.promote_types(features.dtype, jnp.float32))
