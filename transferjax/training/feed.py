"""How batches come to the device: from its own memory, from the host's, or from files that are read ahead."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import _compile, _prefetch
from transferjax._lazy import LazyImages

_BLOCK_BYTES = 2**25
"""Of the inputs of a block: many small batches, so that little time passes between calls, or one large one."""
_RESIDENT = 2**32
"""Bytes of images that stay on an accelerator."""


class Block(NamedTuple):
    """Some batches of equal size.

    Attributes:
      inputs: [k, b, ...].
      labels: int [k, b] or [k, b, c].
      valid: bool [k]; the others repeat an earlier one, so that all blocks have one shape.
      first: the number of the first batch.
    """

    inputs: Any
    labels: Any
    valid: np.ndarray
    first: int


class Feed:
    """Labelled inputs in blocks of batches.

    On an accelerator images are put into its memory once, if they are few enough, and a batch is taken there by its
    row numbers. A CPU takes them from where they are.
    """

    def __init__(
        self,
        inputs: np.ndarray | LazyImages,
        labels: np.ndarray,
        *,
        resident: bool | None = None,
        block_bytes: int = _BLOCK_BYTES,
    ) -> None:
        """Keeps them.

        Args:
          inputs: uint8 [n, h, w, 3], or features float32 [n, d].
          labels: int [n] or [n, c].
          resident: whether to keep inputs in the device's memory; None to decide by backend and size.
          block_bytes: of a block's inputs, about.
        """
        row = math.prod(inputs.shape[1:]) * np.dtype(inputs.dtype).itemsize
        lazy = isinstance(inputs, LazyImages)
        if resident is None:
            resident = jax.default_backend() != "cpu" and len(inputs) * row <= _RESIDENT
        self._inputs = jnp.asarray(inputs) if resident and not lazy else inputs
        self.labels = np.asarray(labels, np.int32)
        self._row, self._block_bytes = row, block_bytes

    def __len__(self) -> int:
        """The number of examples n."""
        return len(self.labels)

    def blocks(self, rows: np.ndarray) -> Iterator[Block]:
        """Yields the batches of these rows, int [steps, b], in blocks of one shape."""
        steps, batch = rows.shape
        longest = max(1, self._block_bytes // (batch * self._row))
        count = -(-steps // longest)
        size = -(-steps // count)
        numbers = np.minimum(np.arange(count * size), steps - 1).reshape(count, size)
        parts = [rows[chosen] for chosen in numbers]
        for place, (chosen, inputs) in enumerate(zip(parts, self._taken(parts), strict=True)):
            first = place * size
            valid = first + np.arange(size) < steps
            yield Block(inputs, self.labels[chosen], valid, first)

    def _taken(self, parts: list[np.ndarray]) -> Iterator[Any]:
        if isinstance(self._inputs, jax.Array):
            for chosen in parts:
                yield _compile.compiled(_take)(self._inputs, chosen)
            return
        flat = _prefetch.batches(self._inputs, [chosen.reshape(-1) for chosen in parts])
        for chosen, batch in zip(parts, flat, strict=True):
            yield batch.reshape(*chosen.shape, *batch.shape[1:])


def in_order(n: int, largest: int) -> np.ndarray:
    """Returns all rows in their order as few batches of one size, int [steps, b]; the last row is repeated to fill."""
    steps = -(-n // largest)
    batch = -(-n // steps)
    return np.minimum(np.arange(steps * batch), n - 1).reshape(steps, batch)


def _take(inputs: jax.Array, rows: jax.Array) -> jax.Array:
    return inputs[rows]
