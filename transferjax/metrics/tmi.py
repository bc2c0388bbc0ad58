"""TMI: how spread out the features are within the classes."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import CHUNK_ELEMENTS, Scatter
from transferjax.metrics._base import Metric, output_dtype

NUM_NEIGHBORS = 3
# The distances of 10000 examples of 2048 features and two classes take about ten seconds on two cores.
MAX_EXAMPLES = 10_000
_BLOCK = 256  # rows at least, below which their neighbours' rows would be read again too often
_FLOOR = 1e-6  # of the root mean square distance to the mean of all: what copies of an example are apart
_TINY = 1e-100


@functools.partial(jax.jit, static_argnames=("num_classes", "max_class_size", "num_neighbors"))
def tmi(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    max_class_size: int,
    num_neighbors: int = NUM_NEIGHBORS,
    scatter: Scatter | None = None,
) -> jax.Array:
    """Conditional entropy H(features | class) in nats, from the distances of nearest neighbours within the classes.

    The entropy of a class of m examples is estimated after Kozachenko and Leonenko as
    ψ(m) - ψ(k) + log V + d·mean log ε, with ε the distance of an example to its kth neighbour of the same class,
    k = 3, V the volume of the unit ball in d dimensions, and ψ the digamma function. The score is the mean over the
    classes, weighted by their size.

    The paper reads spread within classes as room for adaptation. So, unlike other scores, this one does not ask
    whether the features tell the classes apart: **labels in random order score higher than the true ones**. It is an
    entropy of d dimensions and grows with d and with the logarithm of the features' scale; compare sources of the same
    number of features.

    The authors' code differs: it takes the largest difference in any feature as distance, for which V·εᵈ is (2ε)ᵈ; it
    raises every distance below 1 to 1, whatever the features' scale; it divides the sum over the classes once more by
    their number; it counts classes of one example as 0 and drops those of 2 or 3. Here distances are Euclidean, hence
    the same in rotated features; those below 1e-6 of the root mean square distance of all examples to their mean are
    raised to that, so that copies of an example have a logarithm; classes with k examples or fewer use all the
    neighbours that they have; and a class of one example, which has no neighbour, is left out of the mean.

    Invariances: rotation, translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1.
      num_classes: c.
      max_class_size: no class has more examples than this.
      num_neighbors: k.
      scatter: of features and labels, if known.

    Returns:
      Scalar; bigger is better. float64 for float64 features, else float32. 0 if no class has two examples.

    References:
      Xu, Kang, 2023. Fast and accurate transferability measurement by evaluating intra-class feature variance.
      https://arxiv.org/abs/2308.05986. Kozachenko, Leonenko, 1987. Sample estimate of the entropy of a random vector.
      Problems of Information Transmission 23.
    """
    n, d = features.shape
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        floor = _FLOOR**2 * jnp.trace(scatter.total) / n + _TINY**2
        order = jnp.argsort(labels, stable=True)
        squares = jnp.maximum(_squared_distances(scatter, labels[order], order, max_class_size, num_neighbors), floor)
        sizes = scatter.counts[labels[order]]
        counted = sizes > 1
        neighbors = jnp.clip(sizes - 1, 1, num_neighbors)
        volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
        digamma = jax.scipy.special.digamma
        terms = digamma(sizes) - digamma(neighbors) + volume + d / 2 * jnp.log(squares)
        entropy = jnp.sum(jnp.where(counted, terms, 0)) / jnp.maximum(jnp.sum(counted), 1)
        return entropy.astype(output_dtype(features))


def _squared_distances(scatter: Scatter, labels: jax.Array, order: jax.Array, size: int, k: int) -> jax.Array:
    """Returns the squared distance of each example to its kth neighbour of the same class, or the last that it has.

    With the examples sorted by class, all neighbours of a block of rows are within one class's size on either side:
    n·(block + 2·size) distances in all, however unequal the classes are.

    Args:
      scatter: of the examples.
      labels: int [n], ascending.
      order: int [n], the place of each of them in `scatter`.
      size: at least that of the largest class.
      k: which neighbour.

    Returns:
      float64 [n], in the order of `labels`; 0 for an example without a neighbour.
    """
    n, r = scatter.points.shape
    block = min(n, max(size, _BLOCK), max(1, CHUNK_ELEMENTS // (4 * min(n, 3 * size) + 2 * r)))
    width = min(n, block + 2 * (size - 1))
    points = scatter.points[order]

    def centred(begin: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        own = jax.lax.dynamic_slice_in_dim(labels, begin, count)
        rows = jax.lax.dynamic_slice_in_dim(points, begin, count).astype(jnp.float64)
        return rows - scatter.means[own], own  # distances within a class stay, and lose less to rounding

    def of_block(index: jax.Array) -> jax.Array:
        begin = jnp.minimum(index * block, n - block)
        first = jnp.clip(begin - (size - 1), 0, n - width)
        (rows, own), (others, label) = centred(begin, block), centred(first, width)
        lengths = jnp.sum(others**2, axis=1)
        distances = lengths - 2 * jnp.matmul(rows, others.T, precision="highest") + jnp.sum(rows**2, axis=1)[:, None]
        places = jnp.arange(width, dtype=jnp.int32)
        itself = (begin + jnp.arange(block))[:, None] == first + places
        distances = jnp.where((own[:, None] == label) & ~itself, jnp.maximum(distances, 0), jnp.inf)
        kth = jnp.zeros(block, jnp.float64)
        for _ in range(k):  # a few passes are faster than sorting
            nearest = jnp.min(distances, axis=1)
            kth = jnp.where(jnp.isfinite(nearest), nearest, kth)
            place = jnp.min(jnp.where(distances == nearest[:, None], places, width), axis=1)  # of equal ones the first
            distances = jnp.where(places == place[:, None], jnp.inf, distances)
        return kth

    blocks = -(-n // block)
    if blocks == 1:
        return of_block(jnp.int64(0))
    found = jax.lax.map(of_block, jnp.arange(blocks))
    # the last block reaches back, so that all have one shape
    return jnp.concatenate([found[:-1].ravel(), found[-1, blocks * block - n :]])


METRIC = Metric(
    name="tmi",
    fn=tmi,
    inputs=("features", "labels"),
    static=("num_classes", "max_class_size"),
    shares=("scatter",),
    max_examples=MAX_EXAMPLES,
    invariances=frozenset({"rotation", "translation"}),
)
