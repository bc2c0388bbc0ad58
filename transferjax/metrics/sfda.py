"""SFDA: a regularised Fisher discriminant that is challenged by mixing the classes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype
from transferjax.metrics._fisher import EXAMPLES_PER_DIMENSION, FisherSpace, discriminant, fisher_space

_Sums = tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.jit, static_argnames=("num_classes", "examples_per_dimension"))
def sfda(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    examples_per_dimension: int = EXAMPLES_PER_DIMENSION,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Self-challenging Fisher discriminant analysis.

    The within-class covariance W is shrunk to (1-λ)·W + λ·tr(W)/d·I, λ = max(exp(-5σ), 1e-10), σ its largest
    eigenvalue. The discriminant's class scores go through a softmax twice;
    p, the true class's share, then moves each example to p·x + (1-p)·(mean of the other classes' means), and the
    discriminant is fitted again with the same λ. The score is the mean share of the true class, softmax taken once.

    The score **saturates**: where d is near n or above, any labels can be separated, and random ones give 1. The
    default therefore keeps the leading n/10 principal components only, if there are more features than that; compare
    scores on the same number of examples. `sfda_published` keeps all features, and estimates σ as the authors' code
    does, by power iteration from W's row sums, which hangs on the coordinates: on signs, after PCA.

    Invariances of sfda: rotation, translation.
    Invariances of sfda_published: none.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; classes without examples are passed over.
      num_classes: c.
      examples_per_dimension: how many examples the guard asks for; 0 for no guard (preset `sfda_published`).
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known; not needed without the guard.

    Returns:
      Scalar in 0..1; bigger is better. float64 for float64 features, else float32. λ depends on the features' scale, as
      in the paper: multiplying them by a factor changes the score.

    References:
      Shao, Zhao, Ge, Zhang, Yang, Wang, Shan, Luo, 2022. Not all models are equal: predicting model transferability in
      a self-challenging Fisher space. https://arxiv.org/abs/2207.03036
    """
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        d = features.shape[1]
        space = fisher_space(scatter, total, d, examples_per_dimension=examples_per_dimension)
        return self_challenged(space, scatter.points, labels, num_classes=num_classes).astype(output_dtype(features))


def self_challenged(
    space: FisherSpace, points: jax.Array, labels: jax.Array, *, num_classes: int, moves: jax.Array | None = None
) -> jax.Array:
    """Returns the mean share of the true class after the challenge, float64.

    Args:
      space: where the discriminants are fitted.
      points: [n, r], the examples, as `space.reduced` takes them.
      labels: int [n].
      num_classes: c.
      moves: [c, r], added to the examples of each class beforehand (`space` knows of it); None for none.
    """
    first = discriminant(space.within, space.means, space.shrinkage, space.num_dimensions)
    present = jnp.isfinite(space.log_priors)
    others = (jnp.sum(space.means, axis=0) - space.means) / jnp.maximum(jnp.sum(present) - 1, 1)
    n = len(points)

    def moved(rows: jax.Array, label: jax.Array) -> jax.Array:
        return rows if moves is None else rows + moves[label]

    def own(scores: jax.Array, label: jax.Array, *, twice: bool) -> jax.Array:
        shares = jax.nn.softmax(scores, axis=1)
        if twice:
            shares = jax.nn.softmax(jnp.where(present, shares, -jnp.inf), axis=1)
        return jnp.take_along_axis(shares, label[:, None], axis=1)[:, 0]

    # An example goes to p·x + (1-p)·others: once p is known, sums and scores follow without bringing it into the space
    def add_sums(state: _Sums, rows: jax.Array, counted: jax.Array, label: jax.Array) -> _Sums:
        counts, kept, sums = state
        rows = moved(rows, label)
        share = own(space.class_scores(rows, first), label, twice=True)
        members = jax.nn.one_hot(label, num_classes, dtype=jnp.float64) * counted[:, None]
        weighted = members * share[:, None]
        return (
            counts + jnp.sum(members, axis=0),
            kept + jnp.sum(weighted, axis=0),
            sums + jnp.matmul(weighted.T, space.centred(rows), precision="highest"),
        )

    zeros = jnp.zeros(num_classes, jnp.float64)
    start = (zeros, zeros, jnp.zeros((num_classes, points.shape[1]), jnp.float64))
    counts, kept, sums = _linalg.fold_rows(add_sums, start, points, labels)
    means = (space.projected(sums) + (counts - kept)[:, None] * others) / jnp.maximum(counts, 1)[:, None]

    def away(rows: jax.Array, label: jax.Array) -> jax.Array:
        rows = moved(rows, label)
        share = own(space.class_scores(rows, first), label, twice=True)[:, None]
        return share * space.reduced(rows) + (1 - share) * others[label] - means[label]

    within = _linalg.products(points, labels, change=away)
    second = discriminant(within / n, means, space.shrinkage, space.num_dimensions)
    of_others = jnp.matmul(others, second[0].T, precision="highest")

    def add(state: jax.Array, rows: jax.Array, counted: jax.Array, label: jax.Array) -> jax.Array:
        rows = moved(rows, label)
        share = own(space.class_scores(rows, first), label, twice=True)[:, None]
        scores = share * space.products(rows, second) + (1 - share) * of_others[label] - second[1] + space.log_priors
        return state + jnp.sum(counted * own(scores, label, twice=False))

    return _linalg.fold_rows(add, jnp.float64(0.0), points, labels) / n


METRICS = (
    Metric(
        name="sfda",
        fn=sfda,
        inputs=("features", "labels"),
        shares=("scatter", "total"),
        range=(0.0, 1.0),
        invariances=frozenset({"rotation", "translation"}),
    ),
    Metric(
        name="sfda_published",
        fn=functools.partial(sfda, examples_per_dimension=0),
        inputs=("features", "labels"),
        shares=("scatter",),
        range=(0.0, 1.0),
        multilabel="refused",
    ),
)
