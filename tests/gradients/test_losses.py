"""The head's losses against scikit-learn, and as arguments of a compiled function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from sklearn.metrics import log_loss

from transferjax import gradients


def test_cross_entropy():
    rng = np.random.default_rng(0)
    features, kernel, bias = rng.standard_normal((7, 4)), rng.standard_normal((4, 3)), rng.standard_normal(3)
    labels = np.array([0, 1, 2, 2, 1, 0, 0])
    logits = features @ kernel + bias
    loss = gradients.on_head(jnp.asarray(kernel), jnp.asarray(bias))
    expected = log_loss(labels, scipy.special.softmax(logits, axis=1), labels=[0, 1, 2])
    np.testing.assert_allclose(loss(jnp.asarray(features), jnp.asarray(labels)), expected, rtol=1e-5)

    several = rng.integers(-1, 2, (7, 3))
    known = several >= 0
    expected = log_loss(several[known], scipy.special.expit(logits)[known])
    np.testing.assert_allclose(loss(jnp.asarray(features), jnp.asarray(several)), expected, rtol=1e-5)
    assert loss(jnp.asarray(features), -jnp.ones((7, 3), int)) == 0


def test_another_head_compiles_nothing_again():
    compiled = jax.jit(lambda loss, features, labels: loss(features, labels))
    features, labels = jnp.ones((5, 4)), jnp.asarray([0, 1, 2, 0, 1])
    values = {float(compiled(gradients.on_fresh_head(jax.random.key(i), 4, 3), features, labels)) for i in range(3)}
    assert len(values) == 3
    assert compiled._cache_size() == 1


def test_a_fresh_head_is_drawn_as_pytorch_does():
    kernel, bias = jax.tree.leaves(gradients.on_fresh_head(jax.random.key(0), 400, 50))
    for array in sorted((kernel, bias), key=np.ndim):
        assert 0.8 / 20 < float(jnp.abs(array).max()) <= 1 / 20
    assert abs(float(kernel.std() if kernel.ndim == 2 else bias.std()) - 1 / 20 / 3**0.5) < 1e-3
