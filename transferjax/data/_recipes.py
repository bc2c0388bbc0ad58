"""How images are augmented: recipes, and what is drawn for each image."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax._validate import fail

_TRIES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How images are augmented. The defaults are the paper's.

    Attributes:
      flip: probability, 0..1.
      scale: the smallest and the largest share of the image's area that a box can have, in 0..1.
      ratio: the smallest and the largest width of a box for its height, above 0.
      degrees: the smallest and the largest angle, counter-clockwise.
      sharpness_factor: 1 changes nothing, 2 sharpens.
      sharpness: probability, as are the following.
      autocontrast: of spreading each channel over 0..255.
      equalize: of making each channel's histogram even.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    degrees: tuple[float, float] = (0.0, 5.0)
    sharpness_factor: float = 2.0
    sharpness: float = 0.5
    autocontrast: float = 0.5
    equalize: float = 0.5

    def __post_init__(self) -> None:
        """Raises `InputError` if a probability or a range is none."""
        for name in ("flip", "sharpness", "autocontrast", "equalize"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise fail(name, f"{value} is not a probability", "Give a number in 0..1.")
        self._check_range("scale", self.scale[0] > 0 and self.scale[1] <= 1, "shares of the area, above 0, to 1")
        self._check_range("ratio", self.ratio[0] > 0 and self.ratio[1] < math.inf, "widths for a height, above 0")
        self._check_range("degrees", self.degrees[0] >= -360 and self.degrees[1] <= 360, "angles in -360..360")
        if not 0 <= self.sharpness_factor < math.inf:
            raise fail("sharpness_factor", f"{self.sharpness_factor}", "Give a number of at least 0.")

    def _check_range(self, name: str, within: bool, meaning: str) -> None:
        low, high = getattr(self, name)
        if not (within and low <= high):
            raise fail(name, f"{low} to {high}", f"Give the smallest and the largest: {meaning}.")


PAPER = Recipe()
"""For images of 224 pixels, as published."""

SMALL = Recipe(scale=(0.6, 1.0), sharpness=0.0, autocontrast=0.0, equalize=0.0)
"""For images of about 28 pixels.

A box of 8 % would be 8 by 8 pixels: too few to tell a class by. Sharpening acts on neighbours, which are 8 times as far
apart as at 224 pixels. `equalize` would divide a histogram of 784 pixels into steps of at most 3, mostly noise, and on
small sections of tissue the intensity itself, which it and `autocontrast` undo, can tell the classes.
"""


class Parameters(NamedTuple):
    """What is done to an image; as arrays [b], to a batch.

    Attributes:
      flip: bool.
      top: int32, first row of the box, in the flipped image, as are the following.
      left: its first column.
      height: its rows.
      width: its columns.
      degrees: float32, counter-clockwise.
      sharpness: bool, as are the following.
      autocontrast: whether each channel is spread.
      equalize: whether each histogram is made even.
    """

    flip: jax.Array
    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array
    degrees: jax.Array
    sharpness: jax.Array
    autocontrast: jax.Array
    equalize: jax.Array


def draw(key: jax.Array, recipe: Recipe, *, height: int, width: int) -> Parameters:
    """Draws the parameters for one image, from the distributions that torchvision draws from.

    Of ten boxes the first that fits into the image is taken. If none does, the box is in the centre: the whole image,
    or as much of it as the bounds of `ratio` leave.

    Args:
      key: of the image.
      recipe: see `Recipe`.
      height: of the image; static, as is its width.
      width: of the image.
    """
    fractions = jax.random.uniform(key, (2 * _TRIES + 7,))  # at once: each call is much to compile
    area, ratio, (flipped, top, left, angle, *others) = jnp.split(fractions, (_TRIES, 2 * _TRIES))
    areas = height * width * _between(area, *recipe.scale)
    ratios = jnp.exp(_between(ratio, *(math.log(bound) for bound in recipe.ratio)))
    widths = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, any_fits = jnp.argmax(fits), jnp.any(fits)
    central_height, central_width = _central_box(height, width, recipe.ratio)
    box_height = jnp.where(any_fits, heights[first], central_height)
    box_width = jnp.where(any_fits, widths[first], central_width)
    free_rows, free_columns = height - box_height, width - box_width
    sharpened, spread, evened = others
    return Parameters(
        flip=flipped < recipe.flip,
        top=jnp.where(any_fits, jnp.int32(top * (free_rows + 1)), free_rows // 2),
        left=jnp.where(any_fits, jnp.int32(left * (free_columns + 1)), free_columns // 2),
        height=box_height,
        width=box_width,
        degrees=_between(angle, *recipe.degrees),
        sharpness=sharpened < recipe.sharpness,
        autocontrast=spread < recipe.autocontrast,
        equalize=evened < recipe.equalize,
    )


def _between(fraction: jax.Array, low: float, high: float) -> jax.Array:
    return low + fraction * (high - low)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width
