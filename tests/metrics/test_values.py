"""Each metric against the published code's values and against a naive float64 reference."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA

from tests.references import knn as knn_reference
from tests.references import leep as leep_reference
from tests.references import logme as logme_reference
from tests.references import nca as nca_reference
from transferjax import metrics
from transferjax._linalg import nearest_neighbors, principal_axes, smallest
from transferjax.metrics.feature_quality import deal, nca, nca_loss_and_gradient
from transferjax.types import GradientStats, make_pair

CASES = ["binary", "paper_size", "wide", "scaled", "imbalanced"]


def score(name, features, labels, **keywords):
    pair = make_pair(features, labels, num_classes=int(max(labels)) + 1, **keywords)
    return metrics.score(pair, [name], jax.random.key(0))[name]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["leep", "leep_published", "logme_published"])
def test_published_value(metric_goldens, case, name):
    features, labels, logits, golden = metric_goldens[case]
    assert features.dtype == np.float32
    value = score(name, features, labels, logits=logits)
    np.testing.assert_allclose(value, golden[name.removesuffix("_published")], rtol=1e-4)


# The golden value of `scaled` differs by 6.5e-8 from exact arithmetic, with which ours and the reference agree (below):
# it was computed with something rounded to single precision, which none of 170 ways of rounding tried reproduces.
OFF = pytest.mark.xfail(strict=True, reason="leep's golden value of `scaled` holds 7 digits")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[OFF] * (case == "scaled")) for case in CASES])
def test_published_leep_from_float64(metric_goldens, case):
    features, labels, logits, golden = metric_goldens[case]
    with jax.enable_x64(True):
        value = score("leep", features.astype(np.float64), labels, logits=logits.astype(np.float64))
    np.testing.assert_allclose(value, golden["leep"], rtol=1e-8)


def test_leep_of_scaled_is_the_reference(metric_goldens):
    features, labels, logits, golden = metric_goldens["scaled"]
    with jax.enable_x64(True):
        value = score("leep", features.astype(np.float64), labels, logits=logits.astype(np.float64))
    reference = leep_reference.leep(leep_reference.softmax(logits.astype(np.float64)), labels)
    np.testing.assert_allclose(value, reference, rtol=1e-12)
    np.testing.assert_allclose(value, golden["leep"], rtol=7e-8)


@pytest.mark.parametrize("case", CASES)
def test_published_logme_from_float64(metric_goldens, case):
    features, labels, _, golden = metric_goldens[case]
    with jax.enable_x64(True):
        value = score("logme_published", features.astype(np.float64), labels)
    np.testing.assert_allclose(value, golden["logme"], rtol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_feature_quality_is_near_the_published(metric_goldens, case):
    features, labels, _, golden = metric_goldens[case]
    value = score("feature_quality", features, labels)
    assert abs(value - golden["feature_quality"]) <= 0.03


@pytest.mark.parametrize("case", ["binary", "wide", "scaled"])
@pytest.mark.parametrize("published", [False, True])
def test_logme_is_the_reference(metric_goldens, case, published):
    features, labels, _, _ = metric_goldens[case]
    value = score("logme_published" if published else "logme", features, labels)
    np.testing.assert_allclose(value, logme_reference.logme(features, labels, published=published), rtol=2e-5)


def test_logme_of_iris():
    features, labels = load_iris(return_X_y=True)
    assert abs(score("logme", features.astype(np.float32), labels) - -0.16006) < 5e-6
    with jax.enable_x64(True):
        assert abs(score("logme", features, labels) - -0.1600602436621) < 1e-10


@pytest.mark.parametrize("d", [512, 4096])
def test_logme_of_random_features_stays_below_zero(d):
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((200, d)).astype(np.float32), rng.integers(0, 4, 200)
    assert -0.9 < score("logme", features, labels) < -0.6
    assert score("logme_published", features, labels) > 3  # what the correction corrects


def test_logme_published_drops_features_that_are_zero(metric_goldens):
    features, labels, _, _ = metric_goldens["binary"]
    features = np.concatenate([features, np.zeros((len(features), 5), np.float32)], axis=1)
    reference = logme_reference.logme(features, labels, published=True)
    np.testing.assert_allclose(score("logme_published", features, labels), reference, rtol=1e-5)
    np.testing.assert_allclose(score("logme", features, labels), score("logme", features[:, :-5], labels), rtol=1e-5)


def test_leep_is_the_reference(metric_goldens):
    features, labels, logits, _ = metric_goldens["binary"]
    reference = leep_reference.leep(leep_reference.softmax(logits), labels)
    np.testing.assert_allclose(score("leep", features, labels, logits=logits), reference, rtol=1e-6)


def test_leep_of_a_sigmoid_head(metric_goldens):
    features, labels, logits, _ = metric_goldens["binary"]
    reference = leep_reference.leep(leep_reference.sigmoid_probabilities(logits), labels)
    value = score("leep", features, labels, logits=logits, head="sigmoid")
    np.testing.assert_allclose(value, reference, rtol=1e-6)
    softmax = leep_reference.leep(leep_reference.softmax(logits), labels)
    assert abs(reference - softmax) > 1e-3
    np.testing.assert_allclose(
        score("leep_published", features, labels, logits=logits, head="sigmoid"), softmax, rtol=1e-6
    )


def test_leep_ignores_a_source_class_that_never_fires():
    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(3), 30)
    logits = rng.standard_normal((30, 4)).astype(np.float32)
    dead = np.concatenate([logits, np.full((30, 2), -500, np.float32)], axis=1)
    np.testing.assert_allclose(
        score("leep", logits, labels, logits=dead), score("leep", logits, labels, logits=logits), rtol=1e-6
    )


def test_knn_is_the_reference():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 50)
    features = (rng.standard_normal((50, 6)) + labels[:, None]).astype(np.float32)
    np.testing.assert_allclose(
        score("knn", features, labels), knn_reference.neighbor_share(features, labels), rtol=1e-6
    )


def test_knn_passes_over_neighbors_without_a_known_label_in_common():
    """Three examples on a line; the first knows label 0 only, the second both, the third label 1 only."""
    features = np.array([[0.0], [1.0], [2.1]], np.float32)
    sets = np.array([[1, -1], [1, 0], [-1, 1]])
    pair = make_pair(features, sets, num_classes=2)
    # 0 and 1 are alike, 1 and 2 are not, 0 and 2 cannot be compared
    assert float(metrics.get("knn").fn(pair.features, pair.labels, num_classes=2)) == pytest.approx(2 / 4)


def test_knn_of_random_labels_is_chance():
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((2000, 8)).astype(np.float32), rng.integers(0, 4, 2000)
    assert abs(score("knn", features, labels) - 0.25) < 0.02


def test_nca_loss_and_gradient_are_the_reference():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 20)
    features, transform = rng.standard_normal((20, 5)), rng.standard_normal((4, 5))
    with jax.enable_x64(True):
        loss, gradient = nca_loss_and_gradient(jnp.asarray(transform), jnp.asarray(features), jnp.asarray(labels))
    np.testing.assert_allclose(loss, -nca_reference.objective(transform, features, labels), rtol=1e-10)
    np.testing.assert_allclose(gradient, -nca_reference.gradient(transform, features, labels), rtol=1e-8, atol=1e-12)


def test_nca_passes_over_rows_that_fill_up_the_array():
    rng = np.random.default_rng(0)
    labels, present = rng.integers(0, 3, 20), np.arange(20) % 4 != 1
    features, transform = rng.standard_normal((20, 5)) * present[:, None], rng.standard_normal((4, 5))
    with jax.enable_x64(True):
        arguments = [jnp.asarray(array) for array in (transform, features, labels, present)]
        filled = nca_loss_and_gradient(*arguments)
        alone = nca_loss_and_gradient(arguments[0], *(array[present] for array in arguments[1:3]))
        single = nca_loss_and_gradient(*arguments[:3], jnp.arange(20) == 2)
    for ours, expected in zip(filled, alone, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    assert float(single[0]) == 0
    assert not np.any(single[1])


def start_of(features):
    """At most 50 principal axes, centred features: float64."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    return jnp.asarray(np.linalg.svd(centred, full_matrices=False)[2][:50]), jnp.asarray(centred)


@pytest.mark.parametrize("shape", [(40, 8), (70, 60)])
def test_feature_quality_is_the_reference_of_its_map(shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, shape[0])
    features = rng.standard_normal(shape).astype(np.float32)
    with jax.enable_x64(True):
        start, centred = start_of(features)
        transform = np.asarray(nca(centred, jnp.asarray(labels), start))
    assert np.abs(transform - np.asarray(start)).max() > 0.1, "something is learnt"
    reference = nca_reference.score(transform, features, labels)
    np.testing.assert_allclose(score("feature_quality", features, labels), reference, rtol=1e-6)


@pytest.mark.parametrize("shape", [(43, 90), (68, 60)])
def test_feature_quality_loo_is_the_reference_of_its_maps(shape):
    """Each map fitted by itself, to arrays of just the other folds' examples."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [shape[0] - 22, 15, 6, 1])
    features = (rng.standard_normal(shape) + 0.8 * np.eye(4, shape[1])[labels]).astype(np.float32)
    fold = nca_reference.folds(features, labels)
    maps = []
    with jax.enable_x64(True):
        for held in range(5):
            known = np.array(fold) != held
            start, centred = start_of(features[known])
            maps.append(np.asarray(nca(centred, jnp.asarray(labels[known]), start)))
    reference = nca_reference.cross_fitted_score(maps, fold, features, labels)
    np.testing.assert_allclose(score("feature_quality_loo", features, labels), reference, rtol=1e-6)


def test_folds():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 4], [21, 10, 1, 1])
    points = rng.standard_normal((33, 4))
    points -= points.mean(axis=0)
    order = np.asarray(deal(jnp.asarray(points), jnp.asarray(labels), jnp.bincount(jnp.asarray(labels), length=5)))
    assert sorted(order) == list(range(33))
    fold = np.empty(33, int)
    fold[order] = np.arange(33) % 5
    np.testing.assert_array_equal(fold, nca_reference.folds(points, labels))
    sizes = np.array([[np.sum((fold == f) & (labels == label)) for f in range(5)] for label in range(5)])
    assert sizes.sum(axis=0).tolist() == [7, 7, 7, 6, 6]
    assert (sizes.max(axis=1) - sizes.min(axis=1) <= 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_feature_quality_of_random_labels(seed):
    """n=200, d=512, c=2. Published: an example is among its own five neighbours, which alone gives .6, and more by fit.

    The margin for chance is three standard deviations of the mean of 200 shares of five neighbours, if each were right
    or wrong as a whole; that for the fit is what scikit-learn gives at least (.63 to .66 there, .73 to .78 for d=64).
    """
    rng = np.random.default_rng(seed)
    features, labels = rng.standard_normal((200, 512)).astype(np.float32), np.resize([0, 1], 200)
    assert abs(score("feature_quality_loo", features, labels) - 0.5) < 3 * 0.5 / np.sqrt(200)
    assert score("feature_quality", features, labels) > 0.6
    assert score("feature_quality", features[:, :64], labels) > 0.7


def test_feature_quality_loo_finds_what_plain_neighbors_miss(metric_goldens):
    features, labels, _, _ = metric_goldens["binary"]
    value = score("feature_quality_loo", features, labels)
    assert score("knn", features, labels) + 0.1 < value < score("feature_quality", features, labels)


@pytest.mark.parametrize("name", ["feature_quality", "feature_quality_loo"])
@pytest.mark.parametrize("shape", [(70, 60), (60, 70)])
def test_feature_quality_of_many_features_lowers_for_every_platform(name, shape):
    fn = jax.jit(functools.partial(metrics.get(name).fn, num_classes=3))
    shapes = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct(shape[:1], np.int32)
    platforms = ("cpu", "cuda", "tpu")
    assert export.export(fn, platforms=platforms)(*shapes).platforms == platforms


def test_smallest_prefers_the_first_of_equal_ones():
    rng = np.random.default_rng(0)
    for width in (7, 80, 81, 500):
        values = rng.integers(0, 9, (40, width)).astype(np.float32)
        values[3, 5:] = np.inf
        values[:3, 1] = -np.inf
        expected = np.argsort(values, axis=1, kind="stable")[:, :5]
        np.testing.assert_array_equal(smallest(jnp.asarray(values), 5), expected)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_principal_axes_are_scikit_learn_s(shape):
    features = np.random.default_rng(0).standard_normal(shape) + 3
    with jax.enable_x64(True):
        axes = np.asarray(principal_axes(jnp.asarray(features - features.mean(axis=0)), 5))
    expected = PCA(5, svd_solver="full").fit(features).components_
    np.testing.assert_allclose(np.abs(np.sum(axes * expected, axis=1)), 1, rtol=1e-9)


def test_principal_axes_without_variance_are_zero():
    features = np.zeros((20, 6))
    features[:, 1] = np.linspace(-1, 1, 20)
    for data in (features, features[:4]):
        centred = data - data.mean(axis=0)
        with jax.enable_x64(True):
            axes = np.abs(np.asarray(principal_axes(jnp.asarray(centred), 3)))
        np.testing.assert_allclose(axes, np.eye(1, 6, 1) * np.eye(3, 1), atol=1e-12)


def test_neighbors_of_duplicates_and_far_from_the_origin():
    points = jnp.asarray([[0.0], [0.0], [0.0], [1.0], [5.0]], jnp.float32) + 1000
    found = nearest_neighbors(points, 2, include_self=False)
    assert found.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [3, 0]]
    assert nearest_neighbors(points, 2, include_self=True).tolist() == [[0, 1], [1, 0], [2, 0], [3, 0], [4, 3]]


def test_neighbors_inside_groups_that_lie_far_apart():
    """Four scanners, each with its own offset; the classes differ by little inside each."""
    rng = np.random.default_rng(0)
    labels, group = np.resize([0, 1], 200), np.repeat(np.arange(4), 50)
    offsets, direction = 30 * rng.standard_normal((4, 64)), rng.standard_normal(64)
    features = offsets[group] + 0.05 * labels[:, None] * direction + 1e-3 * rng.standard_normal((200, 64))
    assert score("knn", features.astype(np.float32), labels) == 1


def test_logme_of_tight_classes_is_the_reference():
    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(3), 150)
    features = (np.eye(3, 40)[labels] + 1e-3 * rng.standard_normal((150, 40))).astype(np.float32)
    np.testing.assert_allclose(score("logme", features, labels), logme_reference.logme(features, labels), rtol=1e-5)


def test_feature_quality_orders_sources_as_scikit_learn_does():
    scipy_stats = pytest.importorskip("scipy.stats")
    from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis

    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(4), 120)
    centres = rng.standard_normal((4, 60))
    ours, theirs = [], []
    for noise in np.linspace(1, 6, 12):
        features = (centres[labels] + noise * rng.standard_normal((120, 60))).astype(np.float32)
        ours.append(score("feature_quality", features, labels))
        fitted = NeighborhoodComponentsAnalysis(n_components=50, init="pca", max_iter=50, tol=1e-5, random_state=0)
        mapped = fitted.fit_transform(features, labels)
        shares = KNeighborsClassifier(5).fit(mapped, labels).predict_proba(mapped)
        theirs.append(shares[np.arange(120), labels].mean())
    assert scipy_stats.spearmanr(ours, theirs)[0] >= 0.98


def test_gradient_ratio_sums_before_it_divides():
    gradients = GradientStats(batch_norms=jnp.asarray([[1.0, 2.0], [3.0, 1.0]]))
    fn = metrics.get("gradient_ratio").fn
    assert float(fn(gradients)) == pytest.approx(3 / 4)
    assert float(fn(GradientStats(batch_norms=jnp.zeros((3, 2))))) == 0


def test_a_metric_can_be_called_on_arrays():
    fn = functools.partial(metrics.get("logme").fn, num_classes=2)
    assert np.isfinite(fn(jnp.ones((4, 2)), jnp.asarray([0, 1, 0, 1])))
