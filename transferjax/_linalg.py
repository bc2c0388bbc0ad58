"""Linear algebra that several metrics share: pure and traceable."""

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
    """Second moments of features about zero.

    Attributes:
      gram: float64 [d, d] if n >= d (XᵀX), else [n, n] (XXᵀ).
      cross: float64, Xᵀ·targets [d, c] if n >= d, else the targets themselves [n, c].
    """

    gram: jax.Array
    cross: jax.Array


def moments(features: jax.Array, targets: jax.Array) -> Moments:
    """Returns the smaller Gram matrix of the features and their products with the targets.

    All in float64, also the O(n·d·min(n, d)) product: what separates good sources from each other is what a linear
    model leaves over, and a float32 Gram matrix has no digits for that. At n=300, d=128, with a spread inside the
    classes of 1e-2 of their distance, the squared residual is a third off; at 1e-3 it is negative, which made the
    evidence infinite and ranked the best sources last (`experiments/benchmark.py`).

    Args:
      features: float [n, d].
      targets: float [n, c].

    Returns:
      `Moments`. Call it, and use its result, inside `jax.enable_x64(True)`.
    """
    n, d = features.shape
    features, targets = features.astype(jnp.float64), targets.astype(jnp.float64)
    if n >= d:
        product = functools.partial(jnp.matmul, features.T, precision="highest")
        return Moments(product(features), product(targets))
    return Moments(jnp.matmul(features, features.T, precision="highest"), targets)


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

    Euclidean distance; of equally distant neighbours the one of smaller index comes first, so where points coincide
    the result depends on their order. Works in chunks of rows: O(n²·d) time, memory bounded by `CHUNK_ELEMENTS`. In
    float64, since distances come from inner products: in float32 the neighbours within small groups that lie far apart
    drown (four such groups: share of the own class .61 instead of 1; `experiments/benchmark.py`).

    Args:
      points: float [n, d].
      k: at most n, or n-1 without the point itself.
      include_self: whether a point is its own first neighbour.
    """
    n = len(points)
    own = -jnp.inf if include_self else jnp.inf
    with jax.enable_x64(True):
        points = points.astype(jnp.float64)
        points = points - jnp.mean(points, axis=0)  # distances stay, the cancellation in ‖b‖² − 2ab shrinks
        squares = jnp.sum(points**2, axis=1)

        def neighbors_of(index: jax.Array) -> jax.Array:
            # ‖a‖² is the same for all neighbours of a and does not change their order
            distances = squares - 2 * jnp.matmul(points, points[index], precision="highest")
            return jax.lax.top_k(-distances.at[index].set(own), k)[1]

        indices = jnp.arange(n, dtype=jnp.int32)
        return jax.lax.map(neighbors_of, indices, batch_size=chunk_size(n, n)).astype(jnp.int32)


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
