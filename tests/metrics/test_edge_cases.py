"""At the edge of what a target can be: a finite score or an error that says what is wrong, of every metric."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import gradient_stats
from tests.metrics.test_contract import C, N, make, score
from transferjax import InputError, metrics
from transferjax.types import GradientStats, make_pair

NAMES = metrics.names()
WITH_LABELS = [name for name in NAMES if "labels" in metrics.get(name).inputs]


def of_size(n, d, labels, num_classes):
    rng = np.random.default_rng(0)
    features = np.maximum(rng.standard_normal((n, d)), 0).astype(np.float32) + 0.1
    logits = rng.standard_normal((n, 7)).astype(np.float32)
    return make_pair(features, labels, num_classes=num_classes, logits=logits, **gradient_stats.made(rng, n))


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_classes(name):
    """Most of one example; one without any."""
    extra = np.random.default_rng(1).integers(0, 999, 101)
    pair = of_size(1100, 16, np.concatenate([np.arange(999), extra]), 1000)
    low, high = metrics.get(name).range
    assert low <= score(name, pair) <= high


@pytest.mark.parametrize("name", NAMES)
def test_one_example(name):
    pair = of_size(1, 5, np.array([1]), 2)
    if name in WITH_LABELS:
        with pytest.raises(InputError, match=rf"labels: all 1 examples are of class 1\. Metric {name} needs"):
            score(name, pair)
    else:
        assert np.isfinite(score(name, pair))


@pytest.mark.parametrize("name", WITH_LABELS)
def test_one_class_is_refused(name):
    with pytest.raises(InputError, match=rf"labels: all {N} examples are of class 2\. Metric {name} needs"):
        score(name, make(labels=np.full(N, 2)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_score_is_nan_without_an_error(name, value):
    """Of a pair whose arrays were put together by hand, so that nobody has looked at their values."""
    pair = make()
    arrays = {part: getattr(pair, part).at[4, 2].set(value) for part in ("features", "logits")}
    norms = pair.gradients.batch_norms.at[2, 0].set(value)
    known = jax.tree.map(lambda array: array.at[2, 0].set(value), pair.example_gradients)
    gradients = {"gradients": GradientStats(batch_norms=norms), "example_gradients": known}
    pair = dataclasses.replace(pair, **arrays, **gradients)
    with contextlib.suppress(InputError):
        assert np.isfinite(score(name, pair))


def test_a_gradient_that_is_not_a_number_is_an_error():
    """It must not pass for one that is zero, whose score is 0."""
    norms = make().gradients.batch_norms
    for column in (0, 1):
        pair = dataclasses.replace(make(), gradients=GradientStats(batch_norms=norms.at[2, column].set(jnp.nan)))
        with pytest.raises(InputError, match="metric gradient_ratio: its score is nan"):
            score("gradient_ratio", pair)


@pytest.mark.parametrize("part", ["features", "logits"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(part, value):
    arrays = {"features": np.ones((N, 5), np.float32), "logits": np.ones((N, 7), np.float32)}
    arrays[part][4, 2] = value
    labels = np.resize(np.arange(C), N)
    with pytest.raises(InputError, match=rf"{part}: not finite at example 4\. Check the weights"):
        make_pair(arrays["features"], labels, num_classes=C, logits=arrays["logits"])


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(N),
        np.zeros(N, bool),
        np.full(N, "healthy"),
        np.full(N, None),
        np.zeros(N, np.complex64),
        np.zeros((N, 1), int),
        np.zeros(N - 1, int),
        np.int32(0),
    ],
    ids=["floats", "bools", "text", "objects", "complex numbers", "a column", "too few", "a number"],
)
def test_labels_of_the_wrong_kind_are_refused(labels):
    with pytest.raises(InputError, match=rf"labels: shape .*\. Give whole numbers of shape \[{N}\]"):
        make_pair(np.ones((N, 5), np.float32), labels, num_classes=C)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_labels_of_any_whole_kind_are_the_same(dtype):
    labels = np.resize(np.arange(C), N)
    assert score("leep", make(labels=labels.astype(dtype))) == score("leep", make(labels=labels))


@pytest.mark.parametrize("name", ["knn", "feature_quality", "feature_quality_loo"])
def test_fewer_examples_than_neighbors(name):
    value = score(name, of_size(4, 5, np.array([0, 1, 1, 0]), 2))
    assert 0 <= value <= 1


def test_features_of_half_precision_are_widened():
    with jax.enable_x64(False):
        pair = make(np.float16)
    assert pair.features.dtype == np.float32
    assert np.isfinite(score("knn", pair))
