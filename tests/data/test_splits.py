import numpy as np
import pytest

from transferjax._validate import InputError
from transferjax.data import subsample
from transferjax.types import TargetDataset

SIZES = (50, 20, 4)


def dataset():
    labels = np.repeat(np.arange(3, dtype=np.int32), SIZES)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)
    return TargetDataset(name="mine", images=images, labels=labels, class_names=("a", "b", "c"))


def draw(number, seed=0):
    drawn = subsample(dataset(), number, rng=np.random.default_rng(seed))
    return drawn.images[:, 0, 0, 0].tolist(), drawn


def test_counts_without_replacement():
    numbers, drawn = draw(10)
    assert np.bincount(drawn.labels).tolist() == [10, 10, 4]
    assert len(set(numbers)) == 24
    assert (dataset().labels[numbers] == drawn.labels).all()
    assert drawn.class_names == ("a", "b", "c")


def test_none_keeps_all_in_random_order():
    numbers, _ = draw(None)
    assert sorted(numbers) == list(range(sum(SIZES)))
    assert numbers != sorted(numbers)


def test_seeded():
    assert draw(10)[0] == draw(10)[0]
    assert draw(10)[0] != draw(10, seed=1)[0]


def test_a_smaller_draw_is_part_of_a_bigger_one():
    assert set(draw(5)[0]) < set(draw(10)[0]) < set(draw(None)[0])


def test_classes_are_mixed():
    labels = draw(20)[1].labels
    assert all(len(set(labels[i : i + 11].tolist())) > 1 for i in range(0, 44, 11))


def test_draws_are_uniform():
    counts = np.zeros(sum(SIZES))
    for seed in range(400):
        counts[draw(10, seed)[0]] += 1
    assert abs(counts[:50] / 400 - 0.2).max() < 0.09
    assert abs(counts[50:70] / 400 - 0.5).max() < 0.11


@pytest.mark.parametrize("number", [0, -3])
def test_bad_number(number):
    with pytest.raises(InputError, match=rf"max_examples_per_class: {number} is not positive"):
        draw(number)


def test_several_labels():
    many = TargetDataset(
        name="mine", images=np.zeros((4, 1, 1, 3), np.uint8), labels=np.zeros((4, 2), np.int8), class_names=("a", "b")
    )
    with pytest.raises(InputError, match=r"mine, labels: shape \[4, 2\]"):
        subsample(many, 2, rng=np.random.default_rng(0))
