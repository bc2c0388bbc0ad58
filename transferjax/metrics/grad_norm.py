"""GradNorm: how hard a fresh linear head is pulled."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter
from transferjax.metrics._base import Metric, output_dtype


@functools.partial(jax.jit, static_argnames=("num_classes",))
def grad_norm(features: jax.Array, labels: jax.Array, *, num_classes: int, scatter: Scatter | None = None) -> jax.Array:
    """Frobenius norm of the gradient of the mean cross-entropy at the kernel of a linear head that is all zeros.

    Such a head gives every class 1/c, so the gradient's column of class k is Σ_i x_i·(1/c - [y_i = k])/n =
    m/c - (n_k/n)·m_k, with m the mean of all examples and m_k that of the class. The features enter as they are, with
    their scale and mean: it is the first step that training would take. Compare sources of one architecture.

    Invariances: rotation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; c counts the classes that occur.
      num_classes: how many classes there could be.
      scatter: of features and labels, if known.

    Returns:
      Scalar >= 0; bigger is better. float64 for float64 features, else float32.

    References:
      Abdelfattah, Mehrotra, Dudziak, Lane, 2021. Zero-cost proxies for lightweight NAS.
      https://arxiv.org/abs/2101.08134 (`grad_norm`, of a whole network). The deviation: of the head alone.
    """
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        present = scatter.counts > 0
        shares = scatter.counts / jnp.sum(scatter.counts)
        columns = scatter.mean / jnp.sum(present) - shares[:, None] * scatter.means
        norm = jnp.linalg.norm(jnp.where(present[:, None], columns, 0))
        return norm.astype(output_dtype(features))


METRIC = Metric(
    name="grad_norm",
    fn=grad_norm,
    inputs=("features", "labels"),
    shares=("scatter",),
    range=(0.0, float("inf")),
    resampling="bootstrap",
    invariances=frozenset({"rotation"}),
)
