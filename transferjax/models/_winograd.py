"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3), in two stages.

Four outputs of a one-dimensional convolution by three taps follow from six inputs by six products instead of twelve;
in two dimensions a tile of 4x4 outputs takes 36 instead of 144. In float32 results differ from a direct convolution's
by up to some 1e-5 of the largest.

References:
  Lavin, Gray, 2015. Fast algorithms for convolutional neural networks. https://arxiv.org/abs/1509.09308
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from transferjax._patches import Rows, fold

TILE = 4
# Elements of the transformed tiles of the images that are taken at once: so many stay in the caches.
_ELEMENTS = 2**21
# A usual batch. Not the one at hand: or rounding, and with it which ReLUs are on, would depend on the micro-batch.
_BATCH = 32
_CHANNELS, _KERNEL_PER_TILE = 32, 512
_POINTS = 6  # inputs to a tile, along one axis
# Of the inputs, the kernel and back, for interpolation at 0, 1, -1, 2, -2 and infinity.
_OF_INPUTS = np.array([
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
])  # fmt: skip
_OF_KERNEL = np.array([
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
])  # fmt: skip
_BACK = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def pays(inputs: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Returns whether `convolve` is faster than a direct convolution, on a CPU with float32.

    Kernels are transformed at every call, which has to pay for many tiles; the larger the kernel, the more: XLA
    transforms those of all layers first, and takes fresh memory for them. And with few channels the transforms of
    inputs cost more than the products save.

    Args:
      inputs: shape [b, h, w, c].
      kernel: shape [3, 3, c, o].
    """
    (_, h, w, c), o = inputs, kernel[3]
    tiles = _BATCH * -(-h // TILE) * -(-w // TILE)
    return min(c, o) >= _CHANNELS and _KERNEL_PER_TILE * tiles >= c * o


def convolve(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution with stride 1 and a border of one zero.

    Args:
      inputs: float [b, h, w, c].
      kernel: float [3, 3, c, o].

    Returns:
      float [b, h, w, o].
    """
    b, h, w, c = inputs.shape
    o = kernel.shape[3]
    points = transformed(kernel)
    tiles = _POINTS**2 * -(-h // TILE) * -(-w // TILE)
    size = _ELEMENTS // (tiles * max(c, o))
    if size >= b:
        return _by_tiles(inputs, points)

    def add(found: jax.Array, rows: Rows) -> jax.Array:
        return rows.put(found, _by_tiles(rows.take(inputs), points))

    return fold(add, jnp.zeros((b, h, w, o), inputs.dtype), b, size=size)


def kernel_gradient(inputs: jax.Array, pulls: jax.Array) -> jax.Array:
    """Returns the gradient of `convolve` at its kernel: its transpose, with a quarter of the multiplications too.

    Args:
      inputs: float [b, h, w, c].
      pulls: float [b, h, w, o], the gradient at its outputs.

    Returns:
      float [3, 3, c, o].
    """
    b, h, w, c = inputs.shape
    o = pulls.shape[3]
    tiles = _POINTS**2 * -(-h // TILE) * -(-w // TILE)

    def add(total: jax.Array, rows: Rows) -> jax.Array:
        fresh = jnp.where(rows.new.reshape(-1, 1, 1, 1), rows.take(pulls), 0)
        left, right = _of_inputs(rows.take(inputs)), _of_pulls(fresh)
        return total + jnp.einsum("ptc,pto->pco", left, right, precision="highest")

    start = jnp.zeros((_POINTS**2, c, o), pulls.dtype)
    found = fold(add, start, b, size=_ELEMENTS // (tiles * max(c, o)))
    found = found.reshape(_POINTS, _POINTS, c, o)
    columns = _combined(_OF_KERNEL.T, list(found))  # [3 columns, 6 rows, c, o]
    return _combined(_OF_KERNEL.T, [columns[:, i] for i in range(_POINTS)])


def _of_inputs(inputs: jax.Array) -> jax.Array:
    """Returns the tiles of inputs [b, h, w, c], transformed: [36, tiles, c], columns before rows."""
    b, h, w, c = inputs.shape
    down, across = -(-h // TILE), -(-w // TILE)
    padded = jnp.pad(inputs, ((0, 0), (1, down * TILE + 1 - h), (1, across * TILE + 1 - w), (0, 0)))

    # One axis after the other, each stage written to memory: fused into one, XLA computes the first again and again.
    rows = _combined(_OF_INPUTS, [padded[:, i : i + TILE * (down - 1) + 1 : TILE] for i in range(_POINTS)])
    rows = jax.lax.optimization_barrier(rows)  # [6, b, down, w', c]
    columns = [rows[:, :, :, j : j + TILE * (across - 1) + 1 : TILE] for j in range(_POINTS)]
    tiles = jax.lax.optimization_barrier(_combined(_OF_INPUTS, columns))  # [6 columns, 6 rows, b, down, across, c]
    return tiles.reshape(_POINTS**2, b * down * across, c)


def _of_pulls(pulls: jax.Array) -> jax.Array:
    """Returns the tiles of output gradients [b, h, w, o], transformed as by the transpose of the way back."""
    b, h, w, o = pulls.shape
    down, across = -(-h // TILE), -(-w // TILE)
    padded = jnp.pad(pulls, ((0, 0), (0, down * TILE - h), (0, across * TILE - w), (0, 0)))
    rows = _combined(_BACK.T, [padded[:, i::TILE] for i in range(TILE)])
    rows = jax.lax.optimization_barrier(rows)  # [6, b, down, w', o]
    columns = _combined(_BACK.T, [rows[:, :, :, j::TILE] for j in range(TILE)])
    return jax.lax.optimization_barrier(columns).reshape(_POINTS**2, b * down * across, o)


def _by_tiles(inputs: jax.Array, points: jax.Array) -> jax.Array:
    """Returns the convolution of some images with a kernel as `transformed` gives it."""
    b, h, w, _ = inputs.shape
    o = points.shape[2]
    down, across = -(-h // TILE), -(-w // TILE)
    products = jnp.matmul(_of_inputs(inputs), points, precision="highest")
    products = products.reshape(_POINTS, _POINTS, b, down, across, o)
    rows = _combined(_BACK, [products[:, i] for i in range(_POINTS)])  # [4 rows, 6 columns, b, down, across, o]
    rows = jax.lax.optimization_barrier(rows)
    found = _combined(_BACK, [rows[:, j] for j in range(_POINTS)])  # [4 columns, 4 rows, b, down, across, o]
    return found.transpose(2, 3, 1, 4, 0, 5).reshape(b, down * TILE, across * TILE, o)[:, :h, :w]


def transformed(kernel: jax.Array) -> jax.Array:
    """Returns the kernel [3, 3, c, o] as `convolve` multiplies by it: [36, c, o], columns before rows."""
    rows = _combined(_OF_KERNEL, [kernel[i] for i in range(3)])  # [6, 3, c, o]
    found = _combined(_OF_KERNEL, [rows[:, j] for j in range(3)])  # not by products, which are slow for 3 x 6
    return found.reshape(_POINTS**2, *kernel.shape[2:])


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array]) -> jax.Array:
    """Returns, stacked, the sums of the parts weighted by each row of a matrix of mostly small whole numbers."""

    def row(weights: np.ndarray) -> jax.Array:
        terms = [
            part if weight == 1 else weight * part
            for weight, part in zip(weights.tolist(), parts, strict=True)
            if weight
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    return jnp.stack([row(weights) for weights in matrix])
