"""Batches as published."""

from __future__ import annotations

import pytest

from transferjax import InputError
from transferjax.gradients.batches import batch_bounds


def test_six_batches_and_a_tail():
    assert batch_bounds(20) == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15), (15, 18), (18, 20)]
    assert batch_bounds(18) == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15), (15, 18)]


def test_too_few_examples():
    with pytest.raises(InputError, match=r"17 are too few\. gradient_ratio needs at least 18"):
        batch_bounds(17)
