"""PARC: whether examples that are far apart in the features are far apart in their labels."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum, chunk_size
from transferjax._pca import randomized_components
from transferjax._sets import set_similarity
from transferjax.metrics._base import Metric, output_dtype

NUM_COMPONENTS = 32
# The pairs of so many examples are 64 MB of keys, which take a second to sort.
MAX_EXAMPLES = 4000
_STEPS = 2**30  # of a distance of 1
_DEAD = 1e-12  # of the largest variance: what rounding leaves of directions in which there is none
_CONSTANT = 1e-10  # the length, in standard deviations, below which components are equal but for rounding errors
_LAST = np.uint64(2**64 - 1)
_PUBLISHED_SEED = 1919


@functools.partial(jax.jit, static_argnames=("num_classes", "published"))
def parc(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    published: bool = False,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Pairwise annotation representation comparison: 100 times Spearman's correlation of two distances of all pairs.

    The features go through PCA to 32 dimensions (all, if there are fewer), each of which is then given mean 0 and
    variance 1. The distance of two examples is 1 minus the Pearson correlation of their rows; that of their labels
    likewise with one-hot rows, which is to say: one value within a class, one between classes.

    What the paper leaves open: the correlation of two rows depends on the signs of the principal components, which are
    arbitrary. Here each axis's loading of largest size is positive, as in scikit-learn; hence a rotation of the
    features changes the score. A component with less than 1e-12 of the largest variance is 0 throughout. An example
    with all its components equal has no correlation: 0 is taken. Distances are ranked in steps of 1e-9, so that those
    of copies of an example are equal, and equal ones share their mean rank. If either distance is the same for all
    pairs, the score is 0.

    Memory grows with the square of the number of examples: above 4000 a stratified subsample is taken.

    Invariances: translation, scaling.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; or [n, c] of a multi-label target, where the distance is 1 minus the similarity of the
        label sets (their Jaccard index over the labels known for both, see `set_similarity`), since the correlation of
        an example without any label is undefined. For one label per example, both rank alike.
      num_classes: c.
      published: what the published code computes (preset `parc_published`; not for several labels). Its PCA is
        randomised, with one power iteration from a fixed seed, and far from converged. It also ranks rounding errors:
        1/c is not a binary fraction, so that for most c the correlation of two equal one-hot rows comes out as 1 for
        some classes and as its neighbour for others, and likewise between classes (see `label_ranks`). Hence the score
        depends on the names of the classes and for some c (6, 7) on the order of the examples.
      scatter: of features and labels, if known; not needed if `published`.
      total: spectrum of `scatter.total`, if known; likewise.

    Returns:
      Scalar in -100..100; bigger is better. float64 for float64 features, else float32.

    References:
      Bolya, Mittapalli, Hoffman, 2021. Scalable diverse model selection for accessible transfer learning.
      https://arxiv.org/abs/2111.06977
    """
    with jax.enable_x64(True):
        if published:
            k = min(NUM_COMPONENTS, *features.shape)
            scores, _, axes = randomized_components(features, k, seed=_PUBLISHED_SEED, iterations=1)
            scores = scores * _signs(axes)
        else:
            scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
            scores = _principal_scores(features, scatter, total or _linalg.spectrum(scatter.total))
        rows = _standardized(scores)
        if labels.ndim == 2:
            return _score(_sorted_pairs(rows, labels, _set_distance), None).astype(output_dtype(features))
        table = label_ranks(num_classes) if published else 1 - np.eye(num_classes, dtype=np.uint64)

        def distance(one: jax.Array, other: jax.Array) -> jax.Array:
            return jnp.asarray(table)[one, other] if published else (one != other).astype(jnp.uint64)

        keys = _sorted_pairs(rows, labels, distance)
        return _score(keys, int(table.max()) + 1).astype(output_dtype(features))


def _principal_scores(features: jax.Array, scatter: Scatter, total: Spectrum) -> jax.Array:
    """Returns the examples in principal components, float64 [n, q]."""
    axes = total.vectors[:, :NUM_COMPONENTS]
    scores = jnp.matmul(scatter.points - scatter.mean, axes, precision="highest")
    # proportional to the axes, in the coordinates of the features
    return scores * _signs(_linalg.cross_products(features, scores))


def _signs(loadings: jax.Array) -> jax.Array:
    """Returns ±1 for each column of [d, q], that of its entry of largest size: of the first of them, if some tie."""
    sizes = jnp.abs(loadings)
    tied = (sizes >= (1 - 1e-9) * jnp.max(sizes, axis=0)).astype(jnp.int32)
    first = jax.lax.argmax(tied, 0, jnp.int32)
    return jnp.where(jnp.take_along_axis(loadings, first[None], axis=0)[0] < 0, -1.0, 1.0)


def _standardized(scores: jax.Array) -> jax.Array:
    """Returns rows of mean 0 and length 1, whose products are the correlations; or 0, where there is none."""
    away = scores - jnp.mean(scores, axis=0)
    variances = jnp.mean(away**2, axis=0)
    alive = variances > _DEAD * jnp.max(variances)
    scaled = jnp.where(alive, away / jnp.sqrt(jnp.where(alive, variances, 1)), 0)
    rows = scaled - jnp.mean(scaled, axis=1, keepdims=True)
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    varied = lengths > _CONSTANT
    return jnp.where(varied, rows / jnp.where(varied, lengths, 1), 0)


def _set_distance(one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.round((1 - set_similarity(one, other)) * _STEPS).astype(jnp.uint64)


def _sorted_pairs(
    rows: jax.Array, labels: jax.Array, label_distance: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Returns all pairs, by the distance of their features: uint64 [n(n-1)/2], ascending.

    Upper half of the bits: the distance of the features in whole steps; lower half: `label_distance`. XLA sorts whole
    numbers several times as fast as floats or pairs of arrays on a CPU.

    Pairs are laid out on a ring: example i with the n/2 that follow it, so that no distance is computed twice and none
    is picked out of a matrix one by one.

    Args:
      rows: float64 [n, q], see `_standardized`.
      labels: int [n] or [n, c].
      label_distance: (label of the first of two examples, of the second) → uint64 below 2³².
    """
    n, half = len(rows), len(rows) // 2
    size = chunk_size(n, 4 * n * (labels.shape[1] if labels.ndim == 2 else 1))
    chunks = -(-n // size)
    ring = np.arange(chunks * size + half + 1) % n
    rows, labels, width = rows[ring], labels[ring], size + half + 1

    def keys_of(begin: jax.Array) -> jax.Array:
        own, all_rows = (jax.lax.dynamic_slice_in_dim(rows, begin, count) for count in (size, width))
        own_label, label = (jax.lax.dynamic_slice_in_dim(labels, begin, count) for count in (size, width))
        correlations = jnp.clip(jnp.matmul(own, all_rows.T, precision="highest"), -1, 1)
        steps = jnp.minimum(jnp.round((1 - correlations) * _STEPS), 2 * _STEPS - 1).astype(jnp.uint64)
        first, second = own_label[:, None], label[None]
        index, other = begin + jnp.arange(size)[:, None], begin + jnp.arange(width)[None]
        wrapped = (other >= n).reshape(1, -1, *(1,) * (labels.ndim - 1))  # then the other one comes first
        distances = label_distance(jnp.where(wrapped, second, first), jnp.where(wrapped, first, second))
        keys = (steps << 32) | distances
        # row i starts at its own entry: read with one column more, each row moves back by one
        keys = jnp.pad(keys.ravel(), (0, size)).reshape(size, width + 1)[:, 1 : half + 1]
        once = (jnp.arange(1, half + 1) * 2 < n) | (index * 2 < n)  # opposite ends of an even ring meet twice
        return jnp.where((index < n) & once, keys, _LAST)

    keys = jax.lax.map(keys_of, jnp.arange(chunks) * size) if chunks > 1 else keys_of(jnp.int64(0))
    return jax.lax.sort(keys.ravel(), is_stable=False)[: n * (n - 1) // 2]


def _score(keys: jax.Array, num_label_ranks: int | None) -> jax.Array:
    """Returns 100 times Spearman's correlation of the two halves of sorted keys, 0 if there is none.

    Args:
      keys: uint64 [m], ascending, see `_sorted_pairs`.
      num_label_ranks: if the lower halves are 0..num_label_ranks-1, with so few values that sums of ranks for each of
        them take the place of a second sort.
    """
    ranks, codes = _twice_mean_ranks(keys >> 32), keys & (2**32 - 1)
    mean = len(keys) + 1
    own = (ranks - mean).astype(jnp.float64)
    if num_label_ranks is None:
        keys = jax.lax.sort((codes << 32) | ranks.astype(jnp.uint64), is_stable=False)
        other = (_twice_mean_ranks(keys >> 32) - mean).astype(jnp.float64)
        covariance = jnp.sum(((keys & (2**32 - 1)).astype(jnp.int64) - mean) * other)
        variance = jnp.sum(other**2)
    else:
        covariance = variance = jnp.float64(0.0)
        before = jnp.int64(0)
        for code in range(num_label_ranks):
            members = codes == code
            count = jnp.sum(members)
            other = (2 * before + count + 1 - mean).astype(jnp.float64)
            covariance += other * jnp.sum(jnp.where(members, own, 0))
            variance += count * other**2
            before += count
    variances = jnp.sum(own**2) * variance
    return jnp.where(variances > 0, 100 * covariance / jnp.sqrt(jnp.maximum(variances, 1)), 0)


def _twice_mean_ranks(values: jax.Array) -> jax.Array:
    """Returns twice the ranks of ascending values, int64 [m]: whole numbers, since equal ones share a mean rank."""
    m = len(values)
    places = jnp.arange(m)
    new = jnp.concatenate([jnp.ones(min(m, 1), bool), values[1:] != values[:-1]])
    last = jnp.concatenate([new[1:], jnp.ones(min(m, 1), bool)])
    first = jax.lax.cummax(jnp.where(new, places, 0))
    return first + jax.lax.cummin(jnp.where(last, places, m), reverse=True) + 2


@functools.cache
def label_ranks(num_classes: int) -> np.ndarray:
    """Returns how the published code ranks the distances of one-hot labels: uint64 [c, c], 0 for the smallest.

    The entry [a, b] is that of an example of class a and a later one of class b. In exact arithmetic there are two
    distances. `numpy.corrcoef` rounds in double precision: the mean 1/c, the deviations from it, each step of the
    products of the centred rows, their division by c - 1 and twice by a standard deviation. Which of its neighbours a
    result becomes depends on the order of the steps; those here are what OpenBLAS does on processors with AVX2: from
    the first class to the last, each multiplication and addition rounded together (FMA). They are computed in
    whole numbers here, so that this table does not depend on the machine. It is that of the golden values' machine; of
    more than 256 classes OpenBLAS takes several blocks, and few entries differ.
    """
    c = num_classes
    low, high = -1 / c, 1 - 1 / c
    # in whole units of 2⁻²⁰⁰, of which all these floats and products are multiples; a quotient is rounded once
    terms = {(a, b): int(a * 2.0**100) * int(b * 2.0**100) for a in (low, high) for b in (low, high)}

    @functools.cache
    def add(value: float, one: float, other: float) -> float:
        return (int(value * 2.0**200) + terms[one, other]) / 2**200

    finals: dict[tuple[float, int], float] = {}

    def finish(value: float, index: int) -> float:
        """Adds the terms of the classes from `index` on, which are those of neither example."""
        passed = []
        while index < c and (value, index) not in finals:
            passed.append((value, index))
            value, index = add(value, low, low), index + 1
        value = finals.get((value, index), value)
        finals.update(dict.fromkeys(passed, value))  # sums meet: without this, c³ steps
        return value

    products = np.empty((c, c))
    before = 0.0
    for row in range(c):
        products[row, row] = finish(add(before, high, high), row + 1)
        between = add(before, high, low)
        for column in range(row + 1, c):
            products[row, column] = products[column, row] = finish(add(between, low, high), column + 1)
            between = add(between, low, low)
        before = add(before, low, low)
    products *= 1 / max(c - 1, 1)
    deviations = np.sqrt(np.diag(products))
    correlations = np.clip(products / deviations[:, None] / deviations, -1, 1)
    return np.unique(1 - correlations, return_inverse=True)[1].reshape(c, c).astype(np.uint64)


METRICS = (
    Metric(
        name="parc",
        fn=parc,
        inputs=("features", "labels"),
        shares=("scatter", "total"),
        max_examples=MAX_EXAMPLES,
        range=(-100.0, 100.0),
        multilabel="sets",
        invariances=frozenset({"translation", "scaling"}),
    ),
    Metric(
        name="parc_published",
        fn=functools.partial(parc, published=True),
        inputs=("features", "labels"),
        max_examples=MAX_EXAMPLES,
        range=(-100.0, 100.0),
        multilabel="refused",
        invariances=frozenset({"translation", "scaling"}),
    ),
)
