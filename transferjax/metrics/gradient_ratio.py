"""Gradient ratio: how willingly the early layers adapt."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transferjax.metrics._base import Metric
from transferjax.types import GradientStats


@jax.jit
def gradient_ratio(gradients: GradientStats) -> jax.Array:
    """The gradient's norm at the second convolution over that at the first, each summed over the batches.

    Labels come in where the norms are taken: the triplet loss compares classes or, for a multi-label target, label
    sets, see `transferjax.gradients.triplet_loss`.

    Invariances: none (it does not see the features).

    Args:
      gradients: with `batch_norms` [batches, 2] of the triplet loss, see `transferjax.gradients.ratio`.

    Returns:
      Scalar >= 0; bigger is better. 0 if no batch had a gradient, i.e. if the loss was zero everywhere.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172
    """
    first, second = jnp.sum(gradients.batch_norms[:, 0]), jnp.sum(gradients.batch_norms[:, 1])
    return jnp.where(first == 0, 0, second / jnp.where(first == 0, 1, first))  # norms that are not numbers stay so


METRIC = Metric(
    name="gradient_ratio",
    fn=gradient_ratio,
    inputs=("gradients",),
    static=(),
    range=(0.0, float("inf")),
    multilabel="sets",
    resampling="batches",
)
