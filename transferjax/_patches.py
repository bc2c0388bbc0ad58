"""From a layer's inputs and the gradient at its outputs to its kernel's gradient: products of patches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax._validate import fail

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a layer's outputs come from its inputs.

    Attributes:
      kernel: the kernel's shape: [kh, kw, c/groups, o]; of a dense layer [c, o].
      strides: of a convolution, as are the following.
      padding: before and after, for each of the two axes.
      dilation: of the kernel.
      groups: into which the channels are split.
      positions: how many outputs of each channel there are, P: those of a map; of a dense layer the entries of the
        axes between the examples and the channels.
    """

    kernel: tuple[int, ...]
    strides: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    positions: int = 1

    @property
    def patch(self) -> int:
        """How many entries of the kernel act on one output, K."""
        return math.prod(self.kernel[:-1])

    @property
    def flops(self) -> int:
        """Of one example's gradient by the product of patches and output gradients, norm included: 2·K·o·(P + 1)."""
        return 2 * self.patch * self.kernel[-1] * (self.positions + 1)

    @property
    def gram_flops(self) -> int:
        """Of one example's norm by Gram matrices, [P, P] in each group: 2·P²·(groups·K + o), and their product."""
        return 2 * self.positions**2 * (self.groups * self.patch + self.kernel[-1] + self.groups)


def geometry_of(module: nn.Module, inputs: Any, outputs: Any, kernel: Any) -> Geometry:
    """Returns the geometry of a layer that was called.

    Args:
      module: the layer.
      inputs: with the shape of what it was called with.
      outputs: likewise, of what it returned.
      kernel: likewise, its kernel.

    Raises:
      InputError: the layer is neither a dense one nor a two-dimensional convolution with padding by zeros.
    """
    name = "/".join(module.path)
    positions = math.prod(outputs.shape[1:-1])
    if isinstance(module, nn.Dense):
        return Geometry(kernel=kernel.shape, positions=positions)
    if not isinstance(module, nn.Conv) or isinstance(module, nn.ConvLocal):
        remedy = "Choose convolutions and dense layers, or take gradients.example_gradients, which knows no layers."
        raise fail("paths", f"{name} is a {type(module).__name__}", remedy)
    window = kernel.shape[:2]
    if kernel.ndim != 4 or inputs.ndim != 4 or _pair(module.input_dilation) != (1, 1):
        raise fail("paths", f"{name}: not a plain convolution of images", "Choose another layer.")
    strides, dilation = _pair(module.strides), _pair(module.kernel_dilation)
    padding = module.padding
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise fail("paths", f"{name}: padding {padding!r}", "Choose a layer that pads with zeros.")
        extent = tuple((size - 1) * step + 1 for size, step in zip(window, dilation, strict=True))
        pads = jax.lax.padtype_to_pads(inputs.shape[1:3], extent, strides, padding.upper())
    else:
        pads = [(padding, padding)] * 2 if isinstance(padding, int) else [_pair(part) for part in padding]
    (top, bottom), (left, right) = pads
    return Geometry(
        kernel=kernel.shape,
        strides=strides,
        padding=((top, bottom), (left, right)),
        dilation=dilation,
        groups=module.feature_group_count,
        positions=positions,
    )


def _pair(value: int | Sequence[int] | None) -> Pair:
    if value is None:
        return (1, 1)
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def example_gradients(inputs: jax.Array, pulls: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the kernel's gradient for each example.

    Args:
      inputs: float [t, h, w, c], of the layer; of a dense layer [t, ..., c].
      pulls: float [t, oh, ow, o], the loss's gradient at its outputs; of a dense layer [t, ..., o].
      geometry: of the layer.

    Returns:
      float [t, *kernel].
    """
    t, groups = len(inputs), geometry.groups
    left = _patches(inputs, geometry).swapaxes(0, 1)  # [t, groups, K, P]
    found = jnp.matmul(left, _rows(pulls, geometry), precision="highest")
    if groups > 1:
        found = found.reshape(t, groups, geometry.patch, -1).swapaxes(1, 2)
    return found.reshape(t, *geometry.kernel)


def batch_gradient(inputs: jax.Array, pulls: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the sum of `example_gradients`, which has the arguments, as one product: float [*kernel]."""
    groups = geometry.groups
    left = _patches(inputs, geometry).swapaxes(1, 2).reshape(groups, geometry.patch, -1)
    right = _rows(pulls, geometry).swapaxes(0, 1).reshape(groups, left.shape[2], -1)
    found = jnp.matmul(left, right, precision="highest")
    return found.swapaxes(0, 1).reshape(geometry.kernel)


def batch_gradient_in_chunks(inputs: jax.Array, pulls: jax.Array, geometry: Geometry, *, elements: int) -> jax.Array:
    """Returns `batch_gradient`, a few examples at a time, so that patches of at most `elements` entries are held."""

    def add(total: jax.Array, rows: Rows) -> jax.Array:
        x, g = rows.take(inputs), rows.take(pulls)
        return total + batch_gradient(x, g * rows.new.reshape(-1, *[1] * (g.ndim - 1)).astype(g.dtype), geometry)

    held = geometry.groups * geometry.patch * geometry.positions
    return fold(add, jnp.zeros(geometry.kernel, pulls.dtype), len(inputs), size=elements // held)


class Rows(NamedTuple):
    """Some examples in turn.

    Attributes:
      begin: the first one's index.
      new: bool [size], false for those that were in the rows before: the last rows reach back, to be as many.
    """

    begin: jax.Array
    new: jax.Array

    def take(self, array: jax.Array) -> jax.Array:
        """Returns these rows of an array [n, ...]."""
        return jax.lax.dynamic_slice_in_dim(array, self.begin, len(self.new))

    def put(self, array: jax.Array, rows: jax.Array) -> jax.Array:
        """Returns the array with these rows in their places."""
        return jax.lax.dynamic_update_slice_in_dim(array, rows, self.begin, axis=0)


State = TypeVar("State")


def fold(step: Callable[[State, Rows], State], start: State, n: int, *, size: int) -> State:
    """Folds `step` over n examples, at most `size` of them at a time, and all times the same number."""
    count = -(-n // max(1, min(n, size)))
    size = -(-n // count)

    def body(index: jax.Array, state: State) -> State:
        begin = jnp.minimum(index * size, n - size)
        return step(state, Rows(begin, begin + jnp.arange(size) >= index * size))

    return body(jnp.int32(0), start) if count == 1 else jax.lax.fori_loop(0, count, body, start)


def squared_norms(inputs: jax.Array, pulls: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the squared norms of `example_gradients`, which has the arguments, by Gram matrices: float [t].

    ‖Σ_p x_p·g_pᵀ‖² = Σ_pq (x_p·x_q)(g_p·g_q) over positions p and q: no gradient is formed.
    """
    left, right = _patches(inputs, geometry).swapaxes(0, 1), _rows(pulls, geometry)
    of_inputs = jnp.matmul(left.mT, left, precision="highest")
    of_pulls = jnp.matmul(right, right.mT, precision="highest")
    return jnp.maximum(jnp.sum(of_inputs * of_pulls, axis=(1, 2, 3)), 0)


def _patches(inputs: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns what each output sees, [groups, t, K, P]: positions last, since the sum over them comes next."""
    t = len(inputs)
    if len(geometry.kernel) == 2:
        return inputs.reshape(1, t, geometry.positions, -1).mT
    kh, kw, channels, _ = geometry.kernel
    padded = jnp.pad(inputs.transpose(0, 3, 1, 2), ((0, 0), (0, 0), *geometry.padding))
    height, width = (
        (size - (window - 1) * dilation - 1) // stride + 1
        for size, window, dilation, stride in zip(
            padded.shape[2:], (kh, kw), geometry.dilation, geometry.strides, strict=True
        )
    )
    down, right = geometry.strides

    def tap(i: int, j: int) -> jax.Array:
        top, left = i * geometry.dilation[0], j * geometry.dilation[1]
        return padded[:, :, top : top + down * (height - 1) + 1 : down, left : left + right * (width - 1) + 1 : right]

    taps = jnp.stack([tap(i, j) for i in range(kh) for j in range(kw)], axis=1)  # [t, kh·kw, c, oh, ow]
    taps = taps.reshape(t, kh * kw, geometry.groups, channels, height * width)
    return taps.transpose(2, 0, 1, 3, 4).reshape(geometry.groups, t, geometry.patch, height * width)


def _rows(pulls: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the output gradients as [t, groups, P, o/groups]."""
    rows = pulls.reshape(len(pulls), geometry.positions, geometry.groups, -1)
    return rows.swapaxes(1, 2)
