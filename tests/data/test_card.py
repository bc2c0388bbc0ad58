import dataclasses

import numpy as np

from transferjax.data.card import describe
from transferjax.types import TargetDataset


def dataset(seed, n=12, **changes):
    images = np.random.default_rng(seed).integers(0, 256, (n, 4, 6, 3), dtype=np.uint8)
    labels = np.resize([0, 0, 1], n).astype(np.int32)
    made = TargetDataset(name="mine", images=images, labels=labels, class_names=("a", "b"), task="binary")
    return dataclasses.replace(made, **changes)


def test_counts_sizes_and_imbalance():
    card = describe({"train": dataset(0), "test": dataset(1, 6)})
    assert card.counts.to_dict() == {"train": {"a": 8, "b": 4}, "test": {"a": 4, "b": 2}}
    assert card.missing is None
    assert card.sizes == {"train": (12, 4, 6), "test": (6, 4, 6)}
    assert (card.imbalance, card.colours, card.looked_at) == (2.0, True, 18)
    assert card.groups == card.shared_groups == {}
    assert card.duplicates == {"train": 0, "test": 0, "train, test": 0}


def test_repeats_are_found():
    train, test = dataset(0), dataset(1)
    train.images[5] = train.images[3]
    test.images[:4] = train.images[3:7]
    card = describe({"train": train, "test": test})
    assert card.duplicates == {"train": 1, "test": 1, "train, test": 4}


def test_groups():
    groups = np.arange(12, dtype=np.int32) // 2
    card = describe({"train": dataset(0, groups=groups), "test": dataset(1, groups=groups + 4)})
    assert (card.groups, card.shared_groups) == ({"train": 6, "test": 6}, {"train, test": 2})


def test_several_labels_and_grey():
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), dtype=np.uint8), 3, axis=3)
    labels = np.array([[1, -1], [0, 1], [1, 1]], np.int8)
    card = describe({"train": dataset(0, images=images, labels=labels, task="multilabel")})
    assert card.counts.to_dict() == {"train": {"a": 2, "b": 2}}
    assert card.missing.to_dict() == {"train": {"a": 0, "b": 1}}
    assert not card.colours
