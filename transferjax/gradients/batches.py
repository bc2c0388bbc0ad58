"""The batches in which the paper takes gradients."""

from __future__ import annotations

from transferjax._validate import fail

NUM_BATCHES = 6
MIN_EXAMPLES = 3 * NUM_BATCHES  # a triple needs three examples in one batch


def batch_bounds(n: int) -> list[tuple[int, int]]:
    """Returns start and end of the published batches: size ⌊n/6⌋, in the data's order, the smaller tail kept.

    Raises:
      InputError: fewer than 18 examples: no batch could hold a triple, and every source would score 0.
    """
    size = n // NUM_BATCHES
    if n < MIN_EXAMPLES:
        remedy = f"gradient_ratio needs at least {MIN_EXAMPLES}: take more, or leave it out of the metrics."
        raise fail("examples", f"{n} are too few", remedy)
    return [(start, min(start + size, n)) for start in range(0, n, size)]
