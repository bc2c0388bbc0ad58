"""From the bytes of an image to what a source wants to see. Runs on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transferjax.types import Normalization

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow and OpenCV weigh them


def normalize(images: jax.Array, normalization: Normalization) -> jax.Array:
    """Images uint8 [b, h, w, 3] → float32 of the same shape, or [b, size, size, 3]; see `Normalization`."""
    mean, std = (jnp.stack([jnp.float32(v) for v in values]) for values in (normalization.mean, normalization.std))
    scaled = images.astype(jnp.float32) / 255
    if normalization.grey:
        luminance = jnp.sum(scaled * jnp.asarray(_LUMINANCE, jnp.float32), axis=-1, keepdims=True)
        scaled = jnp.broadcast_to(luminance, scaled.shape)
    if (size := normalization.size) is not None and scaled.shape[1:3] != (size, size):
        scaled = jax.image.resize(scaled, (len(scaled), size, size, 3), "linear")
    if normalization.channel_order == "bgr":
        scaled = scaled[..., ::-1]
    return (scaled - mean) / std
