"""Losses of a classifier's head on features, for gradients: beside `triplet_loss`, which needs no head."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def cross_entropy(features: jax.Array, labels: jax.Array, *, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Mean cross-entropy of a linear head.

    Args:
      features: float [b, d].
      labels: int [b] in 0..c-1; or [b, c] of a multi-label target, 0, 1, and -1 for a missing label: then the binary
        cross-entropy, averaged over all labels that are known.
      kernel: float [d, c].
      bias: float [c].

    Returns:
      Scalar >= 0.
    """
    logits = jnp.matmul(features, kernel, precision="highest") + bias
    if labels.ndim == 1:
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))
    known = labels >= 0
    losses = optax.losses.sigmoid_binary_cross_entropy(logits, jnp.where(known, labels, 0).astype(logits.dtype))
    return jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(jnp.sum(known), 1)


def on_head(kernel: jax.Array, bias: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `cross_entropy` on this head, as a pytree: another head of the same shape compiles nothing again."""
    return jax.tree_util.Partial(cross_entropy, kernel=kernel, bias=bias)


def on_fresh_head(rng: jax.Array, d: int, num_classes: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `cross_entropy` on a head as PyTorch initialises one: uniform in ±1/√d, kernel and bias.

    Args:
      rng: a JAX key.
      d: features.
      num_classes: c.
    """
    of_kernel, of_bias = jax.random.split(rng)
    bound = d**-0.5
    kernel = jax.random.uniform(of_kernel, (d, num_classes), minval=-bound, maxval=bound)
    return on_head(kernel, jax.random.uniform(of_bias, (num_classes,), minval=-bound, maxval=bound))
