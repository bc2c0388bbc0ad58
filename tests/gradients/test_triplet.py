"""The triplet loss against its definition, and what its gradient does where distances vanish."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.references import triplet as reference
from transferjax.gradients import triplet, triplet_loss

grad = jax.jit(jax.value_and_grad(triplet_loss))


def batch(b=14, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((b, d)).astype(np.float32), rng.integers(0, 3, b)


@pytest.mark.parametrize("seed", range(4))
def test_is_the_reference(seed):
    features, labels = batch(seed=seed)
    np.testing.assert_allclose(triplet_loss(features, labels), reference.triplet_loss(features, labels), rtol=1e-6)


def test_gradient_is_that_of_finite_differences():
    features, labels = batch(b=9, d=4)
    with jax.enable_x64(True):
        wide = jnp.asarray(features, jnp.float64)
        _, gradient = jax.value_and_grad(triplet_loss)(wide, labels)
    step = 1e-6
    for index in np.ndindex(*features.shape):
        moved = features.astype(np.float64)
        moved[index] += step
        above = reference.triplet_loss(moved, labels)
        moved[index] -= 2 * step
        slope = (above - reference.triplet_loss(moved, labels)) / (2 * step)
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-5, atol=1e-8)


def test_nearly_equal_features_keep_their_digits():
    """Features of one domain differ in the fourth digit; distances from inner products would lose the rest."""
    features, labels = batch()
    features = (1 + 1e-4 * features).astype(np.float32)
    np.testing.assert_allclose(triplet_loss(features, labels), reference.triplet_loss(features, labels), rtol=1e-6)
    shift = triplet_loss(features, labels) - triplet.MARGIN
    expected = reference.triplet_loss(features, labels) - triplet.MARGIN
    np.testing.assert_allclose(shift, expected, rtol=0.02)


def test_identical_examples_give_finite_gradients():
    features, labels = batch()
    features[1:6] = features[0]
    loss, gradient = grad(features, labels)
    np.testing.assert_allclose(loss, reference.triplet_loss(features, labels), rtol=5e-6)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_all_examples_identical():
    loss, gradient = grad(np.ones((6, 4), np.float32), np.asarray([0, 1, 0, 1, 0, 1]))
    np.testing.assert_allclose(loss, triplet.MARGIN, rtol=5e-6)
    assert not np.any(gradient)


def test_more_triples_than_an_int32_counts():
    labels = np.arange(2100) % 2  # 2.3e9 triples
    np.testing.assert_allclose(triplet_loss(np.ones((2100, 2), np.float32), labels), triplet.MARGIN, rtol=1e-4)


def test_features_of_zero():
    features, labels = batch()
    features[2] = 0
    loss, gradient = grad(features, labels)
    np.testing.assert_allclose(loss, reference.triplet_loss(features, labels), rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("labels", [[0] * 6, [0, 1, 2, 3, 4, 5]])
def test_without_triples_loss_and_gradient_are_zero(labels):
    loss, gradient = grad(batch(b=6)[0], np.asarray(labels))
    assert loss == 0
    assert not np.any(gradient)


def test_one_example():
    loss, gradient = grad(batch(b=1)[0], np.asarray([0]))
    assert loss == 0
    assert not np.any(gradient)


def test_chunks_of_anchors_change_nothing(monkeypatch):
    features, labels = batch()
    whole = jax.value_and_grad(triplet_loss)(features, labels)
    monkeypatch.setattr(triplet, "chunk_size", lambda n, elements: 4)  # 14 anchors: three chunks and a tail
    chunked = jax.value_and_grad(triplet_loss)(features, labels)
    np.testing.assert_allclose(chunked[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(chunked[1], whole[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for(platform):
    shapes = jax.ShapeDtypeStruct((20, 8), np.float32), jax.ShapeDtypeStruct((20,), np.int32)
    assert export.export(grad, platforms=[platform])(*shapes).platforms == (platform,)
