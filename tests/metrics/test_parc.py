"""PARC against its reference, the published values, and what its documentation says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from tests.metrics.test_linear_metrics import CASES, case, score
from tests.references import parc as reference
from transferjax.metrics import parc


@pytest.mark.parametrize("kind", CASES)
def test_is_the_reference(kind):
    features, labels, _ = case(kind)
    expected = reference.parc(features, labels)
    np.testing.assert_allclose(score("parc", features, labels, None, 4), expected, rtol=1e-5)
    expected = reference.parc_published(features, labels, num_classes=4)
    np.testing.assert_allclose(score("parc_published", features, labels, None, 4), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "paper_size", "wide", "scaled", "imbalanced"])
def test_published_value(metric_goldens, kind):
    """Required: 5e-3. With another label table or PCA than the published one, some case is further off than that."""
    features, labels, _, golden = metric_goldens[kind]
    np.testing.assert_allclose(score("parc_published", features, labels), golden["parc"], rtol=1e-5)


def test_is_the_pipeline_of_libraries():
    """PCA, its signs and z-scores are scikit-learn's, ranks are SciPy's."""
    features, labels, _ = case("wide")
    pca = PCA(32, svd_solver="full")
    rows = StandardScaler().fit_transform(pca.fit_transform(features.astype(np.float64)))
    upper = np.triu_indices(len(labels), 1)
    distances = 1 - np.corrcoef(rows)[upper]
    expected = 100 * stats.spearmanr(distances, (labels[:, None] != labels)[upper])[0]
    np.testing.assert_allclose(score("parc", features, labels, None, 4), expected, rtol=1e-6)


@pytest.mark.parametrize("c", [2, 3, 4, 6, 7, 11, 16, 25])
def test_label_ranks_are_those_of_the_rounded_correlations(c):
    distances = reference.label_distances(c)
    np.testing.assert_array_equal(parc.label_ranks(c), np.unique(distances, return_inverse=True)[1].reshape(c, c))


def test_label_ranks_tell_rounding_errors_apart():
    """Of 4 classes all is exact; of 7 there are two distances within a class, and two between classes."""
    assert parc.label_ranks(4).max() == 1
    assert sorted(set(np.diag(parc.label_ranks(7)))) == [0, 1]
    assert parc.label_ranks(7).max() == 3


def test_label_sets():
    """One label per example ranks as classes do; sets with missing and without any label as the reference says."""
    features, labels, _ = case("imbalanced")
    one_hot = np.eye(4, dtype=int)[labels]
    np.testing.assert_allclose(
        score("parc", features, one_hot, None, 4), score("parc", features, labels, None, 4), rtol=1e-6
    )
    rng = np.random.default_rng(1)
    sets = np.maximum(one_hot, rng.random((len(labels), 4)) < 0.3).astype(int)
    sets[rng.random(sets.shape) < 0.1] = -1
    sets[:5] = 0
    np.testing.assert_allclose(score("parc", features, sets, None, 4), reference.parc(features, sets), rtol=1e-5)


@pytest.mark.parametrize("n", [20, 21])
@pytest.mark.parametrize("size", [7, 100])
def test_every_pair_is_there_once(monkeypatch, n, size):
    """Whatever the size of the chunks; the example that comes first in the data set is the first of the pair."""
    monkeypatch.setattr(parc, "chunk_size", lambda *_: min(n, size))
    rows = np.random.default_rng(0).standard_normal((n, 5))
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with jax.enable_x64(True):
        names = jnp.arange(n, dtype=jnp.uint64)
        pairs = jax.jit(lambda rows: parc._sorted_pairs(rows, names, lambda one, other: 1000 * one + other))
        keys = np.asarray(pairs(jnp.asarray(rows)))
    first, second = np.divmod(keys.astype(np.int64) & 0xFFFFFFFF, 1000)
    expected = list(zip(*np.triu_indices(n, 1), strict=True))
    assert sorted(zip(first, second, strict=True)) == expected
    distances = (keys >> 32) / 2**30
    assert (np.diff(distances) >= 0).all()
    np.testing.assert_allclose(distances, 1 - np.sum(rows[first] * rows[second], axis=1), atol=1e-9)


def test_undefined_correlations_are_zero():
    """An example at the mean has none; one dimension has none for all, and then there is nothing to rank."""
    features, labels = np.random.default_rng(0).standard_normal((20, 3)), np.resize([0, 1, 2], 40)
    features = np.concatenate([features, -features]).astype(np.float32)
    features[[0, 20]] = 0
    np.testing.assert_allclose(score("parc", features, labels), reference.parc(features, labels), rtol=1e-5)
    assert score("parc", features[:, :1], labels) == 0


def test_copies_of_examples_are_equally_far():
    """With each example three times, distances that are equal, but for rounding, share their rank."""
    rng = np.random.default_rng(3)
    base, labels = rng.standard_normal((12, 6)).astype(np.float32), rng.integers(0, 3, 36)
    pca = PCA(6, svd_solver="full")
    rows = StandardScaler().fit_transform(pca.fit_transform(base.astype(np.float64)))
    distances = np.tile(np.round(1 - np.corrcoef(rows), 9), (3, 3))
    upper = np.triu_indices(36, 1)
    expected = 100 * stats.spearmanr(distances[upper], (labels[:, None] != labels)[upper])[0]
    np.testing.assert_allclose(score("parc", np.tile(base, (3, 1)), labels), expected, rtol=1e-6)
