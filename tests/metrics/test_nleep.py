"""NLEEP against a naive float64 reference from the same start, and against what the published code gave."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.test_contract import count_compilations
from tests.references import nleep as reference
from transferjax import metrics
from transferjax.metrics import nleep
from transferjax.types import make_pair

CASES = ("plain", "wide", "imbalanced", "absent class", "constant feature", "duplicated rows", "overlapping")


def case(name):
    """Returns features float32 [n, d] and labels [n] of 4 classes, the last of which may be absent."""
    rng = np.random.default_rng(CASES.index(name))
    n, d, spread = (100, 150, 6.0) if name == "wide" else (160, 12, 1.2)
    labels = np.resize(np.arange(4), n)
    if name == "imbalanced":
        labels = np.sort(np.minimum(rng.geometric(0.6, n) - 1, 3))
    if name == "absent class":
        labels = np.resize(np.arange(3), n)
    if name == "overlapping":  # EM takes many steps
        n, d, spread = 300, 3, 2.0
        labels = np.resize(np.arange(4), n)
    features = rng.standard_normal((4, d))[labels] + spread * rng.standard_normal((n, d))
    if name == "constant feature":
        features[:, 2] = 1.5
    if name == "duplicated rows":
        features[n // 2 :], labels[n // 2 :] = features[: n // 2], labels[: n // 2]
    return features.astype(np.float32), labels


def score(name, features, labels, seed=0, num_classes=None):
    pair = make_pair(features, labels, num_classes=num_classes or max(labels) + 1)
    return metrics.score(pair, [name], jax.random.key(seed))[name]


def starts(name, features, labels):
    """The clusters in which EM starts, several times [s, n], found in the reference's own principal components."""
    points = reference.principal_components(features)
    kept = points.shape[1]
    size = min(nleep.rounded_up(kept), *features.shape)
    rng = jax.random.fold_in(jax.random.key(0), zlib.crc32(name.encode()))
    with jax.enable_x64(True):
        filled = jnp.asarray(np.pad(points, ((0, 0), (0, size - kept))))
        counts = {"num_starts": 5, "num_clusters": 5 * len(set(labels)), "num_classes": 4}
        order, clusters = nleep.starts(filled, jnp.asarray(labels, jnp.int32), rng, kept, **counts)
    return np.asarray(clusters)[:, np.argsort(order)]


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("kind", CASES)
def test_is_the_reference(kind, published):
    name = "nleep_published" if published else "nleep"
    features, labels = case(kind)
    values = [reference.nleep(features, labels, found, published=published) for found in starts(name, features, labels)]
    np.testing.assert_allclose(score(name, features, labels, num_classes=4), np.mean(values), rtol=1e-5)
    assert len(set(np.round(values, 6))) > 1


@pytest.mark.parametrize("kind", ["binary", "paper_size", "wide", "scaled", "imbalanced"])
def test_published_value(metric_goldens, kind):
    """From float32 features, on three of which the published code fails."""
    features, labels, _, golden = metric_goldens[kind]
    away = score("nleep_published", features, labels) - golden["nleep_float64_mean"]
    assert abs(away) < 3 * golden["nleep_float64_std"]


def test_the_draw_matters_and_is_seeded():
    features, labels = case("plain")
    values = [score("nleep", features, labels, seed) for seed in (0, 0, 1, 2)]
    assert values[0] == values[1]
    assert len(set(values)) == 3


@pytest.mark.parametrize("name", ["nleep", "nleep_published"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale(name, scale):
    """No scale makes it fail; with regularisation relative to the variance it does not matter at all."""
    features, labels = case("wide")
    value = score(name, features * np.float32(scale), labels)
    if name == "nleep":
        np.testing.assert_allclose(value, score(name, features, labels), rtol=1e-5)


@pytest.mark.parametrize("name", ["nleep", "nleep_published"])
def test_many_tiny_classes(name):
    """As many components as examples: each has its own, which explains any labels."""
    features = case("plain")[0][:60]
    value = score(name, features, np.arange(60) // 2 * 30, num_classes=1000)
    assert value == pytest.approx(1 if name == "nleep_published" else 0, abs=1e-6)


def test_examples_that_are_all_the_same():
    """However they are rounded: no component knows anything of the labels, which leaves their entropy."""
    labels = np.repeat(np.arange(4), [80, 40, 20, 20])
    value = score("nleep", np.full((160, 12), 0.1, np.float32), labels)
    assert value == pytest.approx(0.5 * np.log(0.5) + 0.25 * np.log(0.25) + 0.25 * np.log(0.125))


def test_order_of_examples_does_not_matter_even_to_mirror_images():
    """Every example has another that is as far from all others' images; only the labels tell them apart."""
    features, labels = case("plain")
    features[80:] = -features[:80]
    labels[:80] = np.random.default_rng(0).permutation(labels[:80])
    order = np.random.default_rng(1).permutation(160)
    np.testing.assert_allclose(
        score("nleep", features[order], labels[order]), score("nleep", features, labels), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([6, 3, 1], 2),
        ([8, 1, 1], 3),  # 80 % is not more than 80 %, and what is equal stays together
        ([0.5, 0.3, 0.1, 0.06, 0.04], 3),
        ([7, 1, 1, 1 - 1e-8, 0], 4),
        ([1, 0, 0], 1),
        ([0, 0, 0], 3),
    ],
)
def test_num_kept(values, kept):
    assert nleep.num_kept(np.array(values, float)) == kept


def test_few_programs_serve_all_numbers_of_components():
    sizes = [nleep.rounded_up(kept) for kept in range(1, 2049)]
    for kept, size in enumerate(sizes, start=1):
        assert kept <= size < max(kept + 8, 1.125 * kept)
    assert len(set(sizes)) == 16 + 4 * 8, "16 up to 128, 8 whenever they double"


def test_another_number_of_components_compiles_nothing():
    """Two sources of one target whose spectra differ: within one rounding step they share a program."""
    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(4), 160)
    flat, steep = (
        (rng.standard_normal((160, 12)) * np.arange(1, 13) ** -power).astype(np.float32) for power in (0.4, 0.8)
    )
    kept = [reference.principal_components(features).shape[1] for features in (flat, steep)]
    assert 8 >= kept[0] > kept[1]
    score("nleep", flat, labels)
    with count_compilations() as seen:
        score("nleep", steep, labels)
        score("nleep_published", steep, labels)  # nor does the other preset
    assert not seen
