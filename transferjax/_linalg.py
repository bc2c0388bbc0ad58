"""Linear algebra that several metrics share: pure and traceable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from transferjax._sets import set_similarity

# Elements of the largest temporary of a chunked kernel: 64 MB in float32, the size at which chunks stop costing time.
CHUNK_ELEMENTS = 2**24
State = TypeVar("State")


def chunk_size(n: int, elements_per_item: int) -> int:
    """Returns how many of n items to process at once so that temporaries keep to `CHUNK_ELEMENTS`."""
    return max(1, min(n, CHUNK_ELEMENTS // max(1, elements_per_item)))


class Scatter(NamedTuple):
    """What linear metrics need of features and labels, in float64: sizes, means and scatter of the classes.

    Everything is in coordinates of r = min(n, d) dimensions: the features' own if n >= d, else an orthonormal basis of
    the space that the examples span. Products, distances and spectra of the examples are the same in both; what lies
    outside that space is 0.

    Attributes:
      points: [n, r], the examples; in the features' dtype if n >= d, else float64.
      ones: [r], the coordinates of the vector of d ones, as far as it lies in that space.
      counts: [c], examples of each class.
      means: [c, r], of the classes; 0 for a class without examples.
      within: [r, r], Σ_i (x_i - m_{y_i})(x_i - m_{y_i})ᵀ, summed about the class means, so that nothing cancels.
    """

    points: jax.Array
    ones: jax.Array
    counts: jax.Array
    means: jax.Array
    within: jax.Array

    @property
    def mean(self) -> jax.Array:
        """Mean of all examples, [r]."""
        return self.counts @ self.means / jnp.sum(self.counts)

    @property
    def between(self) -> jax.Array:
        """Σ_c n_c (m_c - m)(m_c - m)ᵀ, [r, r]."""
        return _weighted_gram(self.means - self.mean, self.counts)

    @property
    def total(self) -> jax.Array:
        """Scatter about the mean of all examples, [r, r]: `within + between`."""
        return self.within + self.between

    @property
    def gram(self) -> jax.Array:
        """Scatter about zero, XᵀX, [r, r]."""
        return self.within + _weighted_gram(self.means, self.counts)


def _weighted_gram(rows: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(rows.T * weights, rows, precision="highest")


def scatter(features: jax.Array, labels: jax.Array, *, num_classes: int) -> Scatter:
    """Returns sizes, means and scatter of the classes: two passes over the examples, in chunks of rows.

    In float64, also the O(n·d·min(n, d)) product: what separates good sources from each other is what a linear model
    leaves over, and a float32 Gram matrix has no digits for that (`experiments/benchmark.py`). Beside the input it
    takes a few [r, r] matrices and one chunk of rows.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; of a multi-label target [n, c], and then all examples count as one class.
      num_classes: c.

    Returns:
      `Scatter`. Call it, and use its result, inside `jax.enable_x64(True)`.
    """
    n, d = features.shape
    if labels.ndim == 2:
        labels, num_classes = jnp.zeros(n, jnp.int32), 1
    # not compiled as a whole: the features as they are would be copied into its result
    points, ones = (features, jnp.ones(d, jnp.float64)) if n >= d else _in_their_span(features)
    return Scatter(points, ones, *compiled_class_scatter(points, labels, num_classes=num_classes))


@jax.jit
def _in_their_span(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `points` and `ones` of `Scatter` for n < d."""
    basis, triangle = jnp.linalg.qr(features.astype(jnp.float64).T)  # Xᵀ = Q·R: the rows of Rᵀ are the examples
    return triangle.T, jnp.sum(basis, axis=0)


def class_scatter(
    points: jax.Array,
    labels: jax.Array,
    *others: jax.Array,
    num_classes: int,
    change: Callable[..., jax.Array] = lambda rows, _classes, *_others: rows,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns counts, means and within-class scatter of examples that are changed on the way, as in `Scatter`.

    Args:
      points: float [n, r].
      labels: int [n] in 0..c-1.
      *others: arrays [n, ...] that `change` takes.
      num_classes: c.
      change: (rows float64 [b, r], their labels, the same rows of `others`) → rows [b, r'], so that the changed
        examples are never held as a whole.

    Returns:
      [c], [c, r'], [r', r'], all float64.
    """
    one = jax.ShapeDtypeStruct((1, points.shape[1]), jnp.float64)
    r = jax.eval_shape(change, one, labels[:1], *(other[:1] for other in others)).shape[1]

    def add_sums(state: tuple[jax.Array, jax.Array], rows: jax.Array, present: jax.Array, *rest: jax.Array) -> Any:
        members = jax.nn.one_hot(rest[0], num_classes, dtype=jnp.float64) * present[:, None]
        sums = jnp.matmul(members.T, change(rows, *rest), precision="highest")
        return state[0] + jnp.sum(members, axis=0), state[1] + sums

    start = (jnp.zeros(num_classes, jnp.float64), jnp.zeros((num_classes, r), jnp.float64))
    counts, sums = fold_rows(add_sums, start, points, labels, *others)
    means = sums / jnp.maximum(counts, 1)[:, None]

    def moved(rows: jax.Array, *rest: jax.Array) -> jax.Array:
        return change(rows, *rest) - means[rest[0]]

    return counts, means, products(points, labels, *others, change=moved)


def products(points: jax.Array, *others: jax.Array, change: Callable[..., jax.Array]) -> jax.Array:
    """Returns ZᵀZ, float64 [r', r'], of examples that are changed on the way, as by `class_scatter`.

    Args:
      points: float [n, r].
      *others: arrays [n, ...] that `change` takes.
      change: (rows float64 [b, r], the same rows of `others`) → rows [b, r'].
    """
    one = jax.ShapeDtypeStruct((1, points.shape[1]), jnp.float64)
    r = jax.eval_shape(change, one, *(other[:1] for other in others)).shape[1]

    def add(strips: Strips, rows: jax.Array, present: jax.Array, *rest: jax.Array) -> Strips:
        added = upper_products(change(rows, *rest) * present[:, None])
        return tuple(strip + more for strip, more in zip(strips, added, strict=True))

    shapes = jax.eval_shape(upper_products, jax.ShapeDtypeStruct((1, r), jnp.float64))
    start = tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)
    return mirrored(fold_rows(add, start, points, *others))


compiled_class_scatter = jax.jit(class_scatter, static_argnames=("num_classes", "change"))

Strips = tuple[jax.Array, ...]
_STRIPS = 4


def upper_products(rows: jax.Array, *, num_strips: int = _STRIPS) -> Strips:
    """Returns what rowsᵀ·rows has on and above its diagonal, as strips [w, r - first] of w whole rows: see `mirrored`.

    Four strips leave out three eighths of the work; more would make the products so narrow that they take longer again.
    On CPU they take about four fifths of the time of one product (r = 512 and 2048; `experiments/benchmark.py`).

    Args:
      rows: float [b, r].
      num_strips: at most.
    """
    width = -(-rows.shape[1] // num_strips)
    firsts = range(0, rows.shape[1], width)
    return tuple(jnp.matmul(rows[:, at : at + width].T, rows[:, at:], precision="highest") for at in firsts)


def mirrored(strips: Strips) -> jax.Array:
    """Returns the symmetric matrix [r, r], exactly so, of which `upper_products` gave the upper strips."""
    width = len(strips[0])
    rows = []
    for index, strip in enumerate(strips):
        size = len(strip)
        places = [(index - before) * width for before in range(index)]
        left = [above[:, at : at + size].T for above, at in zip(strips[:index], places, strict=True)]
        middle = strip[:, :size]
        rows.append(jnp.concatenate([*left, (middle + middle.T) / 2, strip[:, size:]], axis=1))
    return jnp.concatenate(rows)


def fold_rows(step: Callable[..., State], start: State, features: jax.Array, *others: jax.Array) -> State:
    """Folds `step` over the examples, a chunk of rows at a time.

    Args:
      step: (state, rows float64 [b, d], present float64 [b], the same rows of `others`) → state. `present` is 0 for
        rows that fill up the last chunk (they repeat others), else 1.
      start: the first state.
      features: float [n, d]; only a chunk at a time is widened to float64.
      *others: arrays [n, ...].

    Returns:
      The last state. Call it inside `jax.enable_x64(True)`.
    """
    n, d = features.shape
    size = chunk_size(n, 4 * d)  # a chunk is held in float64, and again less its mean
    chunks = -(-n // size)

    def body(index: jax.Array, state: State) -> State:
        begin = jnp.minimum(index * size, n - size)  # the last chunk reaches back, so that all have one shape
        present = (begin + jnp.arange(size) >= index * size).astype(jnp.float64)
        rows, *rest = (jax.lax.dynamic_slice_in_dim(array, begin, size) for array in (features, *others))
        return step(state, rows.astype(jnp.float64), present, *rest)

    return body(jnp.int32(0), start) if chunks == 1 else jax.lax.fori_loop(0, chunks, body, start)


def cross_products(points: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns pointsᵀ·targets, float64 [r, c], for points [n, r] and targets [n, c] of any dtypes."""

    def add(state: jax.Array, rows: jax.Array, present: jax.Array, target: jax.Array) -> jax.Array:
        weighted = target.astype(jnp.float64) * present[:, None]
        return state + jnp.matmul(rows.T, weighted, precision="highest")

    start = jnp.zeros((points.shape[1], targets.shape[1]), jnp.float64)
    return fold_rows(add, start, points, targets)


def map_rows(fn: Callable[..., Any], features: jax.Array, *others: jax.Array) -> Any:
    """Returns `fn` of every example, computed in chunks of rows.

    Args:
      fn: (row float64 [d], the same entry of `others`) → any small arrays; it is vmapped over a chunk.
      features: float [n, d]; only a chunk at a time is widened to float64.
      *others: arrays [n, ...].

    Returns:
      What `fn` returns, with a leading axis of n. Call it inside `jax.enable_x64(True)`.
    """
    n, d = features.shape
    size = chunk_size(n, 4 * d)
    of_rows = jax.vmap(lambda row, *rest: fn(row.astype(jnp.float64), *rest))
    if size == n:
        return of_rows(features, *others)

    # not by `jax.lax.map`, which takes a copy of all examples that fill whole chunks
    def body(index: jax.Array, found: Any) -> Any:
        begin = jnp.minimum(index * size, n - size)
        rows = (jax.lax.dynamic_slice_in_dim(array, begin, size) for array in (features, *others))
        return jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, begin, 0), found, of_rows(*rows)
        )

    first = jax.eval_shape(of_rows, features[:1], *(array[:1] for array in others))
    start = jax.tree.map(lambda leaf: jnp.zeros((n, *leaf.shape[1:]), leaf.dtype), first)
    return jax.lax.fori_loop(0, -(-n // size), body, start)


class Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of a scatter matrix, largest first.

    Attributes:
      values: [r], float64, not negative, descending.
      vectors: [r, r], float64, the eigenvectors as columns.
    """

    values: jax.Array
    vectors: jax.Array


@jax.jit
def spectrum(matrix: jax.Array) -> Spectrum:
    """Returns the spectrum of a symmetric matrix [r, r] without negative eigenvalues but for rounding."""
    values, vectors = jnp.linalg.eigh(matrix)
    return Spectrum(jnp.maximum(values[::-1], 0), vectors[:, ::-1])


def principal_axes(centred: jax.Array, k: int) -> jax.Array:
    """Returns the k leading principal axes as rows [k, d], of unit length, in the input dtype.

    Exact, by the eigenvectors of the smaller of the two Gram matrices; the signs are arbitrary. Axes along which there
    is no variance, which exact ones would not be determined, are 0.

    Args:
      centred: float [n, d], the features less their mean.
      k: at most min(n, d).
    """
    n, d = centred.shape
    if n >= d:
        values, vectors = jnp.linalg.eigh(jnp.matmul(centred.T, centred, precision="highest"))
        axes = vectors[:, ::-1][:, :k].T
    else:
        values, vectors = jnp.linalg.eigh(jnp.matmul(centred, centred.T, precision="highest"))
        axes = jnp.matmul(vectors[:, ::-1][:, :k].T, centred, precision="highest")
        axes = axes / jnp.maximum(jnp.linalg.norm(axes, axis=1, keepdims=True), jnp.finfo(axes.dtype).tiny)
    kept = values[::-1] > len(values) * jnp.finfo(values.dtype).eps * values[-1]
    return jnp.where(kept[:k, None], axes, 0)


_BLOCK = 16


def smallest(values: jax.Array, k: int) -> jax.Array:
    """Returns where the k smallest of each row are, int32 [b, k]; smallest first, of equal ones the first first.

    They lie in the k blocks of columns that have the smallest minima, so one pass over the values and little more will
    do: on CPU `jax.lax.top_k` takes a hundred times as long (n=1100, k=5; `experiments/benchmark.py`).

    Args:
      values: float [b, n], not NaN. A multiple of 16 columns saves a copy.
      k: at most n.
    """
    rows, n = values.shape
    if n <= _BLOCK * k:
        return _successive_minima(values, k)
    values = jnp.pad(values, ((0, 0), (0, -n % _BLOCK)), constant_values=jnp.inf).reshape(rows, -1, _BLOCK)
    blocks = jnp.sort(_successive_minima(jnp.min(values, axis=2), k), axis=1)
    candidates = jnp.take_along_axis(values, blocks[:, :, None], axis=1).reshape(rows, -1)
    places = _successive_minima(candidates, k)
    return jnp.take_along_axis(blocks, places // _BLOCK, axis=1) * _BLOCK + places % _BLOCK


def _successive_minima(values: jax.Array, k: int) -> jax.Array:
    """As `smallest`: k times the minimum of what comes after the one before, in the order of (value, index)."""
    rows, n = values.shape
    indices = jnp.arange(n, dtype=jnp.int32)

    def following(before: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        value, index = (part[:, None] for part in before)
        after = (values > value) | ((values == value) & (indices > index))
        least = jnp.min(jnp.where(after, values, jnp.inf), axis=1)
        # not argmin, which cannot be lowered from within `enable_x64` to a program called outside it
        first = jnp.min(jnp.where(after & (values == least[:, None]), indices, n), axis=1)
        return (least, first), first

    start = (jnp.full(rows, -jnp.inf, values.dtype), jnp.full(rows, -1, jnp.int32))
    return jax.lax.scan(following, start, None, length=k)[1].T


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
        others = jnp.pad(points, ((0, -n % _BLOCK), (0, 0)))
        squares = jnp.pad(jnp.sum(points**2, axis=1), (0, -n % _BLOCK), constant_values=jnp.inf)
        chunks = -(-n // chunk_size(n, n))
        rows = jnp.minimum(jnp.arange(chunks * -(-n // chunks), dtype=jnp.int32), n - 1).reshape(chunks, -1)

        def neighbors_of(index: jax.Array) -> jax.Array:
            # ‖a‖² is the same for all neighbours of a and does not change their order
            distances = squares - 2 * jnp.matmul(points[index], others.T, precision="highest")
            return smallest(jnp.where(jnp.arange(len(others)) == index[:, None], own, distances), k)

        return jax.lax.map(neighbors_of, rows).reshape(-1, k)[:n]


@functools.partial(jax.jit, static_argnames=("num_neighbors", "include_self"))
def neighbor_share(
    features: jax.Array, labels: jax.Array, *, num_neighbors: int = 5, include_self: bool = False
) -> jax.Array:
    """Mean share of the own class among the nearest neighbours.

    It is the expected accuracy of naming the class of a neighbour drawn at random, which needs no rule for ties.

    Args:
      features: float [n, d], n > num_neighbors.
      labels: int [n]; or [n, c] of a multi-label target, where the mean `set_similarity` takes the share's place, over
        the pairs that have a known label in common.
      num_neighbors: of how many.
      include_self: whether an example counts as its own first neighbour.

    Returns:
      Scalar in 0..1; bigger is better. float64 for float64 features, else float32.
    """
    k = min(num_neighbors, len(labels) if include_self else len(labels) - 1)
    found = nearest_neighbors(features, k, include_self=include_self)
    if labels.ndim == 2:
        alike = jax.vmap(set_similarity, in_axes=(1, None), out_axes=1)(labels[found], labels)
        both_known = jax.vmap(lambda one: jnp.any((one >= 0) & (labels >= 0), axis=1), in_axes=1, out_axes=1)
        told = both_known(labels[found]).astype(alike.dtype)
        share = jnp.sum(alike * told) / jnp.maximum(jnp.sum(told), 1)
        return share.astype(jnp.promote_types(features.dtype, jnp.float32))
    return jnp.mean(labels[found] == labels[:, None], dtype=jnp.promote_types(features.dtype, jnp.float32))
