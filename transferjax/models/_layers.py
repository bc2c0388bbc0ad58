"""Convolutions that are fast on every backend: XLA's own, but on CPU where there is a faster way.

Which way is taken depends on the backend (`jax.lax.platform_dependent`) and on shapes, never on values; results differ
by float32 rounding. What was measured is in `experiments/benchmark.py --suite=gradients`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import _patches
from transferjax.models import _winograd

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Way = Literal["taps", "winograd", "xla"]
_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Elements of the patches that are held at once for a kernel's gradient: what stays in a core's caches.
_PATCH_ELEMENTS = 2**21
# Maps of so few pixels, and so many pairs of channels, that tap by tap is faster than XLA's.
_FEW_PIXELS, _LARGE_KERNEL = 64, 2**18


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **others: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, to be given to Flax's `nn.Conv`; differentiable in reverse mode.

    1x1 kernels are one matrix product on CPU; for the others see `convolve`.

    Args:
      lhs: images [b, h, w, c].
      rhs: kernel [kh, kw, c/groups, o].
      window_strides: see there, as are all others.
      padding: see there.
      lhs_dilation: see there.
      rhs_dilation: see there.
      dimension_numbers: those of images and kernels as above.
      feature_group_count: see there.
      **others: see there.

    Returns:
      [b, oh, ow, o].
    """
    plain = lhs.ndim == 4 and feature_group_count == 1
    plain = plain and all(step == 1 for step in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    plain = plain and all(value is None for name, value in others.items() if name != "precision")
    if not plain or isinstance(padding, str):
        return jax.lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            **others,
        )
    (top, bottom), (left, right) = padding
    down, across = window_strides
    if rhs.shape[:2] == (1, 1) and not any((top, bottom, left, right)):
        return _by_channels_once(lhs, rhs, (down, across))
    return _traced_once(lhs, rhs, (down, across), ((top, bottom), (left, right)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """A two-dimensional convolution.

    On CPU a way of its own is taken, forwards and for the input's gradient alike, where XLA's is slow:

    - where the kernel has more positions than the map (both without padding), XLA swaps the two and then runs a naive
      loop, ten times as slow. So small maps are convolved tap by tap: one product for each position of the kernel, of
      those pixels alone which it meets. Also with stride 2 on maps of up to 4x4;
    - 3x3 kernels with stride 1 go by `_winograd` in float32, where that pays;
    - a kernel's gradient is the product of patches and output gradients, where it does not go by `_winograd` too.

    Args:
      inputs: float [b, h, w, c].
      kernel: float [kh, kw, c, o].
      strides: down and across.
      padding: zeros before and after, for each axis.

    Returns:
      float [b, oh, ow, o].
    """
    way = way_of(inputs.shape, kernel.shape, strides, padding, inputs.dtype)
    if way == "xla":
        return _xla(inputs, kernel, strides, padding)
    return jax.lax.platform_dependent(
        inputs,
        kernel,
        cpu=functools.partial(_on_cpu, way, strides, padding),
        default=functools.partial(_xla, strides=strides, padding=padding),
    )


def _forwards(inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> tuple[jax.Array, Any]:
    return convolve(inputs, kernel, strides, padding), (inputs, kernel)


def _backwards(strides: Pair, padding: Padding, kept: Any, pulls: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = kept
    of_inputs = jax.lax.platform_dependent(
        kernel,
        pulls,
        cpu=functools.partial(_input_gradient_on_cpu, inputs.shape, strides, padding),
        default=functools.partial(_input_gradient, inputs.shape, strides, padding),
    )
    of_kernel = jax.lax.platform_dependent(
        inputs,
        pulls,
        cpu=functools.partial(_kernel_gradient_on_cpu, kernel.shape, strides, padding),
        default=functools.partial(_kernel_gradient, kernel.shape, strides, padding),
    )
    return of_inputs, of_kernel


convolve.defvjp(_forwards, _backwards)


def _by_channels(inputs: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """A 1x1 kernel without padding.

    A product on CPU alone: fused with the slice of a stride, it ends XLA's compiler for GPUs (jaxlib 0.11.2,
    triton_tiling_propagation.cc: "Check failed: subdim_size_accumulator == dim_size"), and the process with it.
    """
    down, across = strides
    return jax.lax.platform_dependent(
        inputs,
        kernel,
        cpu=lambda inputs, kernel: jnp.matmul(inputs[:, ::down, ::across], kernel[0, 0]),
        default=functools.partial(_xla, strides=strides, padding=((0, 0), (0, 0))),
    )


# Tracing the ways of one convolution takes 10 ms and more, and networks repeat their shapes; XLA inlines the call.
_traced_once = jax.jit(convolve, static_argnums=(2, 3))
_by_channels_once = jax.jit(_by_channels, static_argnums=2)


def way_of(inputs: tuple[int, ...], kernel: tuple[int, ...], strides: Pair, padding: Padding, dtype: Any) -> Way:
    """Returns how a convolution of these shapes is computed on CPU, see `convolve`."""
    (_, h, w, _), (kh, kw, _, _) = inputs, kernel
    if kh * kw > h * w or (strides == (2, 2) and max(h, w) <= 4):
        return "taps"
    if strides == (1, 1) and h * w <= _FEW_PIXELS and math.prod(kernel[2:]) >= _LARGE_KERNEL:
        return "taps"
    three = (kh, kw) == (3, 3) and strides == (1, 1) and padding == ((1, 1), (1, 1))
    if three and dtype == jnp.float32 and _winograd.pays(inputs, kernel):
        return "winograd"
    return "xla"


def _on_cpu(way: Way, strides: Pair, padding: Padding, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    if way == "taps":
        return _by_taps(inputs, kernel, strides, padding)
    if way == "winograd":
        return _winograd.convolve(inputs, kernel)
    return _xla(inputs, kernel, strides, padding)


def _xla(inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=_NUMBERS)


def _by_taps(inputs: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """Adds, for each position of the kernel, the product with the pixels that it meets."""
    b, h, w, _ = inputs.shape
    kh, kw, _, o = kernel.shape
    oh, ow = _output_size((h, w), (kh, kw), strides, padding)
    total = jnp.zeros((b, oh, ow, o), inputs.dtype)
    for i in range(kh):
        rows = _met(h, oh, i, strides[0], padding[0][0])
        for j in range(kw):
            columns = _met(w, ow, j, strides[1], padding[1][0])
            if rows is None or columns is None:
                continue
            (from_rows, to_rows), (from_columns, to_columns) = rows, columns
            product = jnp.matmul(inputs[:, from_rows, from_columns], kernel[i, j], precision="highest")
            total = total.at[:, to_rows, to_columns].add(product)
    return total


def _met(size: int, outputs: int, tap: int, stride: int, before: int) -> tuple[slice, slice] | None:
    """Returns which inputs along an axis a position of the kernel meets, and for which outputs; None for none."""
    first = max(
        0, -(-(before - tap) // stride)
    )  # the first output whose input, stride·out + tap - before, is no padding
    last = min(outputs - 1, (size - 1 + before - tap) // stride)
    if last < first:
        return None
    start = stride * first + tap - before
    return slice(start, start + stride * (last - first) + 1, stride), slice(first, last + 1)


def _output_size(size: Pair, window: Pair, strides: Pair, padding: Padding) -> Pair:
    down, across = (
        (extent + sum(pads) - taps) // stride + 1
        for extent, taps, stride, pads in zip(size, window, strides, padding, strict=True)
    )
    return down, across


def _input_gradient(
    shape: tuple[int, ...], strides: Pair, padding: Padding, kernel: jax.Array, pulls: jax.Array
) -> jax.Array:
    inputs = jax.ShapeDtypeStruct(shape, pulls.dtype)
    return jax.linear_transpose(lambda x: _xla(x, kernel, strides, padding), inputs)(pulls)[0]


def _input_gradient_on_cpu(
    shape: tuple[int, ...], strides: Pair, padding: Padding, kernel: jax.Array, pulls: jax.Array
) -> jax.Array:
    inputs = jax.ShapeDtypeStruct(shape, pulls.dtype)
    way = way_of(shape, kernel.shape, strides, padding, pulls.dtype)
    if way == "winograd":  # which is of its own kind: turned by half a circle, with the channels exchanged
        return _winograd.convolve(pulls, kernel[::-1, ::-1].swapaxes(2, 3))
    if way == "xla" and math.prod(kernel.shape[:2]) > math.prod(pulls.shape[1:3]):
        way = "taps"  # XLA swaps kernel and output gradients, as it does with inputs
    if way == "xla" and strides != (1, 1):
        return _by_phases(shape, strides, padding, kernel, pulls)
    return jax.linear_transpose(lambda x: _on_cpu(way, strides, padding, x, kernel), inputs)(pulls)[0]


def _by_phases(
    shape: tuple[int, ...], strides: Pair, padding: Padding, kernel: jax.Array, pulls: jax.Array
) -> jax.Array:
    """Returns the input's gradient of a strided convolution, for each pixel of a stride by a convolution of its own.

    XLA convolves output gradients that are spread out instead, which takes longer on large maps.
    """
    b, h, w, c = shape
    heights, widths = (-(-size // stride) for size, stride in zip((h, w), strides, strict=True))
    rows = []
    for p in range(strides[0]):
        row = []
        for q in range(strides[1]):
            down, (top, bottom) = _phase(h, pulls.shape[1], kernel.shape[0], p, strides[0], padding[0][0])
            right, (left, end) = _phase(w, pulls.shape[2], kernel.shape[1], q, strides[1], padding[1][0])
            part = kernel[down, right][::-1, ::-1].swapaxes(2, 3)
            if 0 in part.shape:
                row.append(jnp.zeros((b, heights, widths, c), pulls.dtype))
                continue
            edges = ((0, 0, 0), (top, bottom, 0), (left, end, 0), (0, 0, 0))
            seen = jax.lax.pad(pulls, jnp.zeros((), pulls.dtype), edges)
            found = _xla(seen, part, (1, 1), ((0, 0), (0, 0)))
            row.append(jnp.pad(found, ((0, 0), (0, heights - found.shape[1]), (0, widths - found.shape[2]), (0, 0))))
        rows.append(jnp.stack(row, axis=3))
    whole = jnp.stack(rows, axis=2).reshape(b, heights * strides[0], widths * strides[1], c)
    return whole[:, :h, :w]


def _phase(size: int, outputs: int, window: int, phase: int, stride: int, before: int) -> tuple[slice, Pair]:
    """Returns which of the kernel's positions the pixels phase, phase + stride, ... meet, and the padding of outputs.

    Position t meets pixel phase + stride·i from output i + (phase + before - t)/stride. The padding, less than 0 to cut
    off, makes a convolution with these positions, the last one first, give one value for each pixel.
    """
    first = (phase + before) % stride
    taps = slice(first, window, stride)
    count = len(range(first, window, stride))
    lowest = (phase + before - first) // stride - (count - 1)  # output of the last position, for the first pixel
    pixels = len(range(phase, size, stride))
    return taps, (-lowest, lowest + pixels + count - 1 - outputs)


def _kernel_gradient(
    shape: tuple[int, ...], strides: Pair, padding: Padding, inputs: jax.Array, pulls: jax.Array
) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(shape, pulls.dtype)
    return jax.linear_transpose(lambda k: _xla(inputs, k, strides, padding), kernel)(pulls)[0]


def _kernel_gradient_on_cpu(
    shape: tuple[int, ...], strides: Pair, padding: Padding, inputs: jax.Array, pulls: jax.Array
) -> jax.Array:
    way = way_of(inputs.shape, shape, strides, padding, pulls.dtype)
    if way == "winograd":
        return _winograd.kernel_gradient(inputs, pulls)
    if way == "taps":
        kernel = jax.ShapeDtypeStruct(shape, pulls.dtype)
        return jax.linear_transpose(lambda k: _on_cpu(way, strides, padding, inputs, k), kernel)(pulls)[0]
    geometry = _patches.Geometry(kernel=shape, strides=strides, padding=padding, positions=math.prod(pulls.shape[1:3]))
    return _patches.batch_gradient_in_chunks(inputs, pulls, geometry, elements=_PATCH_ELEMENTS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(inputs: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Maximum over square windows, as `flax.linen.max_pool`.

    Backwards, each output's gradient goes to the first place of its maximum, as in XLA, whose scatter takes several
    times as long on a CPU. What is kept for that is one byte for each output.

    Args:
      inputs: float [b, h, w, c].
      window: height and width.
      stride: down and across; at most the window.
      padding: on all sides; less than the window.

    Returns:
      float [b, oh, ow, c].
    """
    dims, pads = (1, window, window, 1), ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jax.lax.reduce_window(inputs, -jnp.inf, jax.lax.max, dims, (1, stride, stride, 1), pads)


def _pool_forwards(inputs: jax.Array, window: int, stride: int, padding: int) -> tuple[jax.Array, Any]:
    """On CPU a few images at a time: or XLA keeps the padded inputs for the way back and finds the places again."""
    b, h, w, c = inputs.shape
    pads = ((padding, padding), (padding, padding))
    oh, ow = _output_size((h, w), (window, window), (stride, stride), pads)
    find = functools.partial(_places, window=window, stride=stride, padding=padding)

    def in_parts(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        def add(found: tuple[jax.Array, jax.Array], rows: _patches.Rows) -> tuple[jax.Array, jax.Array]:
            best, places = find(rows.take(inputs))
            return rows.put(found[0], best), rows.put(found[1], places)

        start = (jnp.zeros((b, oh, ow, c), inputs.dtype), jnp.zeros((b, oh, ow, c), jnp.int8))
        best, places = _patches.fold(add, start, b, size=_PATCH_ELEMENTS // (h * w * c))
        return best, places

    best, places = jax.lax.platform_dependent(inputs, cpu=in_parts, default=find)
    return best, (places, jnp.zeros((h, w, 0)))


def _places(inputs: jax.Array, *, window: int, stride: int, padding: int) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum over each window, and where in the window it is first, int8."""
    _, h, w, _ = inputs.shape
    size = (window, window)
    oh, ow = _output_size((h, w), size, (stride, stride), ((padding, padding), (padding, padding)))
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(inputs, pads, constant_values=-jnp.inf)

    def seen(tap: int) -> jax.Array:
        i, j = divmod(tap, window)
        return padded[:, i : i + stride * (oh - 1) + 1 : stride, j : j + stride * (ow - 1) + 1 : stride]

    best = seen(0)
    places = jnp.zeros(best.shape, jnp.int8)
    for tap in range(1, window**2):
        places = jnp.where(seen(tap) > best, jnp.int8(tap), places)
        best = jnp.maximum(best, seen(tap))
    return best, places


def _pool_backwards(window: int, stride: int, padding: int, kept: Any, pulls: jax.Array) -> tuple[jax.Array]:
    """Adds up, for each pixel, the gradients of those outputs whose maximum it is.

    Rows are split into groups of `stride`: row p of group q is tap p + stride·shift of output q - shift.
    """
    places, (h, w, _) = kept[0], kept[1].shape
    b, oh, ow, c = pulls.shape
    tall, wide = (-(-(size + 2 * padding) // stride) for size in (h, w))
    shifts = range(-(-window // stride))  # for how many outputs along an axis a pixel may count
    pads = ((0, 0), (len(shifts) - 1, tall - oh), (len(shifts) - 1, wide - ow), (0, 0))
    places, pulls = jnp.pad(places, pads, constant_values=-1), jnp.pad(pulls, pads)
    total = jnp.zeros((b, tall, stride, wide, stride, c), pulls.dtype)
    for down in shifts:
        for across in shifts:
            rows, columns = (np.arange(stride) + stride * shift for shift in (down, across))
            taps = np.where((rows[:, None] < window) & (columns < window), rows[:, None] * window + columns, -2)
            top, left = len(shifts) - 1 - down, len(shifts) - 1 - across
            place, pull = (array[:, top : top + tall, None, left : left + wide, None] for array in (places, pulls))
            total = total + jnp.where(place == taps.astype(np.int8)[:, None, :, None], pull, 0)
    whole = total.reshape(b, tall * stride, wide * stride, c)
    return (whole[:, padding : padding + h, padding : padding + w],)


max_pool.defvjp(_pool_forwards, _pool_backwards)
