"""SFDA: a regularised Fisher discriminant that is challenged by mixing the classes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype
from transferjax.metrics._fisher import EXAMPLES_PER_DIMENSION, FisherSpace, discriminant, fisher_space


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

    def share(rows: jax.Array, label: jax.Array, rule: tuple[jax.Array, jax.Array], *, twice: bool) -> jax.Array:
        shares = jax.nn.softmax(space.class_scores(rows, rule), axis=1)
        if twice:
            shares = jax.nn.softmax(jnp.where(present, shares, -jnp.inf), axis=1)
        return jnp.take_along_axis(shares, label[:, None], axis=1)[:, 0]

    def challenged(rows: jax.Array, label: jax.Array) -> jax.Array:
        rows = space.reduced(rows if moves is None else rows + moves[label])
        own = share(rows, label, first, twice=True)[:, None]
        return own * rows + (1 - own) * others[label]

    _, means, within = _linalg.class_scatter(points, labels, num_classes=num_classes, change=challenged)
    n = len(points)
    second = discriminant(within / n, means, space.shrinkage, space.num_dimensions)

    def add(state: jax.Array, rows: jax.Array, counted: jax.Array, label: jax.Array) -> jax.Array:
        return state + jnp.sum(counted * share(challenged(rows, label), label, second, twice=False))

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
