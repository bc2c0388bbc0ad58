"""Norms of the loss's gradient at chosen kernels, batch by batch: what the gradient ratio is made of."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from transferjax._validate import fail
from transferjax.gradients.triplet import triplet_loss

NUM_BATCHES = 6
MIN_EXAMPLES = 3 * NUM_BATCHES  # a triple needs three examples in one batch


def batch_bounds(n: int) -> list[tuple[int, int]]:
    """Returns start and end of the published batches: size ⌊n/6⌋, in the data's order, the smaller tail kept.

    Raises:
      InputError: fewer than 18 examples: no batch could hold a triple, and every source would score 0.
    """
    size = n // NUM_BATCHES
    if n < MIN_EXAMPLES:
        remedy = f"gradient_ratio needs at least {MIN_EXAMPLES}: take more, or leave it out of the metrics."
        raise fail("examples", f"{n} are too few", remedy)
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def kernel_gradient_norms(
    embed: Callable[[tuple[jax.Array, ...]], jax.Array],
    kernels: tuple[jax.Array, ...],
    labels: jax.Array,
    *,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = triplet_loss,
) -> tuple[jax.Array, jax.Array]:
    """One forward and one backward pass of a batch.

    Differentiates with respect to the given kernels alone: no other parameter's gradient is formed.

    Args:
      embed: kernels → features [b, d]; the images and all other parameters are closed over.
      kernels: the l kernels.
      labels: int [b]; or [b, c] of a multi-label target, if the loss takes them, as `triplet_loss` does.
      loss: features [b, d], labels → scalar.

    Returns:
      The features [b, d] and the Frobenius norm of the batch loss's gradient at each kernel, [l].
    """

    def batch_loss(kernels: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        features = embed(kernels)
        return loss(features, labels), features

    gradients, features = jax.grad(batch_loss, has_aux=True)(kernels)
    return features, jnp.stack([jnp.linalg.norm(gradient.ravel()) for gradient in gradients])
