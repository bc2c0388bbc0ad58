"""Batches as published."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import InputError
from transferjax.gradients import kernel_gradient_norms, triplet_loss
from transferjax.gradients.ratio import batch_bounds


def test_six_batches_and_a_tail():
    assert batch_bounds(20) == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15), (15, 18), (18, 20)]
    assert batch_bounds(18) == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15), (15, 18)]


def test_too_few_examples():
    with pytest.raises(InputError, match=r"17 are too few\. gradient_ratio needs at least 18"):
        batch_bounds(17)


def test_norms_of_a_linear_map_and_any_loss():
    rng = np.random.default_rng(0)
    x, w, v = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((8, 5), (5, 4), (4, 3)))
    labels = jnp.asarray([0, 1] * 4)
    features, norms = kernel_gradient_norms(lambda kernels: jnp.tanh(x @ kernels[0]) @ kernels[1], (w, v), labels)
    np.testing.assert_allclose(features, jnp.tanh(x @ w) @ v, rtol=1e-6)
    expected = jax.grad(lambda w, v: triplet_loss(jnp.tanh(x @ w) @ v, labels), argnums=(0, 1))(w, v)
    np.testing.assert_allclose(norms, [jnp.linalg.norm(g) for g in expected], rtol=1e-6)
    _, norms = kernel_gradient_norms(lambda k: x @ k[0], (w,), labels, loss=lambda f, _: jnp.sum(f))
    np.testing.assert_allclose(norms, [jnp.linalg.norm(jnp.sum(x, axis=0)[:, None] * jnp.ones(4))], rtol=1e-6)
