"""LFC: do examples whose features are alike have the same label?"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter
from transferjax.metrics._base import Metric, output_dtype


@functools.partial(jax.jit, static_argnames=("num_classes",))
def lfc(features: jax.Array, labels: jax.Array, *, num_classes: int, scatter: Scatter | None = None) -> jax.Array:
    """Label-feature correlation: centred alignment of the features' linear kernel with the labels'.

    <K, L> / (‖K‖·‖L‖) of the centred kernels K = XXᵀ and L, 1 for examples of one class and -1 for others. Centring
    makes L twice the kernel of the one-hot labels, so everything follows from class sizes, means and the scatter: no
    n x n matrix is formed. Deviation from the paper: its kernel is that of gradients of a linearised network; here, as
    in the studies that compare metrics, that of the features.

    Invariances: rotation, translation, scaling.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1.
      num_classes: c.
      scatter: of features and labels, if known.

    Returns:
      Scalar in 0..1; bigger is better; 0 if all features are equal. float64 for float64 features, else float32.

    References:
      Deshpande, Achille, Ravichandran, Li, Zancato, Fowlkes, Bhotika, Soatto, Perona, 2021. A linearized framework and
      a new benchmark for model selection for fine-tuning. https://arxiv.org/abs/2102.00084
    """
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        counts = scatter.counts
        cross = counts[:, None] * (scatter.means - scatter.mean)  # one-hotᵀ·X, centred
        label_gram = jnp.diag(counts) - counts[:, None] * counts / jnp.sum(counts)
        size = jnp.linalg.norm(scatter.total) * jnp.linalg.norm(label_gram)
        return (jnp.sum(cross**2) / jnp.where(size > 0, size, 1)).astype(output_dtype(features))


METRIC = Metric(
    name="lfc",
    fn=lfc,
    inputs=("features", "labels"),
    shares=("scatter",),
    range=(0.0, 1.0),
    resampling="bootstrap",
    invariances=frozenset({"rotation", "translation", "scaling"}),
)
