from __future__ import annotations

import numpy as np
import pytest

from transferjax import InputError
from transferjax.types import make_pair

FEATURES = np.ones((4, 2), np.float32)
LABELS = np.asarray([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": FEATURES[0]}, r"features: shape \(2,\)"),
        ({"features": FEATURES.astype(int)}, "features: .*int64"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, "features: .* is empty"),
        ({"labels": LABELS[:3]}, r"labels: shape \(3,\)"),
        ({"labels": LABELS.astype(float)}, "labels: .*float64"),
        ({"labels": LABELS + 1}, r"labels: 1\.\.2.*0\.\.1"),
        ({"labels": LABELS - 1}, r"labels: -1\.\.0"),
        ({"num_classes": 1}, "num_classes: 1"),
        ({"logits": FEATURES[:2]}, r"logits: shape \(2, 2\)"),
        ({"logits": np.full((4, 3), np.inf)}, "logits: not finite at example 0"),
        ({"features": np.where(np.arange(4)[:, None] == 2, np.nan, FEATURES)}, "features: not finite at example 2"),
        ({"head": "tanh"}, "head: 'tanh' is unknown"),
    ],
)
def test_what_a_pair_refuses(changes, message):
    arguments = {"features": FEATURES, "labels": LABELS, "num_classes": 2} | changes
    with pytest.raises(InputError, match=message):
        make_pair(arguments.pop("features"), arguments.pop("labels"), **arguments)


def test_a_pair_is_a_pytree_whose_static_parts_are_static():
    import jax

    pair = make_pair(FEATURES, LABELS, num_classes=2, logits=FEATURES)
    leaves, structure = jax.tree.flatten(pair)
    assert len(leaves) == 3
    assert jax.tree.unflatten(structure, leaves).num_classes == 2
    assert jax.jit(lambda p: p.features.sum() * p.num_classes)(pair) == 16
