"""Gradient signal-to-noise ratio: how much the examples agree on how the early layers should change."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transferjax.metrics._base import Metric
from transferjax.types import ExampleGradientStats


@jax.jit
def gradient_snr(example_gradients: ExampleGradientStats) -> jax.Array:
    """The squared mean over the variance of the examples' gradients, entry by entry.

    Averaged over the entries of a kernel, over the two kernels and over the batches. Of b examples whose gradients
    have nothing in common it is about 1/b, not 0: compare scores on the same number of examples.

    Invariances: none (it does not see the features).

    Args:
      example_gradients: with `signal_to_noise` [batches, l], see `transferjax.gradients.statistics`.

    Returns:
      Scalar >= 0; bigger is better. 0 if there was no gradient.

    References:
      Liu, Jiang, Bai, Chen, Wang, 2020. Understanding why neural networks generalize well through GSNR of parameters.
      https://arxiv.org/abs/2001.07384. There it is followed during training; that it tells how well a source transfers
      is a conjecture here.
    """
    return jnp.mean(example_gradients.signal_to_noise)


METRIC = Metric(
    name="gradient_snr",
    fn=gradient_snr,
    inputs=("example_gradients",),
    static=(),
    range=(0.0, float("inf")),
    multilabel="sets",
    resampling="batches",
)
