"""The minimiser against SciPy's: the same steps, one for one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from transferjax.metrics._lbfgs import minimize
from transferjax.metrics.feature_quality import nca_loss_and_gradient


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def bumpy(x):
    return jnp.sum(jnp.arange(1, len(x) + 1) * x**4) + jnp.sum(jnp.cos(5 * x))


def steep(x):
    return jnp.sum(jnp.exp(x * jnp.linspace(0.1, 3, len(x)))) - jnp.sum(x)


def kinked(x):
    return jnp.sum(jnp.sqrt(1e-2 + x**2)) + 0.1 * jnp.sum(jnp.sin(20 * x))


def check(found, value_and_gradient, start, *, max_iterations, tolerance, atol):
    """Compares where both end, how, and after how many steps."""

    def evaluate(flat):
        value, gradient = value_and_gradient(jnp.asarray(flat.reshape(start.shape)))
        return float(value), np.asarray(gradient).ravel()

    options = {"maxiter": max_iterations, "ftol": tolerance, "gtol": tolerance}
    theirs = scipy.optimize.minimize(evaluate, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    assert int(found.iterations) == theirs.nit
    assert bool(found.finished) == (theirs.status == 0)
    np.testing.assert_allclose(found.value, theirs.fun, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.point.ravel(), theirs.x, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("fn", "counts"),
    [(rosenbrock, (4, 12)), (kinked, (3, 6)), (bumpy, (5, 50)), (steep, (5, 50))],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_takes_scipy_s_steps(fn, counts):
    """Side by side from twelve far starts, cut off early or ended by the tolerance.

    Along the valley of the first function, and over the kinks of the second, rounding grows from step to step: only
    their first steps can be compared to so many digits.
    """
    starts = 3 * np.random.default_rng(0).standard_normal((12, 6))
    counts = np.resize(counts, 12)
    with jax.enable_x64(True):
        value_and_gradient = jax.jit(jax.value_and_grad(fn))
        run = jax.jit(jax.vmap(lambda x, count: minimize(value_and_gradient, x, max_iterations=count, tolerance=1e-9)))
        found = run(jnp.asarray(starts), jnp.asarray(counts))
        for index, (start, count) in enumerate(zip(starts, counts, strict=True)):
            one = jax.tree.map(lambda part, index=index: part[index], found)
            check(one, value_and_gradient, start, max_iterations=count, tolerance=1e-9, atol=1e-7)


def test_takes_scipy_s_steps_with_a_full_memory():
    start = 3 * np.random.default_rng(0).standard_normal(30)
    with jax.enable_x64(True):
        value_and_gradient = jax.jit(jax.value_and_grad(rosenbrock))
        found = jax.jit(lambda x: minimize(value_and_gradient, x, max_iterations=40, tolerance=1e-9))(start)
        check(found, value_and_gradient, start, max_iterations=40, tolerance=1e-9, atol=1e-6)


def test_fits_the_map_as_scipy_does():
    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(3), 60)
    features = rng.standard_normal((60, 12)) + np.eye(3, 12)[labels]
    with jax.enable_x64(True):
        x, y = jnp.asarray(features - features.mean(axis=0)), jnp.asarray(labels)

        def value_and_gradient(transform):
            return nca_loss_and_gradient(transform, x, y)

        run = jax.jit(lambda start: minimize(value_and_gradient, start, max_iterations=15, tolerance=1e-5))
        for start in (np.eye(12), 3 * np.eye(12)):
            check(run(start), value_and_gradient, start, max_iterations=15, tolerance=1e-5, atol=1e-6)


def test_nowhere_to_go():
    """A flat function, one that is not finite, and a gradient that points the wrong way: the start is returned."""
    start = np.array([1e-9, -2e-9])  # near 0, so that the shortest of 20 steps is none that rounding takes away

    def run(kind):
        def value_and_gradient(x):
            return jnp.stack([3.0, jnp.nan, x @ x])[kind], jnp.stack([0 * x, x, -2 * x])[kind]

        return minimize(value_and_gradient, jnp.asarray(start), max_iterations=9, tolerance=1e-15)

    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(run))(jnp.arange(3))
    np.testing.assert_array_equal(found.point, np.tile(start, (3, 1)))
    assert not found.iterations.any()
    assert found.finished.all()
