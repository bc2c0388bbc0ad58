"""Gradient ratio: how willingly the early layers adapt."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax.metrics._base import Metric
from transferjax.types import ExampleGradientStats, GradientStats


@jax.jit
def gradient_ratio(gradients: GradientStats) -> jax.Array:
    """The gradient's norm at the second convolution over that at the first, each summed over the batches.

    Labels come in where the norms are taken: the triplet loss compares classes or, for a multi-label target, label
    sets, see `transferjax.gradients.triplet_loss`.

    Invariances: none (it does not see the features).

    Args:
      gradients: with `batch_norms` [batches, 2] of the triplet loss, see `transferjax.extraction.extract`.

    Returns:
      Scalar >= 0; bigger is better. 0 if no batch had a gradient, i.e. if the loss was zero everywhere.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172
    """
    return _ratio(*jnp.sum(gradients.batch_norms, axis=0))


@functools.partial(jax.jit, static_argnames=("median",))
def gradient_ratio_by_example(example_gradients: ExampleGradientStats, *, median: bool = False) -> jax.Array:
    """The same ratio, from the norms of the examples' own shares of the gradient.

    In a batch's gradient the shares of its examples cancel, the more the less they agree; here they do not. So this is
    the size of what single examples ask for, without whether they ask for the same.

    Invariances: none (it does not see the features).

    Args:
      example_gradients: with `norms` [n, 2].
      median: of the examples' norms, instead of their mean (preset `gradient_ratio_median`): a few examples with large
        gradients then do not decide; it is 0 if half of the examples have none.

    Returns:
      Scalar >= 0; bigger is better. 0 if there is no gradient at the first convolution.

    References:
      None: it is ours, after Juodelyte et al., 2024 (`gradient_ratio`).
    """
    of_norms = jnp.median if median else jnp.mean
    return _ratio(*of_norms(example_gradients.norms, axis=0))


def _ratio(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.where(first == 0, 0, second / jnp.where(first == 0, 1, first))  # norms that are not numbers stay so


METRICS = (
    Metric(
        name="gradient_ratio",
        fn=gradient_ratio,
        inputs=("gradients",),
        static=(),
        range=(0.0, float("inf")),
        multilabel="sets",
        resampling="batches",
    ),
    *(
        Metric(
            name=f"gradient_ratio_{kind}",
            fn=functools.partial(gradient_ratio_by_example, median=kind == "median"),
            inputs=("example_gradients",),
            static=(),
            range=(0.0, float("inf")),
            multilabel="sets",
            resampling="bootstrap",
        )
        for kind in ("mean", "median")
    ),
)
