"""Are the intervals as wide as scores of new data sets are apart?"""

from __future__ import annotations

import dataclasses
import sys

import jax
import numpy as np
import pytest

from tests import gradient_stats
from tests.metrics.test_contract import count_compilations
from transferjax import InputError, metrics
from transferjax.metrics.bootstrap import draw, probability_beats, probability_best
from transferjax.types import make_pair

MODULE = sys.modules["transferjax.metrics.bootstrap"]  # the package has the function under this name
KEY = jax.random.key(0)
NAMES = ("knn", "logme", "leep", "gradient_ratio", "gradient_ratio_median", "gradient_alignment")


def make(seed=0, *, n=120, d=12, c=3, labels=None):
    """Three Gaussian classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = np.resize(np.arange(c), n) if labels is None else labels
    features = (rng.standard_normal((len(labels), d)) + 1.2 * np.eye(c, d)[labels]).astype(np.float32)
    known = gradient_stats.made(rng, len(labels))
    return make_pair(features, labels, num_classes=c, logits=features, **known)


def make_multilabel(n=40):
    rng = np.random.default_rng(1)
    labels = (rng.random((n, 4)) < [0.5, 0.3, 0.2, 0.03]).astype(int)
    labels[0, 3] = 1
    labels[1:, 3] = 0  # one example: many a half is without it
    features = (rng.standard_normal((n, 6)) + 1.5 * labels[:, :1]).astype(np.float32)
    return make_pair(features, labels, num_classes=4, logits=features)


@pytest.fixture(scope="module")
def simulated():
    return [metrics.bootstrap(make(seed), NAMES, KEY, 40) for seed in range(30)]


@pytest.mark.parametrize("name", ["knn", "logme", "leep"])
def test_as_wide_as_new_data_sets_are_apart(simulated, name):
    """Within a factor of 1.4, the standard deviation of 30 scores itself being within 0.67 to 1.34 (99 %)."""
    apart = np.std([found[name].score for found in simulated], ddof=1)
    estimated = np.mean([found[name].resamples.std() for found in simulated])
    assert 1 / 1.4 < estimated / apart < 1.4


def test_an_interval_is_around_the_score_that_score_gives(simulated):
    assert list(simulated[0]) == list(NAMES)
    plain = metrics.score(make(0), NAMES, KEY)
    for name, interval in simulated[0].items():
        assert interval.score == plain[name]
        assert interval.scheme == metrics.get(name).resampling
        assert interval.resamples.shape == (40,)
        assert interval.resamples.dtype == np.float64
    for found in simulated:
        for interval in found.values():
            assert interval.lower < interval.score < interval.upper


def test_why_neighbors_are_not_resampled_with_replacement(simulated):
    """Their own copies are among the neighbours: the score rises beyond the interval."""
    pair = make(0)
    rows = draw("bootstrap", pair, KEY, 20)
    naive = [metrics.score(pair.take(row), ["knn"], KEY)["knn"] for row in rows]
    interval = simulated[0]["knn"]
    assert np.mean(naive) > interval.upper


def test_draws():
    labels = np.repeat([0, 1, 2, 4], [21, 10, 3, 1])
    pair = make(labels=labels, c=5)
    whole, half = draw("bootstrap", pair, KEY, 30), draw("half", pair, KEY, 30)
    for row in whole:
        np.testing.assert_array_equal(np.bincount(labels[row]), np.bincount(labels))
    for row in half:
        assert len(set(row)) == len(row), "without replacement"
        np.testing.assert_array_equal(np.bincount(labels[row]), [10, 5, 2, 0, 1])
    assert len({tuple(sorted(row)) for row in half}) == 30
    batches = draw("batches", pair, KEY, 30)
    assert batches.shape == (30, 7)
    assert set(batches.ravel()) == set(range(7))
    other = dataclasses.replace(pair, features=pair.features + 1)  # another source of the same target
    np.testing.assert_array_equal(draw("half", other, KEY, 30), half)
    assert not np.array_equal(draw("half", pair, jax.random.key(1), 30), half)


@pytest.mark.parametrize("name", NAMES)
def test_a_resample_is_scored_as_a_pair_of_its_own(name):
    pair = make(n=36, d=6)
    interval = metrics.bootstrap(pair, [name], KEY, 20)[name]
    values = []
    for row in draw(interval.scheme, pair, KEY, 20):
        part = gradient_stats.of_batches(pair, row) if interval.scheme == "batches" else pair.take(row)
        values.append(metrics.score(part, [name], KEY)[name])
    expected = np.clip(interval.score + np.array(values) - np.mean(values), *metrics.get(name).range)
    np.testing.assert_allclose(interval.resamples, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["knn", "logme", "leep", "feature_quality"])
def test_multilabel(name):
    """ "sets", "columns", "per_label" and the loop on the host; the last label is often of one value."""
    pair = make_multilabel()
    interval = metrics.bootstrap(pair, [name], KEY, 20)[name]
    rows = draw(interval.scheme, pair, KEY, 20)
    values = [metrics.score(pair.take(row), [name], KEY)[name] for row in rows]
    assert any((np.asarray(pair.labels)[row, 3] == 0).all() for row in rows)
    expected = np.clip(interval.score + np.array(values) - np.mean(values), *metrics.get(name).range)
    np.testing.assert_allclose(interval.resamples, expected, rtol=1e-5, atol=1e-6)


def test_missing_labels():
    pair = make_multilabel()
    pair = dataclasses.replace(pair, labels=pair.labels.at[3, 0].set(-1))
    with pytest.raises(InputError, match=r"bootstrap of logme: labels are missing \(-1\)"):
        metrics.bootstrap(pair, ["logme"], KEY, 20)
    assert metrics.bootstrap(pair, ["knn"], KEY, 20)["knn"].resamples.std() > 0


def test_the_next_source_compiles_nothing():
    first, second = make(0, n=51), make(1, n=51)
    metrics.bootstrap(first, NAMES, KEY, 25)
    with count_compilations() as seen:
        metrics.bootstrap(second, NAMES, KEY, 25)
    assert not seen


def test_a_large_pair_is_resampled_from_its_subsample(monkeypatch):
    limited = dataclasses.replace(metrics.get("knn"), max_examples=30)
    found = {"knn": limited, "logme": metrics.get("logme")}
    monkeypatch.setattr(MODULE, "get", found.get)
    intervals = metrics.bootstrap(make(), ["knn", "logme"], KEY, 20)
    assert intervals["knn"].score == limited(make(), KEY)
    unlimited = metrics.score(make(), ["knn"], KEY)["knn"]
    assert intervals["knn"].score != unlimited
    assert intervals["knn"].resamples.std() > 1.3 * 0.03, "of 30 examples, not of 120"


def test_a_score_that_noise_makes_differs_in_each_resample(monkeypatch):
    def noise(features, *, num_classes, rng):
        return jax.random.normal(rng)

    metric = metrics.Metric(name="noise", fn=noise, inputs=("features",), stochastic=True)
    monkeypatch.setattr(MODULE, "get", lambda _name: metric)
    assert len(set(metrics.bootstrap(make(), ["noise"], KEY, 20)["noise"].resamples)) == 20


def test_what_cannot_be_used():
    with pytest.raises(InputError, match=r"num_resamples: 19\. A 95 % interval needs at least 20"):
        metrics.bootstrap(make(), ["knn"], KEY, 19)
    with pytest.raises(InputError, match="no class has three examples"):
        metrics.bootstrap(make(n=6), ["knn"], KEY, 20)
    with pytest.raises(InputError, match="metric leep: the pair has no logits"):
        metrics.bootstrap(dataclasses.replace(make(), logits=None), ["leep"], KEY, 20)


def test_probabilities():
    resamples = np.array([[1.0, 0, 0], [0, 1, 0], [2, 2, 0], [3, 1, 2]])
    np.testing.assert_allclose(probability_best(resamples), [2.5 / 4, 1.5 / 4, 0])
    beats = probability_beats(resamples)
    np.testing.assert_allclose(beats, [[0.5, 2.5 / 4, 3.5 / 4], [1.5 / 4, 0.5, 2.5 / 4], [0.5 / 4, 1.5 / 4, 0.5]])
