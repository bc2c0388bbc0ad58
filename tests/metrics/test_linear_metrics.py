"""The metrics that follow from class means and scatter, against naive float64 references and published values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from tests.references import (
    gbc,
    grad_norm,
    h_score,
    lda,
    lfc,
    linear_probe,
    logme,
    nce,
    ncti,
    ped,
    rankme,
    sfda,
    transrate,
)
from transferjax import _linalg, metrics
from transferjax._validate import InputError
from transferjax.metrics.h_score import ledoit_wolf as our_ledoit_wolf
from transferjax.metrics.linear_probe import PENALTIES
from transferjax.types import make_pair

REFERENCES = {
    "etran": lambda x, y, z: lda.lda(x, y, num_components=len(x) // 10) + lda.energy(z),
    "gbc": lambda x, y, z: gbc.gbc(x, y),
    "grad_norm": lambda x, y, z: grad_norm.grad_norm(x, y),
    "h_score": lambda x, y, z: h_score.h_score(x, y),
    "h_score_regularized": lambda x, y, z: h_score.h_score(x, y, regularized=True),
    "lda": lambda x, y, z: lda.lda(x, y, num_components=len(x) // 10),
    "lfc": lambda x, y, z: lfc.lfc(x, y),
    "linear_probe": lambda x, y, z: linear_probe.linear_probe(x, y, PENALTIES),
    "logme": lambda x, y, z: logme.logme(x, y),
    "nce": lambda x, y, z: nce.nce(z, y),
    "ncti_ncc": lambda x, y, z: ncti.terms(x, y)["ncc"],
    "ncti_seli": lambda x, y, z: ncti.terms(x, y)["seli"],
    "ncti_vc": lambda x, y, z: ncti.terms(x, y)["vc"],
    "ped": lambda x, y, z: ped.ped(x, y),
    "rankme": lambda x, y, z: rankme.rankme(x),
    "sfda": lambda x, y, z: sfda.sfda(x, y, num_components=len(x) // 10),
    "sfda_published": lambda x, y, z: sfda.sfda(x, y),
    "transrate": lambda x, y, z: transrate.transrate(x, y),
}
CASES = ("plain", "wide", "imbalanced", "absent class", "constant feature", "duplicated rows", "far from zero")


def case(name):
    """Returns features float32 [n, d], labels [n], logits [n, 9] of 4 classes, the last of which may be absent."""
    rng = np.random.default_rng(CASES.index(name))
    n, d = (40, 60) if name == "wide" else (80, 12)
    labels = np.resize(np.arange(4), n)
    if name == "imbalanced":
        labels = np.sort(np.minimum(rng.geometric(0.6, n) - 1, 3))
    if name == "absent class":
        labels = np.resize(np.arange(3), n)
    centres = 0.8 * rng.standard_normal((4, d))
    features = centres[labels] + 0.7 * rng.standard_normal((n, d))
    if name == "constant feature":
        features[:, 2] = 1.5
    if name == "duplicated rows":
        features[n // 2 :], labels[n // 2 :] = features[: n // 2], labels[: n // 2]
    if name == "far from zero":
        features += 100
    logits = rng.standard_normal((n, 9)) + 2 * np.eye(4, 9)[labels]
    return features.astype(np.float32), labels, logits.astype(np.float32)


def score(name, features, labels, logits=None, num_classes=None):
    pair = make_pair(features, labels, num_classes=num_classes or max(labels) + 1, logits=logits)
    return metrics.score(pair, [name], jax.random.key(0))[name]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("kind", CASES)
def test_is_the_reference(name, kind):
    features, labels, logits = case(kind)
    expected = REFERENCES[name](features, labels, logits)
    if name == "logme" and kind == "absent class":  # an empty column is a target too, as published
        columns = np.eye(4)[labels]
        expected = logme.logme_of_columns(features, columns)
    np.testing.assert_allclose(score(name, features, labels, logits, 4), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "paper_size", "wide", "scaled", "imbalanced"])
def test_sfda_published_value(metric_goldens, kind):
    features, labels, _, golden = metric_goldens[kind]
    np.testing.assert_allclose(score("sfda_published", features, labels), golden["sfda"], rtol=1e-4)
    with jax.enable_x64(True):
        wide = score("sfda_published", features.astype(np.float64), labels)
    np.testing.assert_allclose(wide, golden["sfda_float64"], rtol=1e-8)


@pytest.mark.parametrize("kind", ["binary", "paper_size", "wide", "scaled", "imbalanced"])
def test_ncti_published_values(metric_goldens, kind):
    features, labels, _, golden = metric_goldens[kind]
    np.testing.assert_allclose(score("ncti_seli_published", features, labels), golden["ncti_seli"], rtol=1e-3)
    np.testing.assert_allclose(score("ncti_ncc_published", features, labels), golden["ncti_ncc"], rtol=1e-3)
    np.testing.assert_allclose(score("ncti_vc_published", features, labels), -golden["ncti_log_vc"], rtol=1e-3)


@pytest.mark.parametrize("scale", [0.02, 0.1, 3.0])
def test_ncti_with_more_and_less_shrinkage(scale):
    """Of small features the covariance is shrunk by much (.98 at the smallest here), of large ones not at all."""
    features, labels, _ = case("plain")
    expected = ncti.terms(scale * features.astype(np.float64), labels)
    with jax.enable_x64(True):
        for term, value in expected.items():
            np.testing.assert_allclose(
                score(f"ncti_{term}", scale * features.astype(np.float64), labels), value, rtol=1e-8
            )


def test_lda_of_many_examples_is_scikit_learn_s():
    features, labels, _ = case("plain")
    features = 10 * features[:, :6].astype(np.float64)  # so large that next to nothing is shrunk; too few to be reduced
    model = LinearDiscriminantAnalysis(solver="eigen").fit(features, labels)
    shares = model.predict_proba(features)[np.arange(80), labels]
    with jax.enable_x64(True):
        np.testing.assert_allclose(score("lda", features, labels), shares.mean(), rtol=1e-7)


def test_ped_moves_classes_that_overlap():
    features, labels, _ = case("plain")
    shuffled = np.random.default_rng(0).permutation(labels)
    assert np.abs(ped.moved(features, shuffled) - features).max() > 0.01
    value = score("ped", features, shuffled)
    np.testing.assert_allclose(value, ped.ped(features, shuffled), rtol=1e-5)
    assert value > score("sfda", features, shuffled) + 1e-3
    apart = features + 100 * np.eye(4, 12)[labels].astype(np.float32)
    np.testing.assert_allclose(score("ped", apart, labels), score("sfda", apart, labels), rtol=1e-6)


def test_h_score_of_iris():
    features, labels = load_iris(return_X_y=True)
    assert abs(score("h_score_regularized", features.astype(np.float32), labels) - 1.17784248) < 5e-7


@pytest.mark.parametrize("shape", [(60, 8), (20, 50)])
def test_ledoit_wolf_is_scikit_learn_s(shape):
    features = np.random.default_rng(0).standard_normal(shape) * np.linspace(1, 3, shape[1])
    with jax.enable_x64(True):
        scatter = _linalg.scatter(jnp.asarray(features), jnp.zeros(len(features), jnp.int32), num_classes=1)
        ours = float(our_ledoit_wolf(scatter, _linalg.spectrum(scatter.total), shape[1]))
    np.testing.assert_allclose(ours, ledoit_wolf(features)[1], rtol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_random_labels_score_as_chance(seed):
    """n=200, d=512, c=2: corrected scores stay near what they give for no relation, published ones do not."""
    rng = np.random.default_rng(seed)
    features, labels = rng.standard_normal((200, 512)).astype(np.float32), np.resize([0, 1], 200)
    assert abs(score("linear_probe", features, labels)) < 0.05  # chance 0
    assert abs(score("knn", features, labels) - 0.5) < 0.1  # chance .5
    assert score("h_score_regularized", features, labels) < 0.1  # chance 0
    assert score("logme", features, labels) < -0.7  # the evidence of a constant probability of .5 is -.73
    assert abs(score("sfda", features, labels) - 0.5) < 0.15  # chance .5
    assert score("h_score", features, labels) == pytest.approx(1, abs=1e-6)  # c - 1, as if perfect
    assert score("sfda_published", features, labels) > 0.99
    assert score("logme_published", features, labels) > 3


@pytest.mark.parametrize("name", metrics.names())
def test_multilabel_targets(name):
    """Per label, per column or as sets: a value where it is defined, the metric's own name where it is not."""
    features, labels, logits = case("plain")
    sets = np.stack([labels == 0, labels % 2 == 0, labels > 1, np.zeros_like(labels)], axis=1).astype(np.int8)
    sets[:7, 0] = -1
    metric = metrics.get(name)
    if {"gradients", "example_gradients"} & set(metric.inputs):
        pytest.skip("sees gradients only")
    if metric.multilabel == "refused":
        with pytest.raises(InputError, match=f"metric {name}: it is not defined for multi-label"):
            score(name, features, sets, logits, 4)
        return
    value = score(name, features, sets, logits, 4)
    if metric.multilabel == "per_label" and "labels" in metric.inputs:
        parts = []
        for column in sets.T[:3]:  # nobody has the last one: it asks nothing
            known = column >= 0
            parts.append(score(name, features[known], column[known].astype(int), logits[known], 2))
        np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)
    if name == "logme":
        parts = [
            logme.logme_of_columns(features[column >= 0], column[column >= 0][:, None].astype(float))
            for column in sets.T[:3]
        ]
        np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)


def test_linear_probe_of_columns_is_the_mean_over_them():
    features, labels, _ = case("plain")
    sets = np.stack([labels == 0, labels > 1], axis=1).astype(int)
    parts = [linear_probe.linear_probe(features, column, PENALTIES) for column in sets.T]
    np.testing.assert_allclose(score("linear_probe", features, sets, None, 2), np.mean(parts), rtol=1e-5)
