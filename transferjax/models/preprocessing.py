"""From the bytes of an image to what a source wants to see. Runs on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transferjax.types import Normalization


def normalize(images: jax.Array, normalization: Normalization) -> jax.Array:
    """Images uint8 [b, h, w, 3] → float32 of the same shape, `(image / 255 - mean) / std` per channel."""
    mean, std = (jnp.stack([jnp.float32(v) for v in values]) for values in (normalization.mean, normalization.std))
    return (images.astype(jnp.float32) / 255 - mean) / std
