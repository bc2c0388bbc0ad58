"""Single steps of augmentation: pure functions of one uint8 image [h, w, c], as torchvision's v2 does them on tensors.

Each returns uint8, rounded or cut as torchvision does it. All lower for CPUs, GPUs and TPUs; where one of them wants
another way to the same numbers, both ways are here, and tests compare them.

References:
  torchvision, `torchvision.transforms.v2.functional`; PyTorch, `aten/src/ATen/native/cpu/UpSampleKernel.cpp`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def flip(image: jax.Array) -> jax.Array:
    """Returns the image with left and right exchanged."""
    return image[:, ::-1]


def resized_crop(
    image: jax.Array,
    top: jax.Array | int,
    left: jax.Array | int,
    height: jax.Array | int,
    width: jax.Array | int,
    size: int,
) -> jax.Array:
    """Returns a box of the image as `size` × `size` pixels: bilinear, antialiased.

    As PyTorch does it with uint8 on CPUs: along the rows first, then along the columns, with weights that are whole
    multiples of a power of two, and rounded to uint8 after each. Its float32 path, on GPUs, rounds only once.

    Args:
      image: uint8 [h, w, c].
      top: int, the box's first row, as are the following; may be traced. The box has to lie in the image.
      left: its first column.
      height: its rows.
      width: its columns.
      size: of the result; static.

    Returns:
      uint8 [size, size, c]: torchvision's values, but for one unit where a weight is a float32 step off a half.
    """
    h, w, _ = image.shape
    image = resample(image, taps_of(left, width, extent=w, size=size), axis=1)
    return resample(image, taps_of(top, height, extent=h, size=size), axis=0)


class Taps(NamedTuple):
    """Which pixels make up those of a smaller or larger line, t at most.

    Attributes:
      pixels: int32 [size, t], where to read. Some are there twice, with weight 0.
      weights: float32 [size, t], whole numbers below 2¹⁵. Sums of their products with bytes are exact in float32, in
        whatever order they are added, unless it shrinks more than fourfold.
      unit: by which these sums are multiplied, a power of two.
    """

    pixels: jax.Array
    weights: jax.Array
    unit: jax.Array


def taps_of(start: jax.Array | int, length: jax.Array | int, *, extent: int, size: int) -> Taps:
    """Returns how `length` pixels of a line of `extent`, from `start` on, become `size` pixels: a triangle filter."""
    start, length = jnp.asarray(start, jnp.int32), jnp.asarray(length, jnp.int32)
    count = -(-2 * max(extent, size) // size)  # at most so many have a weight, since length <= extent
    centre = (2 * jnp.arange(size)[:, None] + 1) * length
    peak = 2 * jnp.maximum(length, size)
    first = (centre - peak - size) // (2 * size) + 1
    pixels = jnp.maximum(first, 0) + jnp.arange(count)
    # Whole numbers, until they are divided by their sum: the filter's values times 2 * length or 2 * size.
    heights = jnp.maximum(peak - jnp.abs((2 * pixels + 1) * size - centre), 0)
    heights = jnp.where(pixels < length, heights, 0).astype(jnp.float32)
    shares = _divided(heights, jnp.sum(heights, axis=1, keepdims=True), heights > 0)
    powers = jnp.asarray(2.0 ** np.arange(1, 23), jnp.float32)
    precision = jnp.sum(jnp.floor(0.5 + shares.max() * powers) < 2**15)
    power = jnp.left_shift(1, precision).astype(jnp.float32)
    return Taps(jnp.minimum(start + pixels, extent - 1), jnp.floor(0.5 + shares * power), 1 / power)


def resample(image: jax.Array, taps: Taps, *, axis: int) -> jax.Array:
    """Returns the image, uint8 [h, w, c], with another height (axis 0) or width (axis 1)."""
    by_reading, by_product = (functools.partial(way, axis=axis) for way in (resample_by_reading, resample_by_product))
    return jax.lax.platform_dependent(image, taps, cpu=by_reading, default=by_product)


def resample_by_reading(image: jax.Array, taps: Taps, *, axis: int) -> jax.Array:
    """`resample` as a sum over the pixels that have a weight: for CPUs, which read from anywhere."""
    size, count = taps.weights.shape
    rows = image if axis else image.reshape(len(image), 1, -1)  # as one: channels are too few for an axis of their own
    weights = taps.weights[:, None] if axis else taps.weights[:, None, None]
    terms = [
        jnp.take(rows, taps.pixels[:, k], axis=axis, mode="clip").astype(jnp.float32) * weights[..., k]
        for k in range(count)
    ]
    shape = (len(image), size) if axis else (size, image.shape[1])
    return _rounded(functools.reduce(jnp.add, terms), taps.unit).reshape(*shape, -1)


def resample_by_product(image: jax.Array, taps: Taps, *, axis: int) -> jax.Array:
    """`resample` as a matrix product: for GPUs and TPUs, whose arithmetic is cheaper than reading here and there."""
    hits = taps.pixels[..., None] == jnp.arange(image.shape[axis])
    matrix = jnp.sum(jnp.where(hits, taps.weights[..., None], 0), axis=1)
    product = "op,hpc->hoc" if axis else "op,pwc->owc"
    return _rounded(jnp.einsum(product, matrix, image.astype(jnp.float32), precision="highest"), taps.unit)


def _rounded(total: jax.Array, unit: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor(total * unit + 0.5), 0, 255).astype(jnp.uint8)


def rotate(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
    """Returns the image turned counter-clockwise about its centre: the nearest pixel, and 0 from outside.

    Args:
      image: uint8 [h, w, c].
      degrees: float; may be traced.

    Returns:
      uint8 [h, w, c]: torchvision's values, but for some ten pixels in a million, of which float32 cannot tell which
      of two pixels is the nearer one.
    """
    h, w, c = image.shape
    angle = jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    x, y = jnp.arange(w) - 0.5 * (w - 1), jnp.arange(h)[:, None] - 0.5 * (h - 1)
    column = jnp.round(cosine * x - sine * y + 0.5 * (w - 1)).astype(jnp.int32)
    row = jnp.round(sine * x + cosine * y + 0.5 * (h - 1)).astype(jnp.int32)
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    source = jnp.where(inside, row * w + column, 0)
    return jnp.where(inside[..., None], jnp.take(image.reshape(h * w, c), source, axis=0, mode="clip"), 0)


def sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns the image with its difference from a smoothed copy changed by a factor; the border stays as it is.

    Args:
      image: uint8 [h, w, c].
      factor: 1 changes nothing, 2 sharpens, 0 smooths; may be traced.

    Returns:
      uint8 [h, w, c]; as it was, if it is not three pixels high and wide.
    """
    h, w, c = image.shape
    if min(h, w) < 3:
        return image
    lines = image.reshape(h, w * c)  # channels are too few for an axis of their own
    values = lines.astype(jnp.float32)
    rows = values[:-2] + values[1:-1] + values[2:]
    middle = values[1:-1, c:-c]
    total = rows[:, : -2 * c] + rows[:, c:-c] + rows[:, 2 * c :] + 4 * middle
    smooth = jnp.round(total * np.float32(1 / 13))
    mixed = jnp.clip(middle + (1 - factor) * (smooth - middle), 0, 255).astype(jnp.uint8)
    inner = jnp.concatenate([lines[1:-1, :c], mixed, lines[1:-1, -c:]], axis=1)
    return jnp.concatenate([lines[:1], inner, lines[-1:]]).reshape(h, w, c)


def autocontrast(image: jax.Array) -> jax.Array:
    """Returns the image with each channel spread over 0..255; a constant channel stays as it is."""
    return lookup(image, autocontrast_table(histogram(image)))


def equalize(image: jax.Array) -> jax.Array:
    """Returns the image with each channel's histogram made even, in Pillow's way.

    A channel stays as it is if fewer than 255 of its pixels are below its highest value.
    """
    return lookup(image, equalize_table(histogram(image), unchanged(image.shape[2])))


def unchanged(channels: int) -> jax.Array:
    """Returns the table that makes of each value the same: uint8 [channels, 256]."""
    return jnp.broadcast_to(jnp.arange(256, dtype=jnp.uint8), (channels, 256))


def autocontrast_table(counts: jax.Array) -> jax.Array:
    """Returns what `autocontrast` makes of each channel's values: uint8 [c, 256], of histograms, int32 [c, 256]."""
    values = jnp.arange(256, dtype=jnp.float32)
    low = jnp.min(jnp.where(counts > 0, values, 255), axis=1, keepdims=True)
    high = jnp.max(jnp.where(counts > 0, values, 0), axis=1, keepdims=True)
    changes = (low <= values) & (values <= high) & (low < high)
    spread = _divided(values - low, (high - low) * np.float32(1 / 255), changes)
    return jnp.where(changes, jnp.clip(spread, 0, 255), values).astype(jnp.uint8)


def _divided(numerator: jax.Array, divisor: jax.Array, where: jax.Array) -> jax.Array:
    """Returns quotients rounded as IEEE says, and the numerators elsewhere.

    XLA makes of a division of many by one a product with its inverse, which rounds twice; of this it does not.
    """
    return numerator / jnp.where(where, divisor, 1)


def equalize_table(counts: jax.Array, otherwise: jax.Array) -> jax.Array:
    """Returns what `equalize` makes of each value of each channel.

    Args:
      counts: int32 [c, 256], the histograms.
      otherwise: uint8 [c, 256], taken for a channel on which it does not act.

    Returns:
      uint8 [c, 256].
    """
    below = jnp.cumsum(counts, axis=1) - counts
    highest = jnp.max(jnp.where(counts > 0, jnp.arange(256), 0), axis=1, keepdims=True)
    step = jnp.take_along_axis(below, highest, axis=1) // 255
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table.astype(jnp.uint8), otherwise)


def histogram(image: jax.Array) -> jax.Array:
    """Returns how often each channel takes each value: int32 [c, 256], of uint8 [h, w, c]."""
    return jax.lax.platform_dependent(image, cpu=histogram_by_adding, default=histogram_by_bits)


@jax.custom_batching.sequential_vmap
def histogram_by_adding(image: jax.Array) -> jax.Array:
    """`histogram`, pixel by pixel: for CPUs. One image after the other, since a batch's bins take much memory."""
    c = image.shape[2]
    bins = image.astype(jnp.int32) + 256 * jnp.arange(c)
    return jnp.zeros(256 * c, jnp.int32).at[bins.ravel()].add(1, mode="promise_in_bounds").reshape(c, 256)


def histogram_by_bits(image: jax.Array) -> jax.Array:
    """`histogram` of 32 pixels at once: for GPUs and TPUs, where adding to one of many places is slow.

    A bit for each pixel says whether its upper half is, for instance, 3, and another whether its lower half is 7; the
    count of 0x37 is the number of bits that are set in both.
    """
    h, w, c = image.shape
    words = -(-h * w // 32)
    filler = 32 * words - h * w
    pixels = jnp.pad(image.reshape(h * w, c), ((0, filler), (0, 0))).reshape(32, words, c).transpose(0, 2, 1)
    places = jnp.arange(32, dtype=jnp.uint32)[:, None, None]

    def masks(halves: jax.Array) -> jax.Array:
        same = halves == jnp.arange(16, dtype=jnp.uint8)[:, None, None, None]
        return jnp.sum(same.astype(jnp.uint32) << places, axis=1, dtype=jnp.uint32)  # [16, c, words]

    upper, lower = masks(pixels >> 4), masks(pixels & 15)
    both = jax.lax.population_count(upper[:, None] & lower[None]).astype(jnp.int32)
    return jnp.sum(both, axis=-1).reshape(256, c).T - filler * (jnp.arange(256) == 0)


def lookup(image: jax.Array, table: jax.Array) -> jax.Array:
    """Returns what a table [c, 256] makes of the values of an image, uint8 [h, w, c]: of the same shape."""
    return jax.lax.platform_dependent(image, table, tpu=lookup_by_product, default=lookup_by_reading)


def lookup_by_reading(image: jax.Array, table: jax.Array) -> jax.Array:
    """`lookup`, pixel by pixel: for CPUs and GPUs."""
    h, w, c = image.shape
    places = image.reshape(h, w * c).astype(jnp.int32) + jnp.tile(256 * jnp.arange(c), w)
    return table.reshape(-1).at[places].get(mode="promise_in_bounds").reshape(h, w, c)


def lookup_by_product(image: jax.Array, table: jax.Array) -> jax.Array:
    """`lookup` as products with zeros and ones, of a table of bytes: for TPUs, where reading here and there is slow."""
    halves = jnp.arange(16, dtype=jnp.uint8)
    upper = (image[..., None] >> 4 == halves).astype(jnp.bfloat16)  # bfloat16 holds bytes exactly
    lower = image[..., None] & 15 == halves
    rows = jnp.einsum("hwci,cij->hwcj", upper, table.reshape(-1, 16, 16).astype(jnp.bfloat16))
    return jnp.sum(jnp.where(lower, rows, 0), axis=-1).astype(table.dtype)
