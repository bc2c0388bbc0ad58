"""What every metric promises, whatever it measures. A new metric is checked here without a line being added."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests import gradient_stats
from tests.conftest import rounded_products
from transferjax import InputError, metrics
from transferjax.metrics._view import View
from transferjax.types import TransferPair, make_pair

N, D, K, C = 60, 12, 7, 3
JITTABLE = [name for name in metrics.names() if metrics.get(name).jittable]


def make(dtype=np.float32, *, features=None, labels=None, n=N, seed=0):
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = np.resize(np.arange(C), n)
    if features is None:
        centres = rng.standard_normal((C, D))
        features = np.maximum(centres[labels] + 0.7 * rng.standard_normal((n, D)), 0) + 0.1
    logits = 2 * rng.standard_normal((n, K)) + 2 * np.eye(C, K)[labels]
    return make_pair(
        features.astype(dtype),
        labels,
        num_classes=C,
        logits=logits.astype(dtype),
        **gradient_stats.made(rng, n),
    )


def score(name: str, pair: TransferPair) -> float:
    return metrics.score(pair, [name], jax.random.key(0))[name]


def call(metric, pair, fn=None):
    keywords = {name: getattr(pair, name) for name in metric.static}
    if metric.stochastic:
        keywords["rng"] = jax.random.key(0)
    return (fn or metric.fn)(*(getattr(pair, name) for name in metric.inputs), **keywords)


def take(pair, order):
    batches = np.random.default_rng(0).permutation(len(pair.gradients.batch_norms))
    return gradient_stats.of_batches(pair.take(order), batches)


@contextlib.contextmanager
def count_compilations():
    seen = []

    def listen(event, _seconds, **_kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_counter_counts():
    with count_compilations() as seen:
        jax.jit(lambda x: x * 3.25)(jnp.ones(3))
    assert seen


def test_names_are_those_of_the_modules():
    found = metrics.names()
    assert {"feature_quality", "gradient_ratio", "knn", "leep", "leep_published", "logme", "logme_published"} <= set(
        found
    )
    assert list(found) == sorted(set(found))
    assert [metrics.get(name).name for name in found] == list(found)


@pytest.mark.parametrize("name", metrics.names())
def test_docstring(name):
    fn = metrics.get(name).fn
    while isinstance(fn, functools.partial):
        fn = fn.func
    for section in ("Args:", "Returns:", "References:", "bigger is better"):
        assert section in (fn.__doc__ or ""), f"{name} lacks {section}"


def declared_in(text, name):
    """What a docstring's line "Invariances: ..." says, or that of the preset: "Invariances of a, b and c: ..."."""
    for line in (text or "").splitlines():
        found = re.fullmatch(r"Invariances(?: of (.+?))?: (.+)\.", line.strip())
        if found and (found[1] is None or name in re.split(r", | and ", found[1])):
            return found[2]
    return None


@pytest.mark.parametrize("name", metrics.names())
def test_docstring_names_the_invariances(name):
    """In a paragraph of its own: Invariances: rotation, translation, scaling. Those declared, in this order."""
    metric = metrics.get(name)
    fn = metric.fn
    while isinstance(fn, functools.partial):
        fn = fn.func
    expected = ", ".join(change for change in ("rotation", "translation", "scaling") if change in metric.invariances)
    if "features" not in metric.inputs:
        expected = "none (it does not see the features)"
    assert declared_in(fn.__doc__, name) == (expected or "none")


def test_the_line_of_the_invariances_is_understood():
    text = "Invariances of a, b_c and d: rotation.\n    Invariances of e: none."
    assert [declared_in(text, name) for name in ("a", "b_c", "d", "e", "c")] == ["rotation"] * 3 + ["none", None]
    assert declared_in("  Invariances: rotation, scaling.", "a") == "rotation, scaling"


@pytest.mark.parametrize("name", metrics.names())
def test_is_a_finite_float_in_its_range(name):
    value = score(name, make())
    low, high = metrics.get(name).range
    assert type(value) is float
    assert np.isfinite(value)
    assert low <= value <= high


# Without compilation these take long: by hand, when they change.
LONG_WITHOUT_JIT = {"etran", "feature_quality", "feature_quality_loo", "pactran_gauss", "parc", "parc_published"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_WITHOUT_JIT)) for name in JITTABLE]
)
def test_jit_equals_no_jit(name):
    metric, pair = metrics.get(name), make(n=12)
    with jax.disable_jit():
        plain = float(call(metric, pair))
    traced = jax.jit(lambda pair: call(metric, pair))(pair)
    np.testing.assert_allclose(traced, plain, rtol=2e-5)


@pytest.mark.parametrize("name", metrics.names())
def test_second_call_compiles_nothing(name):
    score(name, make())
    with count_compilations() as seen:
        score(name, make(seed=1))
    assert not seen


@pytest.mark.parametrize("name", metrics.names())
def test_float32_is_close_to_float64(name):
    narrow = score(name, make())
    with jax.enable_x64(True):
        pair = make(np.float64)
        assert pair.features.dtype == np.float64
        wide = score(name, pair)
    # A neighbour may change places with another by rounding, which moves a share by 1/(5·n).
    atol = 2 / (5 * N) if metrics.get(name).range == (0.0, 1.0) else 0
    np.testing.assert_allclose(narrow, wide, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("name", metrics.names())
@pytest.mark.parametrize(("n", "d", "spread"), [(300, 128, 1e-2), (300, 128, 1e-4), (60, 128, 1e-3), (60, 128, 0.0)])
def test_float32_is_close_to_float64_for_tight_classes(name, spread, n, d):
    """The better a source separates the classes, the fewer digits are left for what it leaves over."""
    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(C), n)
    centres = np.maximum(rng.standard_normal((C, d)), 0) * 2
    features = np.maximum(centres[labels] + spread * rng.standard_normal((n, d)), 0).astype(np.float32)
    narrow = score(name, make(features=features, labels=labels, n=n))
    with jax.enable_x64(True):
        wide = score(name, make(np.float64, features=features, labels=labels, n=n))
    np.testing.assert_allclose(narrow, wide, rtol=2e-5)


@pytest.mark.parametrize("name", metrics.names())
def test_same_seed_same_bits(name):
    assert score(name, make()) == score(name, make())


# ncti_vc, a term of an index: probabilities that say nothing vary little, which is good by itself. tmi: the more the
# features vary within the classes the better, and mixed classes vary the most.
REWARDS_DISORDER = {"ncti_vc", "ncti_vc_published", "tmi"}
OF_GIVEN_STATISTICS = {name for name in metrics.names() if "example_gradients" in metrics.get(name).inputs}


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in metrics.names()
        if "labels" in metrics.get(n).inputs and n not in REWARDS_DISORDER | OF_GIVEN_STATISTICS
    ],
)
def test_shuffled_labels_score_worse(name):
    pair = make()
    rng = np.random.default_rng(3)
    shuffled = dataclasses.replace(pair, labels=jnp.asarray(rng.permutation(np.asarray(pair.labels))))
    assert score(name, shuffled) < score(name, pair)


@pytest.mark.parametrize("name", metrics.names())
@pytest.mark.parametrize("case", ["constant feature", "zero feature", "all features zero", "absent class", "wide"])
def test_finite_on_degenerate_input(name, case):
    rng = np.random.default_rng(0)
    features = rng.uniform(0.1, 1, (N, D))
    labels = np.resize(np.arange(C), N)
    if case == "constant feature":
        features[:, 3] = 2.5
    elif case == "zero feature":
        features[:, 3] = 0
    elif case == "all features zero":
        features[:] = 0
    elif case == "absent class":
        labels = np.resize(np.arange(C - 1), N)
    else:
        features = rng.uniform(0.1, 1, (N, 128))  # of a shape that another test has compiled
    assert np.isfinite(score(name, make(features=features, labels=labels)))


@pytest.mark.parametrize("name", JITTABLE)
def test_lowers_for_every_platform(name):
    metric, pair = metrics.get(name), make()
    leaves, structure = jax.tree.flatten(pair)
    fn = jax.jit(lambda *leaves: call(metric, jax.tree.unflatten(structure, leaves)))
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    platforms = ("cpu", "cuda", "tpu")
    exported = export.export(fn, platforms=platforms)(*shapes)
    assert exported.platforms == platforms
    assert rounded_products(exported) == []


@pytest.mark.parametrize("name", metrics.names())
def test_a_pair_without_its_input_is_refused(name):
    bare = TransferPair(features=None, labels=make().labels, num_classes=C, max_class_size=N)
    missing = [i for i in metrics.get(name).inputs if i != "labels"]
    with pytest.raises(InputError, match=f"metric {name}: the pair has no {', '.join(missing)}"):
        score(name, bare)


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match=r"'leap' is unknown.*leep"):
        metrics.get("leap")
    with pytest.raises(InputError, match=r"'leep_' is unknown"):
        metrics.get("leep_")


def test_adding_a_metric_does_not_move_another():
    pair = make()
    together = metrics.score(pair, metrics.names(), jax.random.key(0))
    assert {name: score(name, pair) for name in metrics.names()} == together


def test_large_pairs_are_scored_on_a_stratified_subsample():
    labels = np.repeat([0, 1, 2], [600, 300, 6])
    pair = make(labels=labels, n=len(labels))
    metric = dataclasses.replace(metrics.get("knn"), max_examples=100)
    seen = metric.seen(View(pair), jax.random.key(0)).pair
    counts = np.bincount(np.asarray(seen.labels))
    assert counts.tolist() == [66, 33, 1]
    assert seen.features.shape == (100, D)
    assert seen.logits is None, "it does not look at them"
    looks = dataclasses.replace(metrics.get("leep"), max_examples=100)
    assert looks.seen(View(pair), jax.random.key(0)).pair.logits.shape == (100, K)
    again, other = (metric.seen(View(pair), jax.random.key(i)).pair for i in (0, 1))
    np.testing.assert_array_equal(again.features, seen.features)
    assert not np.array_equal(other.features, seen.features)
    small = View(seen)
    assert metric.seen(small, jax.random.key(2)) is small
