import itertools

import numpy as np
import pytest

from transferjax._validate import InputError
from transferjax.data import leave_out_rare_labels, subsample
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


def label_sets(labels=None, n=120):
    """Rare and common labels that come together, examples without any, missing labels; each image is its number."""
    if labels is None:
        rng = np.random.default_rng(0)
        latent = rng.standard_normal((n, 1)) + rng.standard_normal((n, 5))
        labels = (latent > [2.6, 1.2, 0.5, -1.5, 0.3]).astype(np.int8)
        labels[rng.random((n, 5)) < 0.05] = -1
    labels = np.asarray(labels, np.int8)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)
    names = tuple("abcdefgh"[: labels.shape[1]])
    return TargetDataset(name="mine", images=images, labels=labels, class_names=names, task="multilabel")


def draw_sets(number, seed=0, **options):
    drawn = subsample(label_sets(**options), number, rng=np.random.default_rng(seed))
    return drawn.images[:, 0, 0, 0].tolist(), drawn


@pytest.mark.parametrize("number", [1, 6, 20, 1000])
def test_of_label_sets_each_group_has_so_many(number):
    numbers, drawn = draw_sets(number)
    assert len(set(numbers)) == len(numbers) <= number * 11
    np.testing.assert_array_equal(label_sets().labels[numbers], drawn.labels)

    def sizes(labels):
        return np.array([*(labels == 1).sum(axis=0), *(labels == 0).sum(axis=0), (labels < 1).all(axis=1).sum()])

    available = sizes(label_sets().labels)
    assert (sizes(drawn.labels) >= np.minimum(number, available)).all()
    assert number != 20 or len(numbers) < 80, "an example serves several groups"


def test_a_smaller_draw_of_label_sets_is_part_of_a_bigger_one():
    draws = [draw_sets(number)[0] for number in (*range(1, 40), None)]
    for smaller, bigger in itertools.pairwise(draws):
        assert set(smaller) <= set(bigger)
    assert sorted(draws[-1]) == list(range(120))


def test_draws_of_label_sets_are_seeded_shuffled_and_uniform():
    assert draw_sets(10)[0] == draw_sets(10)[0] != draw_sets(10, seed=1)[0]
    numbers = draw_sets(None)[0]
    assert numbers != sorted(numbers)
    labels = np.repeat([[1, 0], [0, 1]], [50, 20], axis=0)
    counts = np.zeros(70)
    for seed in range(400):
        counts[draw_sets(10, seed, labels=labels)[0]] += 1
    assert abs(counts[:50] / 400 - 0.2).max() < 0.09
    assert abs(counts[50:] / 400 - 0.5).max() < 0.11


def test_rare_labels_are_left_out():
    """And the example of which nothing else is known. What nearly all have is as useless as what nearly none has."""
    labels = np.zeros((30, 5), np.int8)
    labels[:6, 0] = 1  # just enough
    labels[:5, 1] = 1
    labels[:, 2] = -1
    labels[5:, 3] = 1
    labels[24:, 4] = -1
    labels[9:18, 4] = 1
    labels[9] = [-1, -1, 1, 1, -1]
    kept, left_out = leave_out_rare_labels(label_sets(labels))
    assert kept.class_names == ("a", "e")
    assert left_out == {"b": (5, 24), "c": (1, 0), "d": (25, 5)}
    assert kept.images[:, 0, 0, 0].tolist() == [i for i in range(30) if i != 9]
    np.testing.assert_array_equal(kept.labels, np.delete(labels[:, [0, 4]], 9, axis=0))
    again, nothing = leave_out_rare_labels(kept)
    assert again is kept
    assert nothing == {}


def test_classes_are_not_left_out():
    given = dataset()
    assert leave_out_rare_labels(given) == (given, {})
