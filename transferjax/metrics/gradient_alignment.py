"""Gradient alignment: whether a change of the early layers that helps one example helps others."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax.metrics._base import Metric
from transferjax.types import ExampleGradientStats


@functools.partial(jax.jit, static_argnames=("contrast",))
def gradient_alignment(
    example_gradients: ExampleGradientStats, labels: jax.Array, *, contrast: bool = False
) -> jax.Array:
    """Mean cosine between the gradients of two examples of a class, averaged over the two kernels and the batches.

    Exact: from sums of unit gradients over classes, see `transferjax.gradients.statistics.alignment`. Not defined for
    multi-label targets, which have no classes.

    Invariances: none (it does not see the features).

    Args:
      example_gradients: with `alignment` [batches, l, 2].
      labels: int [n]; they are in the alignment already, and only tell whether an example has one class.
      contrast: less the mean cosine of two examples of different classes (preset `gradient_alignment_contrast`):
        whether gradients tell classes apart, rather than agree on everything.

    Returns:
      Scalar in -1..1, with `contrast` in -2..2; bigger is better. Where no class of a batch has two examples with a
      gradient, that batch counts 0.

    References:
      Fort, Nowak, Jastrzebski, Narayanan, 2019. Stiffness: a new perspective on generalization in neural networks.
      https://arxiv.org/abs/1901.09491. There it is followed during training; that it tells how well a source transfers
      is a conjecture here.
    """
    del labels
    within, between = jnp.mean(example_gradients.alignment, axis=(0, 1))  # type: ignore[arg-type]
    return within - between if contrast else within


METRICS = tuple(
    Metric(
        name=name,
        fn=functools.partial(gradient_alignment, contrast=bound == 2),
        inputs=("example_gradients", "labels"),
        static=(),
        range=(-float(bound), float(bound)),
        multilabel="refused",
        resampling="batches",
    )
    for name, bound in (("gradient_alignment", 1), ("gradient_alignment_contrast", 2))
)
