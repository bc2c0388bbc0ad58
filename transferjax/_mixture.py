"""Gaussian mixtures with full covariances, and the k-means that starts them: pure, traceable, in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# What k-means and EM stop at, as in scikit-learn.
MAX_LLOYD_ITERATIONS = 300
LLOYD_TOLERANCE = 1e-4  # of the mean variance of the coordinates
MAX_ITERATIONS = 100
TOLERANCE = 1e-3  # of the mean log-likelihood

# Squared distances below this share of the points' squared lengths are rounding errors of 0; if they differ by less,
# they are the same.
_ROUNDING = 1e-14
# A component whose density at a point is below exp(-64) = 1.6e-28 of another's has no share in it: twelve digits below
# what float64 keeps of a sum.
_NEGLIGIBLE = 64.0
# As many leading coordinates show whether a component can have a share in a point.
_LEADING = 32


class Mixture(NamedTuple):
    """What EM has found.

    Attributes:
      shares: [k, n], P(component | point); columns sum to 1.
      bound: the mean log-likelihood of the points at the last step but one.
      iterations: int, how many steps it took to converge, that last one not counted.
    """

    shares: jax.Array
    bound: jax.Array
    iterations: jax.Array


def num_trials(num_clusters: int) -> int:
    """Returns from how many candidates k-means++ chooses a centre: 2 + log k, as in scikit-learn."""
    return 2 + int(math.log(num_clusters))


def clusters(points: jax.Array, draws: jax.Array, *, coordinates: jax.Array) -> jax.Array:
    """Runs k-means once, as scikit-learn does: greedy k-means++, then Lloyd's steps.

    What is drawn is a place, so bring the points into an order of their own (`canonical_order`): then neither the order
    in which they came nor rotation, reflection or scale matters but by rounding.

    Args:
      points: float64 [n, q], centred.
      draws: float64 [k, num_trials(k)], random numbers, uniform in 0..1; k is at most n.
      coordinates: as in `fit`.

    Returns:
      int32 [n] in 0..k-1, each point's cluster. Where there are fewer than k different points, some have none.
    """
    return lloyd(points, points[spread_centres(points, draws)], coordinates=coordinates)[0]


def canonical_order(points: jax.Array, marks: jax.Array) -> jax.Array:
    """Returns an order of the points that depends neither on the given one nor on rotation, reflection or scale.

    Sorted by ‖x‖² + √2·xᵀSx + √3·x·t + √5·m, S and t the second and third moments, m the marks, scaled so that the mean
    of ‖x‖² is 1: points are equal in it if they and their marks are, or mirror images under a symmetry of them all.

    Args:
      points: float64 [n, q], centred.
      marks: float64 [n], squared lengths of any kind that tell mirror images apart.

    Returns:
      int [n].
    """
    squares = jnp.sum(points**2, axis=1)
    mean = jnp.maximum(jnp.mean(squares), jnp.finfo(points.dtype).tiny)
    points, squares, marks = points / jnp.sqrt(mean), squares / mean, marks / mean
    second = jnp.matmul(points.T, points, precision="highest") / len(points)
    third = jnp.matmul(squares, points, precision="highest") / len(points)
    stretch = jnp.sum(jnp.matmul(points, second, precision="highest") * points, axis=1)
    skew = jnp.matmul(points, third, precision="highest")
    return jnp.argsort(squares + 2**0.5 * stretch + 3**0.5 * skew + 5**0.5 * marks)


def spread_centres(points: jax.Array, draws: jax.Array) -> jax.Array:
    """Draws centres by greedy k-means++, as in scikit-learn.

    The first is any point. Each further one is the best of `num_trials` candidates, drawn with probabilities
    proportional to the squared distance from the nearest centre; the best leaves the smallest sum of these.

    Args:
      points: float64 [n, q].
      draws: as in `clusters`; of the first row only the first number is used.

    Returns:
      int [k], which points are the centres. Where there are fewer than k different ones, some are the same.

    References:
      Arthur, Vassilvitskii, 2007. k-means++: the advantages of careful seeding.
      http://ilpubs.stanford.edu:8090/778/1/2006-13.pdf
    """
    n = len(points)
    squares = jnp.sum(points**2, axis=1)

    def distances(chosen: jax.Array) -> jax.Array:
        products = jnp.matmul(points[chosen], points.T, precision="highest")
        lengths = squares[chosen, None] + squares
        found = lengths - 2 * products
        return jnp.where(found > _ROUNDING * lengths, found, 0)

    def choose(nearest: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array]:
        heights = jnp.cumsum(nearest)
        candidates = jnp.minimum(jnp.sum(heights <= draw[:, None] * heights[-1], axis=1), n - 1)
        closer = jnp.minimum(nearest, distances(candidates))
        best = _first_smallest(jnp.sum(closer, axis=1), _ROUNDING * heights[-1])
        return closer[best], candidates[best]

    start = jnp.minimum(draws[0, :1] * n, n - 1).astype(jnp.int32)
    _, others = jax.lax.scan(choose, distances(start)[0], draws[1:])
    return jnp.concatenate([start, others])


def _first_smallest(values: jax.Array, tie: jax.Array) -> jax.Array:
    """Returns the place of the smallest of values [..., k], int32 [...]: the first of those closer to it than `tie`."""
    close = values <= jnp.min(values, axis=-1, keepdims=True) + tie
    return jnp.min(jnp.where(close, jnp.arange(values.shape[-1], dtype=jnp.int32), values.shape[-1]), axis=-1)


def lloyd(points: jax.Array, centres: jax.Array, *, coordinates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Runs k-means from given centres, as in scikit-learn.

    A cluster that has lost all its points moves to the point that is farthest from its own centre (several: to the
    farthest ones, in turn), unless that distance is 0.

    Args:
      points: float64 [n, q], centred.
      centres: float64 [k, q].
      coordinates: as in `fit`.

    Returns:
      int32 [n], the cluster of each point, and float64 [k, q], the centres.
    """
    n, k = len(points), len(centres)
    squares = jnp.sum(points**2, axis=1)
    tolerance = LLOYD_TOLERANCE * jnp.sum(jnp.var(points, axis=0)) / coordinates

    def assign(centres: jax.Array) -> tuple[jax.Array, jax.Array]:
        products = jnp.matmul(points, centres.T, precision="highest")
        lengths = jnp.sum(centres**2, axis=1)
        distances = lengths - 2 * products
        tie = _ROUNDING * (squares + jnp.max(lengths))[:, None]
        return _first_smallest(distances, tie), jnp.min(distances, axis=1) + squares

    def filled(labels: jax.Array, distances: jax.Array) -> jax.Array:
        """Gives the farthest points to the empty clusters."""
        empty = jnp.zeros(k, jnp.int32).at[labels].add(1) == 0
        order, hungry = jnp.argsort(-distances), jnp.argsort(~empty)
        farthest = order[: min(k, n)]
        granted = (jnp.arange(len(farthest)) < jnp.sum(empty)) & (distances > _ROUNDING * squares)[farthest]
        return labels.at[jnp.where(granted, farthest, n)].set(hungry[: len(farthest)].astype(jnp.int32), mode="drop")

    State = tuple[jax.Array, jax.Array, jax.Array, jax.Array]

    def step(state: State) -> State:
        before, centres, _, count = state
        labels, distances = assign(centres)
        present = jnp.zeros(k, jnp.int32).at[labels].add(1)
        given = jax.lax.cond(jnp.any(present == 0), lambda: filled(labels, distances), lambda: labels)
        members = jax.nn.one_hot(given, k, dtype=points.dtype, axis=0)
        counts = jnp.sum(members, axis=1)
        means = jnp.matmul(members, points, precision="highest") / jnp.maximum(counts, 1)[:, None]
        moved = jnp.where(counts[:, None] > 0, means, centres)
        done = jnp.all(labels == before) | (jnp.sum((moved - centres) ** 2) <= tolerance)
        return labels, moved, done, count + 1

    def goes_on(state: State) -> jax.Array:
        return ~state[2] & (state[3] < MAX_LLOYD_ITERATIONS)

    start = (jnp.full(n, -1, jnp.int32), centres, jnp.bool(False), jnp.int32(0))
    centres = jax.lax.while_loop(goes_on, step, start)[1]
    return assign(centres)[0], centres


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def fit(
    points: jax.Array,
    shares: jax.Array,
    *,
    regularization: jax.Array,
    coordinates: jax.Array,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Mixture:
    """Fits a Gaussian mixture by EM, as scikit-learn's `GaussianMixture` does with full covariances.

    Ends when a step changes the mean log-likelihood by less than `tolerance`, or after `max_iterations`; the shares are
    those of one step more. No covariance outlives the step of its component if there are more than 32 coordinates, so
    that memory is O(n·(k + q) + q²); else it is O(n·(k + q²)).

    Args:
      points: float64 [n, q], centred.
      shares: float64 [k, n], the P(component | point) to start from, e.g. 1 for a point's own cluster.
      regularization: scalar, added to the diagonal of the covariances. Errors of log-densities are about 1e-16 of the
        largest squared length over this, so it has to be well above that share, 1e-10 for example.
      coordinates: scalar int, how many leading coordinates there are; the rest, all 0, fills the array up to a shape
        that others share, and leaves no trace in the result.
      tolerance: see above.
      max_iterations: see above.

    Returns:
      The `Mixture`.
    """
    State = tuple[Mixture, jax.Array, jax.Array]
    way = _from_products if points.shape[1] <= _LEADING else _in_blocks
    densities_of = way(points, regularization=regularization, coordinates=coordinates)

    def step(state: State) -> State:
        before, settled, _ = state
        shares, bound = _posteriors(densities_of(before.shares))
        count = before.iterations + 1
        stop = (jnp.abs(bound - before.bound) < tolerance) | (count >= max_iterations)
        same = jnp.all(shares == before.shares)  # and so would all further steps be: the next one stops
        mixture = Mixture(
            shares,
            jnp.where(settled, before.bound, bound),
            jnp.where(settled, before.iterations, count + (same & ~stop)),
        )
        return mixture, settled | stop, settled | same

    start = (Mixture(shares, jnp.float64(-jnp.inf), jnp.int32(0)), jnp.bool(False), jnp.bool(False))
    return jax.lax.while_loop(lambda state: ~state[2], step, start)[0]


def _posteriors(densities: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the shares [k, n] that follow from log-densities [k, n], and the mean log-likelihood."""
    top = jnp.max(densities, axis=0)
    total = top + jnp.log(jnp.sum(jnp.exp(densities - top), axis=0))
    return jnp.where(densities > top - _NEGLIGIBLE, jnp.exp(densities - total), 0), jnp.mean(total)


def _sizes_means_constants(
    points: jax.Array, shares: jax.Array, coordinates: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the components' sizes [k], means [k, q], and log-densities' constants [k] but for the determinants."""
    sizes = jnp.sum(shares, axis=1) + 10 * jnp.finfo(points.dtype).eps
    means = jnp.matmul(shares, points, precision="highest") / sizes[:, None]
    constants = jnp.log(sizes / jnp.sum(sizes)) - jnp.asarray(coordinates, points.dtype) / 2 * math.log(2 * math.pi)
    return sizes, means, constants


def _from_products(
    points: jax.Array, *, regularization: jax.Array, coordinates: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that gives log-densities [k, n] from shares, for few coordinates.

    All covariances are one product of the shares with the coordinates' products, and all quadratic forms another.
    """
    r = points.shape[1]
    rows, columns = np.tril_indices(r)
    place = np.empty((r, r), np.int32)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    products = points[:, rows] * points[:, columns]
    ridge = jnp.diag(jnp.where(jnp.arange(r) < coordinates, regularization, 1))

    def densities_of(shares: jax.Array) -> jax.Array:
        sizes, means, constants = _sizes_means_constants(points, shares, coordinates)
        moments = jnp.matmul(shares, products, precision="highest") / sizes[:, None]
        covariances = moments[:, place] - means[:, :, None] * means[:, None, :] + ridge
        factors = jnp.linalg.cholesky(covariances, symmetrize_input=False)
        roots = jax.lax.linalg.triangular_solve(
            factors, jnp.broadcast_to(jnp.eye(r), factors.shape), left_side=True, lower=True
        )
        precisions = jnp.matmul(roots.mT, roots, precision="highest")
        pulls = jnp.sum(precisions * means[:, None, :], axis=2)
        forms = precisions[:, rows, columns] * np.where(rows == columns, 1, 2)
        distances = jnp.matmul(forms, products.T, precision="highest")
        distances += jnp.sum(pulls * means, axis=1)[:, None] - 2 * jnp.matmul(pulls, points.T, precision="highest")
        constants -= jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
        return constants[:, None] - distances / 2

    return densities_of


def _in_blocks(
    points: jax.Array, *, regularization: jax.Array, coordinates: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that gives log-densities [k, n] from shares, component by component.

    A step as it is written in textbooks costs 4·n·k·q². Most of it is spent on shares of 0, so: a component's
    covariance is summed over the points that have a share in it; and its density is computed in the leading
    coordinates first, which bound it from above, and in all of them only for points whose other densities this bound
    is not far below. The others' densities are given as -inf.
    """
    n, r = points.shape
    block = max(1, min(n, max(_LEADING, 2**13 // r)))
    used, unit = jnp.arange(r) < coordinates, jnp.eye(_LEADING, dtype=points.dtype)

    def component(floor: jax.Array, entry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        share, size, mean, constant = entry

        def add(gram: jax.Array, chosen: jax.Array, present: jax.Array) -> jax.Array:
            weights = jnp.sqrt(jnp.where(present, share[chosen], 0))
            rows = (points[chosen] - mean) * weights[:, None]
            return gram + jnp.matmul(rows.T, rows, precision="highest")

        covariance = _over_blocks(add, jnp.zeros((r, r), points.dtype), share > 0, block) / size
        covariance += jnp.diag(jnp.where(used, regularization, 1))
        factor = jnp.linalg.cholesky(covariance, symmetrize_input=False)
        constant -= jnp.sum(jnp.log(jnp.diagonal(factor)))
        # with so many points it is faster to multiply by the inverse
        root = jax.lax.linalg.triangular_solve(factor[:_LEADING, :_LEADING], unit, left_side=True, lower=True)
        whitened = jnp.matmul(points[:, :_LEADING] - mean[:_LEADING], root.T, precision="highest")
        highest = constant - jnp.sum(whitened**2, axis=1) / 2
        close = highest > floor - _NEGLIGIBLE

        def complete(density: jax.Array, chosen: jax.Array, present: jax.Array) -> jax.Array:
            exact = constant - _squared_lengths(factor, points[chosen] - mean) / 2
            return density.at[jnp.where(present, chosen, n)].set(exact, mode="drop")

        density = _over_blocks(complete, jnp.full(n, -jnp.inf), close, block)
        return jnp.maximum(floor, density), density

    def densities_of(shares: jax.Array) -> jax.Array:
        sizes, means, constants = _sizes_means_constants(points, shares, coordinates)
        # A floor for each point's largest density. For a point of share s in a component of size N, (x-m)ᵀS⁻¹(x-m) <=
        # N/s, since S >= s/N·(x-m)(x-m)ᵀ. The determinant of S is at most the product of its diagonal; and, as its rank
        # without the regularisation is below the number of points, at most that of as many equal eigenvalues.
        squares = jnp.matmul(shares, points**2, precision="highest") / sizes[:, None]
        variances = jnp.maximum(squares - means**2, 0) + 1e-12 * squares
        ranks = jnp.clip(jnp.sum(shares > 0, axis=1) - 1, 1, coordinates)
        by_diagonal = jnp.sum(jnp.where(used, jnp.log(variances + regularization), 0), axis=1)
        by_rank = ranks * jnp.log(jnp.sum(variances, axis=1) / ranks + regularization)
        by_rank += (coordinates - ranks) * jnp.log(regularization)
        own, share = jnp.argmax(shares, axis=0), jnp.max(shares, axis=0)
        floor = (constants - jnp.minimum(by_diagonal, by_rank) / 2)[own] - sizes[own] / share / 2
        return jax.lax.scan(component, floor, (shares, sizes, means, constants))[1]

    return densities_of


def _squared_lengths(factor: jax.Array, away: jax.Array) -> jax.Array:
    """Returns ‖L⁻¹v‖² for each row v of `away`."""
    whitened = jax.lax.linalg.triangular_solve(factor, away.T, left_side=True, lower=True)
    return jnp.sum(whitened**2, axis=0)


def _over_blocks(
    step: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], start: jax.Array, chosen: jax.Array, block: int
) -> jax.Array:
    """Folds `step` over the places where `chosen`, bool [n], is true, a block at a time.

    Args:
      step: (state, places int [block], whether they are to be counted bool [block]) → state.
      start: the first state.
      chosen: see above.
      block: how many places are taken at once.
    """
    n = len(chosen)
    places = jnp.sort(jnp.where(chosen, jnp.arange(n, dtype=jnp.int32), n))
    places = jnp.pad(places, (0, -n % block), constant_values=n)

    def body(index: jax.Array, state: jax.Array) -> jax.Array:
        taken = jax.lax.dynamic_slice_in_dim(places, index * block, block)
        return step(state, jnp.minimum(taken, n - 1), taken < n)

    return jax.lax.fori_loop(0, (jnp.sum(chosen, dtype=jnp.int32) + block - 1) // block, body, start)
