"""How alike label sets are, of which some labels can be missing."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def set_similarity(one: jax.Array, other: jax.Array) -> jax.Array:
    """How alike the label sets of two examples are.

    Args:
      one: int [..., c], the label sets of a multi-label target: 0, 1, and -1 for a missing label.
      other: likewise; the leading axes broadcast.

    Returns:
      float32 [...] in 0..1, 1 for the same: the Jaccard index over the labels that are known for both,
      |both have it| / |either has it|; 1 if neither has any of them, e.g. for two examples without finding.
    """
    both, either = set_overlap(one, other)
    return both.astype(jnp.float32) / either.astype(jnp.float32)


def set_overlap(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns numerator and denominator of `set_similarity`, so that similarities can be compared without rounding.

    Args:
      one: int [..., c], see `set_similarity`.
      other: likewise.

    Returns:
      int32 [...] each: |both have it| and |either has it|, over the labels known for both; 1 and 1 if neither has any.
    """
    both = jnp.sum((one == 1) & (other == 1), axis=-1, dtype=jnp.int32)
    known = (one >= 0) & (other >= 0)
    either = jnp.sum(known & ((one == 1) | (other == 1)), axis=-1, dtype=jnp.int32)
    return jnp.where(either > 0, both, 1), jnp.maximum(either, 1)
