"""The examples of each class as arrays of one size."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from transferjax._groups import class_members
from transferjax.types import class_size_bound, make_pair


@pytest.mark.parametrize("size", [3, 5, 9])
def test_members_of_each_class_in_their_order(size):
    labels = np.array([2, 0, 2, 1, 2, 0])
    indices, present = class_members(jnp.asarray(labels), num_classes=4, size=size)
    assert indices.shape == present.shape == (4, size)
    for c in range(4):
        assert indices[c][present[c]].tolist() == np.flatnonzero(labels == c).tolist()


def test_bound_of_the_class_sizes():
    for size in [*range(1, 40), 100, 1000]:
        labels = np.repeat([0, 1, 2], [size, 1, 2 * size])
        bound = class_size_bound(labels)
        assert 2 * size <= bound <= min(len(labels), 2 * size * 9 / 8)
    assert class_size_bound(np.zeros((7, 3), int)) == 7
    assert class_size_bound(np.repeat([0, 1], [97, 60])) == class_size_bound(np.repeat([0, 1], [104, 60])) == 104


def test_a_pair_knows_it():
    labels = np.repeat([0, 1], [97, 60])
    pair = make_pair(np.ones((157, 2), np.float32), labels, num_classes=2)
    assert pair.max_class_size == 104
    assert pair.take(np.arange(20)).max_class_size == 104
