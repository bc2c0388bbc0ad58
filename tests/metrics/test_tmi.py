"""TMI against its reference, a known entropy, and what its documentation says."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.test_linear_metrics import CASES, case, score
from tests.references import tmi as reference
from transferjax import _linalg
from transferjax.metrics import tmi


@pytest.mark.parametrize("kind", CASES)
def test_is_the_reference(kind):
    features, labels, _ = case(kind)
    np.testing.assert_allclose(score("tmi", features, labels, None, 4), reference.tmi(features, labels), rtol=1e-5)


def test_entropy_of_gaussians():
    """Two classes of known covariance: the estimate is near the entropy of the Gaussian."""
    rng = np.random.default_rng(0)
    labels = np.resize([0, 1], 1200)
    scales = np.array([[1.0, 2.0, 0.5], [0.1, 1.0, 3.0]])
    features = rng.standard_normal((1200, 3)) * scales[labels] + 10 * labels[:, None]
    expected = 3 / 2 * math.log(2 * math.pi * math.e) + np.log(scales).sum(axis=1).mean()
    assert abs(score("tmi", features.astype(np.float32), labels) - expected) < 0.1


def test_small_classes():
    """Classes of 2 and 3 examples use the neighbours that they have, of 1 are left out; without any other, 0."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat([0, 1, 2, 3], [1, 2, 3, 9]))
    features = rng.standard_normal((15, 4)).astype(np.float32)
    several = labels > 0
    expected = reference.tmi(features[several], labels[several])
    np.testing.assert_allclose(reference.tmi(features, labels), expected, rtol=1e-12)
    np.testing.assert_allclose(score("tmi", features, labels), expected, rtol=1e-5)
    assert score("tmi", features, np.arange(15)) == 0


def test_copies_of_examples_have_a_floor():
    """Of four copies each, all third neighbours are at distance 0: every example counts as 1e-6 of the scale."""
    rng = np.random.default_rng(2)
    base, labels = 100 + rng.standard_normal((10, 5)), np.resize([0, 1], 40)
    features = np.tile(base, (4, 1)).astype(np.float32)
    wide = features.astype(np.float64)
    scale = np.sqrt(np.sum((wide - wide.mean(axis=0)) ** 2, axis=1).mean())
    volume = 5 / 2 * math.log(math.pi) - math.lgamma(5 / 2 + 1)
    expected = sum(1 / i for i in range(3, 20)) + volume + 5 * math.log(1e-6 * scale)  # ψ(20) - ψ(3) is that sum
    np.testing.assert_allclose(score("tmi", features, labels), expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "sizes"), [(57, (30, 0, 7, 20)), (60, (3, 2, 1, 54))])
def test_blocks_give_the_same(monkeypatch, n, sizes):
    """Blocks of five rows, whose windows reach over several classes and over both ends."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(4), sizes))
    features = rng.standard_normal((n, 3))
    monkeypatch.setattr(tmi, "CHUNK_ELEMENTS", 5 * (4 * min(n, 3 * max(sizes)) + 6))
    with jax.enable_x64(True):
        scatter = _linalg.scatter(jnp.asarray(features), jnp.asarray(labels), num_classes=4)
        order = np.argsort(labels, kind="stable")
        found = jax.jit(tmi._squared_distances, static_argnums=(3, 4))(scatter, labels[order], order, max(sizes), 2)
    for place, squared in zip(order, np.asarray(found), strict=True):
        away = np.sum((features[labels == labels[place]] - features[place]) ** 2, axis=1)
        np.testing.assert_allclose(squared, np.sort(away)[: 2 + 1][-1], rtol=1e-9, atol=1e-12)


def test_labels_in_random_order_score_higher():
    """What the paper rewards is spread within the classes."""
    features, labels, _ = case("plain")
    shuffled = np.random.default_rng(0).permutation(labels)
    assert score("tmi", features, shuffled) > score("tmi", features, labels)


def test_scale_adds_its_logarithm_for_each_feature():
    features, labels, _ = case("plain")
    more = score("tmi", features * np.float32(8), labels) - score("tmi", features, labels)
    np.testing.assert_allclose(more, features.shape[1] * math.log(8), rtol=1e-5)
