"""SFDA: a regularised Fisher discriminant that is challenged by mixing the classes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

# Examples per dimension that the guard asks for.
EXAMPLES_PER_DIMENSION = 10


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
    n, d = features.shape
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        points, ones, counts, means, within = scatter
        present = counts > 0
        log_priors = jnp.where(present, jnp.log(jnp.maximum(counts, 1) / n), -jnp.inf)
        q = max(1, n // examples_per_dimension) if examples_per_dimension else d
        if q < d:
            total = total or _linalg.spectrum(scatter.total)
            axes, centre = total.vectors[:, :q], scatter.mean
            means = jnp.matmul(means - centre, axes, precision="highest")
            within = jnp.matmul(axes.T, jnp.matmul(within, axes, precision="highest"), precision="highest")
            d = min(q, len(total.values))

            def reduced(rows: jax.Array) -> jax.Array:
                return jnp.matmul(rows - centre, axes, precision="highest")
        else:

            def reduced(rows: jax.Array) -> jax.Array:
                return rows

        within = within / n
        largest = jnp.linalg.eigvalsh(within)[-1] if examples_per_dimension else _estimated_eigenvalue(within, ones)
        shrinkage = jnp.maximum(jnp.exp(-5 * largest), 1e-10)
        first = _discriminant(within, means, shrinkage, d)
        others = (jnp.sum(means, axis=0) - means) / jnp.maximum(jnp.sum(present) - 1, 1)

        def share(rows: jax.Array, label: jax.Array, rule: tuple[jax.Array, jax.Array], *, twice: bool) -> jax.Array:
            scores = jnp.matmul(rows, rule[0].T, precision="highest") - rule[1] + log_priors
            shares = jax.nn.softmax(scores, axis=1)
            if twice:
                shares = jax.nn.softmax(jnp.where(present, shares, -jnp.inf), axis=1)
            return jnp.take_along_axis(shares, label[:, None], axis=1)[:, 0]

        def challenged(rows: jax.Array, label: jax.Array) -> jax.Array:
            rows = reduced(rows)
            own = share(rows, label, first, twice=True)[:, None]
            return own * rows + (1 - own) * others[label]

        _, means, within = _linalg.class_scatter(points, labels, num_classes=num_classes, change=challenged)
        second = _discriminant(within / n, means, shrinkage, d)

        def add(state: jax.Array, rows: jax.Array, counted: jax.Array, label: jax.Array) -> jax.Array:
            return state + jnp.sum(counted * share(challenged(rows, label), label, second, twice=False))

        return (_linalg.fold_rows(add, jnp.float64(0.0), points, labels) / n).astype(output_dtype(features))


def _estimated_eigenvalue(matrix: jax.Array, ones: jax.Array) -> jax.Array:
    """Returns the authors' estimate: three double steps of power iteration from the matrix's row sums."""

    def step(vector: jax.Array) -> jax.Array:
        product = matrix @ vector
        return product / jnp.maximum(jnp.linalg.norm(product), jnp.finfo(jnp.float64).tiny)

    after = matrix @ ones
    for _ in range(3):
        before = step(after)
        after = step(before)
    return after @ matrix @ before


def _discriminant(within: jax.Array, means: jax.Array, shrinkage: jax.Array, d: int) -> tuple[jax.Array, jax.Array]:
    """Returns the weights [c, r] and offsets [c] of the classes' scores: S⁻¹·m and m·S⁻¹·m/2, S the shrunk covariance.

    All d eigenvectors of the authors' generalised problem together are just S⁻¹, so none is computed.
    """
    floor = 1e-14 * jnp.sum(means**2) / means.size + 1e-200  # for classes without any spread
    ridge = shrinkage * jnp.trace(within) / d + floor
    shrunk = (1 - shrinkage) * within + ridge * jnp.eye(len(within))
    weights = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(shrunk, lower=True), means.T).T
    return weights, jnp.sum(means * weights, axis=1) / 2


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
