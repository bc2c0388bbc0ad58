"""Gaussian mixtures and k-means are scikit-learn's, from the same start."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.mixture import GaussianMixture

from transferjax import _mixture

lloyd, canonical_order, clusters = map(jax.jit, (_mixture.lloyd, _mixture.canonical_order, _mixture.clusters))


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def blobs(n, q, k, *, spread=1.0, seed=0):
    """k blobs whose coordinates get less important, as principal components do."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((k, q))
    points = (centres[rng.integers(k, size=n)] + spread * rng.standard_normal((n, q))) / np.sqrt(np.arange(1, q + 1))
    return points - points.mean(axis=0)


def draw(k, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((k, _mixture.num_trials(k))))


def one_hot(clusters, k):
    return np.eye(k)[clusters].T


class Replay(np.random.RandomState):
    """Gives scikit-learn the numbers that we draw."""

    def __init__(self, draws):
        super().__init__(0)
        self.draws = list(np.asarray(draws))

    def choice(self, n, p):
        return int(self.draws.pop(0)[0] * n)

    def uniform(self, size):
        return self.draws.pop(0)[:size]


@pytest.mark.parametrize(("n", "q", "k"), [(60, 5, 1), (60, 5, 15), (40, 50, 12)])
def test_spread_centres_are_scikit_learn_s(n, q, k):
    points, draws = blobs(n, q, 4), draw(k)
    _, expected = kmeans_plusplus(points, k, random_state=Replay(draws))
    np.testing.assert_array_equal(_mixture.spread_centres(jnp.asarray(points), draws), expected)


@pytest.mark.parametrize("far", [0, 1, 3])
def test_lloyd_is_scikit_learn_s(far):
    """Also where clusters lose all their points: centres far away from all."""
    points = blobs(90, 6, 4)
    centres = points[:8].copy()
    centres[1 : 1 + far] += 1e3
    ours, means = lloyd(points, centres, coordinates=6)
    theirs = KMeans(8, init=centres, n_init=1).fit(points)
    np.testing.assert_array_equal(ours, theirs.labels_)
    np.testing.assert_allclose(means, theirs.cluster_centers_, rtol=1e-10, atol=1e-12)
    assert len(set(theirs.labels_)) == 8


# Overlapping components over several blocks of points; and hardly more points in a component than coordinates, where
# it is by their leading coordinates that most shares are known to be 0: 48 and 75 are more than there are of these.
# The last number is of coordinates that only fill up the array.
SHAPES = [(150, 3, 4, 2.0, 0), (150, 3, 4, 2.0, 9), (700, 40, 3, 2.0, 8), (300, 48, 6, 1.0, 16), (90, 75, 5, 1.0, 0)]


@pytest.mark.parametrize(("n", "q", "k", "spread", "filled"), SHAPES)
def test_fit_is_scikit_learn_s(n, q, k, spread, filled):
    """From the parameters that k-means' clusters have."""
    points = blobs(n, q, 5, spread=spread)
    shares = one_hot(KMeans(k, n_init=1, random_state=0).fit(points).labels_, k)
    sizes = shares.sum(axis=1)
    means = shares @ points / sizes[:, None]
    covariances = [np.cov(points.T, aweights=share, bias=True) + 1e-3 * np.eye(q) for share in shares]
    theirs = GaussianMixture(
        k, reg_covar=1e-3, weights_init=sizes / n, means_init=means, precisions_init=np.linalg.inv(covariances)
    ).fit(points)
    ours = _mixture.fit(
        jnp.asarray(np.pad(points, ((0, 0), (0, filled)))),
        jnp.asarray(shares),
        regularization=jnp.float64(1e-3),
        coordinates=jnp.int32(q),
    )
    assert ours.iterations == theirs.n_iter_
    np.testing.assert_allclose(ours.bound, theirs.lower_bound_, rtol=1e-9)
    np.testing.assert_allclose(ours.shares.T, theirs.predict_proba(points), atol=1e-8)


def test_fit_ends_after_the_iterations_allowed():
    points = jnp.asarray(blobs(150, 3, 4, spread=2.0))
    start = jnp.asarray(one_hot(np.arange(150) % 4, 4))
    arguments = {"regularization": jnp.float64(1e-3), "coordinates": jnp.int32(3)}
    some = _mixture.fit(points, start, max_iterations=3, **arguments)
    assert some.iterations == 3
    more = _mixture.fit(points, start, **arguments)
    assert more.iterations > 3
    assert more.bound > some.bound


def test_what_is_left_out_of_a_step_is_nothing():
    """Most densities are never computed in all coordinates; the way without blocks, which does, gives the same."""
    points = jnp.asarray(blobs(70, 40, 3, spread=2.0))
    start = jnp.asarray(one_hot(KMeans(4, n_init=1, random_state=0).fit(points).labels_, 4))
    arguments = {"regularization": jnp.float64(1e-6), "coordinates": jnp.int32(40)}
    some = np.asarray(jax.jit(_mixture._in_blocks(points, **arguments))(start))
    every = np.asarray(jax.jit(_mixture._from_products(points, **arguments))(start))
    computed = some > -np.inf
    assert computed.mean() < 0.5
    np.testing.assert_allclose(some[computed], every[computed], rtol=1e-6)
    assert (np.where(computed, -np.inf, every) < every.max(axis=0) - 64).all()


def changed(points, seed=0):
    """Returns an order, and the points in it, rotated, reflected and scaled."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(points))
    rotation = np.linalg.qr(rng.standard_normal((points.shape[1],) * 2))[0]
    return order, 0.37 * points[order] @ rotation


@pytest.mark.parametrize("kind", ["blobs", "duplicates", "grid"])
def test_clusters_do_not_depend_on_order_or_coordinates(kind):
    points = blobs(80, 4, 6)
    if kind == "duplicates":
        points[40:] = points[:40]
    if kind == "grid":  # at whole numbers, where many points are equally far from the mean
        points = np.random.default_rng(1).integers(-1, 2, (80, 4)).astype(float)
        points -= points.mean(axis=0)
    order, other = changed(points)

    def same_cluster(points, seed):
        place = np.asarray(canonical_order(points, np.zeros(80)))
        draws = draw(9, seed)
        found = np.empty(80, int)
        found[place] = clusters(points[place], draws, coordinates=4)
        assert len(set(found)) == 9
        return found[:, None] == found

    first = same_cluster(points, 3)
    np.testing.assert_array_equal(same_cluster(other, 3), first[order][:, order])
    assert (same_cluster(points, 4) != first).any(), "but the draw does matter"


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_points_than_clusters(distinct):
    points = np.resize(blobs(distinct, 4, 2), (12, 4))
    points -= points.mean(axis=0)
    draws = draw(10)
    found = np.asarray(clusters(points, draws, coordinates=4))
    assert len(set(found)) == distinct
    start = jnp.asarray(one_hot(found, 10))
    shares = _mixture.fit(jnp.asarray(points), start, regularization=jnp.float64(1e-6), coordinates=jnp.int32(4)).shares
    np.testing.assert_allclose(np.sum(shares, axis=0), 1)
    for i in range(12):
        np.testing.assert_allclose(shares[:, i], shares[:, i % distinct], rtol=1e-6)


def test_works_under_vmap():
    points = jnp.asarray(np.stack([blobs(80, 4, 6, seed=seed) for seed in range(3)]))
    draws = jnp.stack([draw(9, seed) for seed in range(3)])
    together = jax.jit(jax.vmap(lambda points, draws: _mixture.clusters(points, draws, coordinates=4)))(points, draws)
    for i in range(3):
        np.testing.assert_array_equal(together[i], clusters(points[i], draws[i], coordinates=4))

    n, q, k = 90, 75, 5
    points = jnp.asarray(np.stack([blobs(n, q, k, seed=seed, spread=0.5 + seed) for seed in range(3)]))
    start = jnp.asarray(one_hot(np.arange(n) % k, k))
    fit = functools.partial(_mixture.fit, shares=start, regularization=jnp.float64(1e-3), coordinates=jnp.int32(q))
    shares = jax.vmap(lambda points: fit(points).shares)(points)
    for i in range(3):
        np.testing.assert_allclose(shares[i], fit(points[i]).shares, atol=1e-8)


@pytest.mark.parametrize("q", [20, 40])
def test_lowers_for_every_platform(q):
    platforms = ("cpu", "cuda", "tpu")
    points, draws = jax.ShapeDtypeStruct((60, q), jnp.float64), jax.ShapeDtypeStruct((4, 3), jnp.float64)

    def whole(points, draws):
        points = points[_mixture.canonical_order(points, points[:, 0] ** 2)]
        start = jax.nn.one_hot(_mixture.clusters(points, draws, coordinates=q), 4, dtype=points.dtype, axis=0)
        return _mixture.fit(points, start, regularization=jnp.float64(1e-3), coordinates=jnp.int32(q)).shares

    assert export.export(jax.jit(whole), platforms=platforms)(points, draws).platforms == platforms
