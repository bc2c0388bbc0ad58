"""Images of one size into images of another."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resized(image: Image.Image, size: int) -> Image.Image:
    """Returns an 8-bit image as `size` × `size` pixels: bilinear, antialiased, without keeping the aspect ratio."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """Returns uint8 images [n, h, w, 3] as [n, size, size, 3], each as `resized` does it."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([np.asarray(resized(Image.fromarray(image), size)) for image in images])
