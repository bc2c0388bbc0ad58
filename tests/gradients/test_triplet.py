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


def label_sets(b=14, c=6, seed=0, missing=0.1):
    """Some sets of several labels, some of one, some empty; some labels missing."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((b, c)) < rng.choice([0.0, 0.2, 0.6], (b, 1))).astype(np.int8)
    labels[rng.random((b, c)) < missing] = -1
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_is_the_reference(seed):
    features, labels = batch(seed=seed)
    np.testing.assert_allclose(triplet_loss(features, labels), reference.triplet_loss(features, labels), rtol=1e-6)


@pytest.mark.parametrize("missing", [0, 0.1, 0.7])
@pytest.mark.parametrize("seed", range(2))
def test_label_sets_are_the_reference_s(seed, missing):
    """Where most labels are missing, some examples have none in common, and some have none at all."""
    features, labels = batch(seed=seed)[0], label_sets(seed=seed, missing=missing)
    expected = reference.triplet_loss(features, labels)
    assert expected > 0
    np.testing.assert_allclose(triplet_loss(features, labels), expected, rtol=1e-6)


def test_label_sets_of_one_label_are_classes():
    features, labels = batch()
    loss, gradient = grad(features, labels)
    for sets in (np.eye(3, dtype=np.int8)[labels], np.eye(5, dtype=np.int32)[labels + 1]):
        as_sets = grad(features, sets)
        np.testing.assert_allclose(as_sets[0], loss, rtol=1e-6)
        np.testing.assert_allclose(as_sets[1], gradient, rtol=1e-5, atol=1e-8)
    present = labels == 1
    expected = grad(features, present.astype(np.int32))
    np.testing.assert_allclose(grad(features, present[:, None].astype(np.int8))[0], expected[0], rtol=1e-6)


def test_equal_fractions_are_equally_alike():
    """One of three labels in common, two of six, and three of nine: no triple, whatever a division makes of them."""
    labels = np.zeros((4, 12), np.int8)
    labels[0, :3] = 1
    labels[1, :1] = 1
    labels[2, [0, 1, 9, 10, 11]] = 1  # 2 of 6
    labels[3, :9] = 1
    assert [reference.similarity(labels[0], other) for other in labels[1:]] == [reference.Fraction(1, 3)] * 3
    alike = triplet._more_alike(jnp.asarray(labels[0]), jnp.asarray(labels))
    np.testing.assert_array_equal(alike, np.eye(1, 4, dtype=bool).T & ~np.eye(1, 4, dtype=bool))


def test_nothing_known_in_common_is_neither_alike_nor_different():
    labels = np.asarray([[1, 0, -1], [1, -1, -1], [-1, -1, 1], [0, 1, -1], [-1, -1, -1]], np.int8)
    features = batch(b=5)[0]
    kept = [0, 1, 3]
    assert reference.triplet_loss(features[kept], labels[kept]) > 0
    np.testing.assert_allclose(
        triplet_loss(features, labels), reference.triplet_loss(features[kept], labels[kept]), rtol=1e-6
    )


@pytest.mark.parametrize("sets", [False, True])
def test_gradient_is_that_of_finite_differences(sets):
    features, labels = batch(b=9, d=4)
    if sets:
        labels = label_sets(b=9)
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


@pytest.mark.parametrize("labels", [batch()[1], label_sets()], ids=["classes", "sets"])
def test_identical_examples_give_finite_gradients(labels):
    features, _ = batch()
    features[1:6] = features[0]
    loss, gradient = grad(features, labels)
    np.testing.assert_allclose(loss, reference.triplet_loss(features, labels), rtol=5e-6)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_all_examples_identical():
    loss, gradient = grad(np.ones((6, 4), np.float32), np.asarray([0, 1, 0, 1, 0, 1]))
    np.testing.assert_allclose(loss, triplet.MARGIN, rtol=5e-6)
    assert not np.any(gradient)


@pytest.mark.slow
def test_more_triples_than_an_int32_counts():
    labels = np.arange(2100) % 2  # 2.3e9 triples
    np.testing.assert_allclose(triplet_loss(np.ones((2100, 2), np.float32), labels), triplet.MARGIN, rtol=1e-4)


def test_features_of_zero():
    features, labels = batch()
    features[2] = 0
    loss, gradient = grad(features, labels)
    np.testing.assert_allclose(loss, reference.triplet_loss(features, labels), rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("labels", [[0] * 6, [0, 1, 2, 3, 4, 5], [[0, 0]] * 6, [[1, 0]] * 6, [[-1, -1]] * 6])
def test_without_triples_loss_and_gradient_are_zero(labels):
    loss, gradient = grad(batch(b=6)[0], np.asarray(labels))
    assert loss == 0
    assert not np.any(gradient)


def test_one_example():
    loss, gradient = grad(batch(b=1)[0], np.asarray([0]))
    assert loss == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("labels", [batch()[1], label_sets()], ids=["classes", "sets"])
def test_chunks_of_anchors_change_nothing(monkeypatch, labels):
    features, _ = batch()
    whole = jax.value_and_grad(triplet_loss)(features, labels)
    per_anchor = 14 * (14 + features.shape[1] + (labels.shape[1] if labels.ndim > 1 else 0))
    monkeypatch.setattr(triplet, "_ELEMENTS", 4 * per_anchor)  # 14 anchors: three chunks and a tail
    chunked = jax.value_and_grad(triplet_loss)(features, labels)
    np.testing.assert_allclose(chunked[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(chunked[1], whole[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("labels", [((20,), np.int32), ((20, 14), np.int8)], ids=["classes", "sets"])
def test_lowers_for(platform, labels):
    shapes = jax.ShapeDtypeStruct((20, 8), np.float32), jax.ShapeDtypeStruct(*labels)
    assert export.export(grad, platforms=[platform])(*shapes).platforms == (platform,)
