"""The examples of each class as arrays of one size, so that kernels can work class by class."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def class_members(labels: jax.Array, *, num_classes: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns who belongs to each class.

    Args:
      labels: int [n] in 0..c-1.
      num_classes: c.
      size: at least that of the largest class (`TransferPair.max_class_size`).

    Returns:
      Indices int32 [c, size], those of a class in their order first, and bool [c, size], true for these; the indices
      of the rest are of other examples or repeat the last one, to be masked.
    """
    n = len(labels)
    order = jnp.argsort(labels, stable=True).astype(jnp.int32)
    counts = jnp.zeros(num_classes, jnp.int32).at[labels].add(1)
    ends = jnp.cumsum(counts)
    places = (ends - counts)[:, None] + jnp.arange(size, dtype=jnp.int32)
    return order[jnp.minimum(places, n - 1)], jnp.arange(size) < counts[:, None]
