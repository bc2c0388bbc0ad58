"""NLEEP: LEEP, with the components of a Gaussian mixture of the features in place of the source's classes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import _linalg, _mixture
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

KEPT_VARIANCE = 0.8
COMPONENTS_PER_CLASS = 5
NUM_STARTS = 5
# What is added to the diagonal of the covariances: so much of the mean variance of a kept coordinate; as published.
RELATIVE_REGULARIZATION = 1e-3
PUBLISHED_REGULARIZATION = 1e-6
# But at least so much of the largest squared length, or rounding errors could make a covariance indefinite.
_LEAST_REGULARIZATION = 1e-10
# Shares of the variance that differ by less are equal but for the features' rounding.
_EQUAL = 1e-6
# Below this share of the Gram matrix's trace the variance is a rounding error: all examples are the same.
_NO_VARIANCE = 1e-26


def nleep(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    rng: jax.Array,
    published: bool = False,
    num_starts: int = NUM_STARTS,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Log expected empirical prediction from the clusters that the features form by themselves.

    In the principal components that hold more than 80 % of the variance, a mixture of 5·c Gaussians with full
    covariances is fitted: by k-means, started by greedy k-means++, then by EM, until they change as little as
    scikit-learn's defaults ask for. Then LEEP with θ_iz = P(component z | x_i).

    What k-means finds depends on the draw, and the score with it: over single starts the standard deviation is .003 to
    .03 of the mean likelihood in the five golden cases. So the score is the mean over several starts.

    It **saturates** where components have few examples: with n at 5·c each example has a component of its own, which
    explains any label. Compare scores on the same number of examples.

    Invariances of nleep: rotation, translation, scaling.
    Invariances of nleep_published: rotation, translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..num_classes-1.
      num_classes: how many classes there could be; c counts those that occur, as in the published code. If there are
        fewer than 5·c examples, there are n components.
      rng: a JAX key, for k-means++.
      published: the mean of the likelihood itself, and 1e-6 added to the covariances' diagonal (preset
        `nleep_published`); the published code fails where rounding errors are larger than that, in float32 often, so
        here it is at least 1e-10 of the largest squared length. The default adds 1e-3 of the mean variance of the kept
        components, so that the features' scale does not matter; the choice hardly matters from 1e-6 to 1e-2.
      num_starts: the mean of how many starts; one, as in the published code, takes a fifth of the time.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar in (-inf, 0], or in 0..1 as published; bigger is better. float64 for float64 features, else float32. The
      paper has the logarithm, its authors' code not. Principal components of equal variance are kept or left together.
      Not traceable as a whole, since the number q of those kept has to be known. It is rounded up (to a multiple of 8,
      above 128 by up to an eighth) to a size that programs are compiled for, the rest being masked: a source whose q is
      in another step than those before compiles once.

    References:
      Li, Jia, Sang, Zhu, Green, Wang, Gong, 2021. Ranking neural checkpoints. https://arxiv.org/abs/2011.11200
    """
    num_components = min(COMPONENTS_PER_CLASS * len(np.unique(np.asarray(labels))), len(features))
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        total = total or _linalg.spectrum(scatter.total)
        values = np.asarray(total.values)
        kept = num_kept(values)
        points = _coordinates(scatter, total, kept, size=min(rounded_up(kept), len(values)))
        order, clusters = starts(
            points, labels, rng, kept, num_starts=num_starts, num_clusters=num_components, num_classes=num_classes
        )
        counts = {"num_components": num_components, "num_classes": num_classes}
        score, likelihood = _scores(points, labels, order, clusters, kept, published, **counts)
        return (likelihood if published else score).astype(output_dtype(features))


def num_kept(values: np.ndarray) -> int:
    """Returns how many leading principal components hold more than 80 % of the variance.

    Args:
      values: float64 [r], variances, descending. "More" is by 1e-6, so that it is not for rounding to decide where it
        is just 80 %; and components whose variances are equal to 1e-6 are kept together.
    """
    heights = np.cumsum(values)
    last = min(int(np.sum(heights <= (KEPT_VARIANCE + _EQUAL) * heights[-1])), len(values) - 1)
    return int(np.sum(values >= (1 - _EQUAL) * values[last]))


def rounded_up(kept: int) -> int:
    """Returns for how many coordinates the program is compiled that works in `kept` of them."""
    step = max(8, 2 ** (kept.bit_length() - 4))
    return -(-kept // step) * step


@functools.partial(jax.jit, static_argnames=("size",))
def _coordinates(scatter: Scatter, total: Spectrum, kept: jax.Array, *, size: int) -> jax.Array:
    """Returns the examples in `size` principal components, float64 [n, size], those that are not kept being 0."""
    same = jnp.sum(total.values) <= _NO_VARIANCE * jnp.trace(scatter.gram)
    points = jnp.matmul(scatter.points - scatter.mean, total.vectors[:, :size], precision="highest")
    return jnp.where((jnp.arange(size) < kept) & ~same, points, 0)


def starts(
    points: jax.Array,
    labels: jax.Array,
    rng: jax.Array,
    kept: jax.Array | int,
    *,
    num_starts: int,
    num_clusters: int,
    num_classes: int,
) -> tuple[jax.Array, jax.Array]:
    """Runs k-means several times.

    Args:
      points: float64 [n, size], see `_coordinates`.
      labels: int [n]. What is drawn does not depend on them, but for points that are otherwise mirror images they
        decide which comes first.
      rng: a JAX key.
      kept: how many of the coordinates are used.
      num_starts: how many times, s.
      num_clusters: k.
      num_classes: how many classes there could be.

    Returns:
      An order of the points that is the same in whatever order they are given, int [n]; and their clusters when so
      ordered, int32 [s, n]. Call it inside `jax.enable_x64(True)`.
    """
    # drawn on the host, where no program has to be compiled for each k
    generator = np.random.default_rng(np.asarray(jax.random.key_data(rng)).ravel().tolist())
    draws = generator.random((num_starts, num_clusters, _mixture.num_trials(num_clusters)))
    return _starts(points, labels, draws, kept, num_classes=num_classes)


@functools.partial(jax.jit, static_argnames=("num_classes",))
def _starts(
    points: jax.Array, labels: jax.Array, draws: jax.Array, kept: jax.Array, *, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    members = jax.nn.one_hot(labels, num_classes, dtype=points.dtype)
    sums = jnp.matmul(members.T, points, precision="highest")
    means = sums / jnp.maximum(jnp.sum(members, axis=0), 1)[:, None]
    order = _mixture.canonical_order(points, jnp.sum((points - means[labels]) ** 2, axis=1))
    points = points[order]
    return order, jax.lax.map(lambda draws: _mixture.clusters(points, draws, coordinates=kept), draws)


@functools.partial(jax.jit, static_argnames=("num_components", "num_classes"))
def _scores(
    points: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    clusters: jax.Array,
    kept: jax.Array,
    published: jax.Array,
    *,
    num_components: int,
    num_classes: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the means of the likelihood's logarithm and of the likelihood; one program for both presets."""
    points, labels = points[order], labels[order]
    squares = jnp.sum(points**2, axis=1)
    relative = RELATIVE_REGULARIZATION * jnp.mean(squares) / kept
    regularization = jnp.where(published, PUBLISHED_REGULARIZATION, relative)
    regularization = jnp.maximum(regularization, _LEAST_REGULARIZATION * jnp.max(squares))
    regularization = jnp.where(regularization > 0, regularization, 1)
    members = jax.nn.one_hot(labels, num_classes, dtype=points.dtype)

    def of_start(clusters: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = jax.nn.one_hot(clusters, num_components, dtype=points.dtype, axis=0)
        shares = _mixture.fit(points, start, regularization=regularization, coordinates=kept).shares
        joint = jnp.matmul(shares, members, precision="highest")  # [k, c], n·P(y, z)
        marginal = jnp.sum(joint, axis=1, keepdims=True)
        conditional = jnp.where(marginal > 0, joint / jnp.where(marginal > 0, marginal, 1), 0)
        likelihood = jnp.clip(jnp.sum(conditional[:, labels] * shares, axis=0), jnp.finfo(points.dtype).tiny, 1)
        return jnp.mean(jnp.log(likelihood)), jnp.mean(likelihood)

    logarithms, likelihoods = jax.lax.map(of_start, clusters)
    return jnp.mean(logarithms), jnp.mean(likelihoods)


def _metric(name: str, *, published: bool) -> Metric:
    return Metric(
        name=name,
        fn=functools.partial(nleep, published=published),
        inputs=("features", "labels"),
        shares=("scatter", "total"),
        stochastic=True,
        jittable=False,
        max_examples=4096,  # with 100 classes and 2048 features a step takes 10¹⁰ to 10¹¹ operations there
        range=(0.0, 1.0) if published else (-float("inf"), 0.0),
        multilabel="refused" if published else "per_label",
        invariances=frozenset({"rotation", "translation"} if published else {"rotation", "translation", "scaling"}),
    )


METRICS = (_metric("nleep", published=False), _metric("nleep_published", published=True))
