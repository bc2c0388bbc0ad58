"""Images of one size into images of another."""

from __future__ import annotations

import numpy as np
from PIL import Image

from transferjax._lazy import LazyImages


def resized(image: Image.Image, size: int) -> Image.Image:
    """Returns an 8-bit image as `size` × `size` pixels: bilinear, antialiased, without keeping the aspect ratio."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def resize_all(images: np.ndarray | LazyImages, size: int) -> np.ndarray | LazyImages:
    """Returns uint8 images [n, h, w, 3] as [n, size, size, 3], each as `resized` does it; lazy ones stay lazy."""
    if images.shape[1:3] == (size, size):
        return images
    if isinstance(images, LazyImages):
        return images.changed(
            lambda image: np.array(resized(Image.fromarray(image), size)), size=(size, size), name=f"resized to {size}"
        )
    return np.stack([np.asarray(resized(Image.fromarray(image), size)) for image in images])
