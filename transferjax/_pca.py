"""Principal components as the randomised solver of scikit-learn finds them, on which published scores rest."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import _linalg

_OVERSAMPLES = 10


def randomized_components(
    features: jax.Array, k: int, *, seed: int, iterations: int | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what `sklearn.decomposition.PCA(k, svd_solver="randomized", random_state=seed).fit_transform` does.

    Block power iteration from random directions, which is not converged: the result hangs on the seed.

    Args:
      features: float [n, d].
      k: how many components, at most min(n, d).
      seed: of the directions, from NumPy's legacy generator, which is frozen: the same everywhere and always.
      iterations: of the power method; None for scikit-learn's choice, 7 if k is below a tenth of min(n, d), else 4.

    Returns:
      The examples in the components, float64 [n, k]; the variances, float64 [k], with n-1 as denominator; and the axes,
      float64 [d, k]. Signs are arbitrary. Call it inside `jax.enable_x64(True)`.

    References:
      Halko, Martinsson, Tropp, 2011. Finding structure with randomness. https://arxiv.org/abs/0909.4061
    """
    n, d = features.shape
    if iterations is None:
        iterations = 7 if k < 0.1 * min(n, d) else 4
    product = functools.partial(jnp.matmul, precision="highest")
    # scikit-learn keeps the directions apart by LU factors; any basis of the same space gives the same result
    basis = jnp.asarray(np.random.RandomState(seed).normal(size=(min(n, d), k + _OVERSAMPLES)))
    if n >= d:  # a chunk of examples at a time is centred and widened to float64
        mean = _linalg.fold_rows(_add_rows, jnp.zeros(d), features) / n
        for _ in range(iterations):
            basis = jnp.linalg.qr(_both_ways(features, mean, basis))[0]
        basis = jnp.linalg.qr(_linalg.map_rows(lambda row: product(row - mean, basis), features))[0]
        small = _projected(features, mean, basis)
    else:
        matrix = features.astype(jnp.float64)
        matrix = (matrix - jnp.mean(matrix, axis=0)).T
        for _ in range(iterations):
            basis = jnp.linalg.qr(product(matrix.T, product(matrix, basis)))[0]
        basis = jnp.linalg.qr(product(matrix, basis))[0]
        small = product(basis.T, matrix)
    # of this small matrix the decomposition of its products is as good: it is asked for its leading part only
    values, turn = jnp.linalg.eigh(product(small, small.T))
    values, turn = jnp.maximum(values[::-1][:k], 0), turn[:, ::-1][:, :k]
    left = product(basis, turn)  # of the matrix, as the axes of its columns
    if n >= d:
        scores, other = left * jnp.sqrt(values), product(small.T, turn)
        axes = other / jnp.where(values > 0, jnp.sqrt(jnp.where(values > 0, values, 1)), 1)
    else:
        scores, axes = product(small.T, turn), left
    return scores, values / max(n - 1, 1), axes


def _add_rows(total: jax.Array, rows: jax.Array, present: jax.Array) -> jax.Array:
    return total + jnp.matmul(present, rows, precision="highest")


def _both_ways(features: jax.Array, mean: jax.Array, basis: jax.Array) -> jax.Array:
    """Returns (X - mean)ᵀ·(X - mean)·basis."""

    def add(total: jax.Array, rows: jax.Array, present: jax.Array) -> jax.Array:
        centred = (rows - mean) * present[:, None]
        onward = jnp.matmul(centred, basis, precision="highest")
        return total + jnp.matmul(centred.T, onward, precision="highest")

    return _linalg.fold_rows(add, jnp.zeros(basis.shape), features)


def _projected(features: jax.Array, mean: jax.Array, basis: jax.Array) -> jax.Array:
    """Returns basisᵀ·(X - mean), for a basis [n, q]."""

    def add(total: jax.Array, rows: jax.Array, present: jax.Array, part: jax.Array) -> jax.Array:
        return total + jnp.matmul((part * present[:, None]).T, rows - mean, precision="highest")

    return _linalg.fold_rows(add, jnp.zeros((basis.shape[1], features.shape[1])), features, basis)


def default_solver_is_randomized(n: int, d: int, k: int) -> bool:
    """Returns whether scikit-learn's `PCA(k)`, which chooses its solver by the sizes, takes the randomised one."""
    tall = d <= 1000 and n >= 10 * d
    return not tall and max(n, d) > 500 and k < 0.8 * min(n, d)
