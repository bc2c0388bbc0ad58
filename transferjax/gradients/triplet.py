"""The triplet margin loss over all triples of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transferjax._linalg import chunk_size

MARGIN = 0.05


def triplet_loss(features: jax.Array, labels: jax.Array, *, margin: float = MARGIN) -> jax.Array:
    """Mean over all (anchor, positive, negative) triples of a batch whose loss is above zero.

    The loss of a triple is D(anchor, positive) - D(anchor, negative) + margin, with D the euclidean distance of
    L2-normalised features. Distances are taken from differences, not from inner products, so that those of nearly equal
    images keep their digits; the derivative of a distance at 0 is 0 (identical images occur).

    Args:
      features: float [b, d].
      labels: int [b].
      margin: see above.

    Returns:
      Scalar >= 0; 0 if no triple has a loss, in particular if the batch has one class only. Works in chunks of anchors:
      O(b²·(b+d)) operations, memory bounded.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    b, d = features.shape
    norms = jnp.sqrt(_positive(jnp.sum(features**2, axis=1, keepdims=True)))
    unit = features / jnp.maximum(norms, 1e-12)

    @jax.checkpoint  # backwards, a chunk's differences are computed again instead of being kept
    def of_anchor(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        squares = jnp.sum((unit[index] - unit) ** 2, axis=1)
        distances = jnp.where(squares > 0, jnp.sqrt(_positive(squares)), 0)
        same = labels == labels[index]
        positive = same & (jnp.arange(b) != index)
        losses = distances[:, None] - distances + margin
        counted = positive[:, None] & ~same & (losses > 0)
        return jnp.sum(jnp.where(counted, losses, 0)), jnp.sum(counted, dtype=losses.dtype)  # b³ is too much for int32

    losses, counts = jax.lax.map(of_anchor, jnp.arange(b), batch_size=chunk_size(b, b * (b + d)))
    return jnp.sum(losses) / jnp.maximum(jnp.sum(counts), 1)


def _positive(squares: jax.Array) -> jax.Array:
    """Replaces zeros by ones: the root of what is masked out must still have a finite derivative."""
    return jnp.where(squares > 0, squares, 1)
