"""PACTran-Gaussian against its reference and what its documentation says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tests.metrics.test_linear_metrics import CASES, case, score
from tests.references import pactran_gauss as reference
from transferjax import _linalg
from transferjax.metrics import pactran_gauss


@pytest.mark.parametrize("kind", CASES)
def test_is_the_reference(kind):
    """The reference starts elsewhere, at random: there is one minimum, and both reach it."""
    features, labels, _ = case(kind)
    expected = reference.pactran_gauss(features, labels, start=CASES.index(kind))
    np.testing.assert_allclose(score("pactran_gauss", features, labels, None, 4), expected, rtol=1e-6)


@pytest.mark.parametrize(("lda_factor", "s2_factor"), [(1.0, 100.0), (10.0, 1000.0)])
def test_the_authors_other_settings(lda_factor, s2_factor):
    features, labels, _ = case("plain")
    factors = {"lda_factor": lda_factor, "s2_factor": s2_factor}
    ours = pactran_gauss.pactran_gauss(jnp.asarray(features), jnp.asarray(labels), num_classes=4, **factors)
    np.testing.assert_allclose(ours, reference.pactran_gauss(features, labels, **factors), rtol=1e-6)


@pytest.mark.parametrize(("d", "spread"), [(180, 1e-2), (12, 0.0)])
def test_classes_far_apart(d, spread):
    """Weights grow until the penalty stops them, and the Hessian is small."""
    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(3), 60)
    features = (3 * rng.standard_normal((3, d))[labels] + spread * rng.standard_normal((60, d))).astype(np.float32)
    expected = reference.pactran_gauss(features, labels)
    np.testing.assert_allclose(score("pactran_gauss", features, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("lda_factor", [0.1, 10.0])
def test_the_minimum_is_reached_at_full_precision(lda_factor):
    """The gradient is zero but for rounding, in few steps."""
    features, labels, _ = case("plain")
    n = len(features)
    with jax.enable_x64(True):
        scatter = _linalg.scatter(jnp.asarray(features), jnp.asarray(labels), num_classes=4)
        total = _linalg.spectrum(scatter.total)
        points = (scatter.points - scatter.mean) @ total.vectors
        rows = jnp.concatenate([points, jnp.ones((n, 1))], axis=1)
        fit = jax.jit(pactran_gauss._fit)(rows.T, labels, total.values, scatter.counts, 1 / (lda_factor * n))
    away = special.softmax(np.asarray(fit.logits).T, axis=1) - np.eye(4)[labels]
    gradient = np.asarray(points).T @ away / n + np.asarray(fit.weights)[:, :-1].T / (lda_factor * n)
    assert np.abs(gradient).max() < 1e-8
    assert np.abs(away.sum(axis=0)).max() < 1e-6  # a sum over 80 examples; float32 steps leave 1e-7
    assert fit.steps < 15


def test_features_that_say_nothing():
    """Without features the classifier names the classes' shares: the loss is their entropy."""
    labels = np.repeat([0, 1, 2], [10, 20, 50])
    p = np.array([10, 20, 50]) / 80
    flatness = 3 / (2 * 0.1 * 80) * np.log1p(0.1 * 80 * np.sum(p * (1 - p)) / (5 * 3))
    expected = np.sum(p * np.log(p)) - flatness
    features = np.full((80, 5), 3, np.float32)
    # the fourth class, of which there are no examples, changes nothing
    np.testing.assert_allclose(score("pactran_gauss", features, labels, None, 4), expected, rtol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    """Three of 30, 30 and 20 examples, the last of which reaches back."""
    features, labels, _ = case("plain")
    whole = pactran_gauss.pactran_gauss.__wrapped__(jnp.asarray(features), jnp.asarray(labels), num_classes=4)
    monkeypatch.setattr(_linalg, "CHUNK_ELEMENTS", 30 * 4 * features.shape[1])
    parts = pactran_gauss.pactran_gauss.__wrapped__(jnp.asarray(features), jnp.asarray(labels), num_classes=4)
    np.testing.assert_allclose(parts, whole, rtol=1e-7)
