"""LDA: how sure a linear discriminant is of the true class."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype
from transferjax.metrics._fisher import EXAMPLES_PER_DIMENSION, discriminant, fisher_space


@functools.partial(jax.jit, static_argnames=("num_classes",))
def lda(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Mean probability of the true class by linear discriminant analysis: ETran's classification score.

    Gaussian classes of one covariance, the within-class covariance shrunk as in SFDA (see `fisher_space`), and the
    classes' shares as priors. As in `sfda` the leading n/10 principal components are kept, if there are more features:
    otherwise any labels can be separated where d is near n, and random ones give 1.

    Deviation from the authors' code: it calls a solver for symmetric matrices on the product S⁻¹·B, which is not
    symmetric; the vectors that come out are orthonormal, and its discriminant is the distance to the class means with
    the covariance left out. Here the covariance is in it, as in the paper.

    Invariances: rotation, translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; classes without examples are passed over.
      num_classes: c.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar in 0..1; bigger is better. float64 for float64 features, else float32. The shrinkage depends on the
      features' scale, as in the paper.

    References:
      Gholami, Akbari, Wang, Kamranian, Zhang, 2023. ETran: energy-based transferability estimation.
      https://arxiv.org/abs/2308.02027
    """
    n, d = features.shape
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        space = fisher_space(scatter, total, d, examples_per_dimension=EXAMPLES_PER_DIMENSION)
        rule = discriminant(space.within, space.means, space.shrinkage, space.num_dimensions)

        def add(state: jax.Array, rows: jax.Array, present: jax.Array, label: jax.Array) -> jax.Array:
            shares = jax.nn.softmax(space.class_scores(rows, rule), axis=1)
            return state + jnp.sum(present * jnp.take_along_axis(shares, label[:, None], axis=1)[:, 0])

        total_share = _linalg.fold_rows(add, jnp.float64(0.0), scatter.points, labels)
        return (total_share / n).astype(output_dtype(features))


METRIC = Metric(
    name="lda",
    fn=lda,
    inputs=("features", "labels"),
    shares=("scatter", "total"),
    range=(0.0, 1.0),
    invariances=frozenset({"rotation", "translation"}),
)
