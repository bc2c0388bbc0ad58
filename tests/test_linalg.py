"""Products of rows with themselves from their upper strips, against NumPy's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import _linalg


@pytest.mark.parametrize("r", [1, 2, 3, 4, 5, 6, 7, 9, 130])
def test_strips_make_up_the_whole_product(r):
    """Also where r is less than the number of strips or no multiple of it; the same above and below the diagonal."""
    rows = np.random.default_rng(r).standard_normal((8, r))
    with jax.enable_x64(True):
        found = np.asarray(_linalg.mirrored(_linalg.upper_products(jnp.asarray(rows))))
    np.testing.assert_allclose(found, rows.T @ rows, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found, found.T)


def test_class_scatter_in_chunks(monkeypatch):
    """Chunks of three rows, the last of which reaches back, give what one pass over all gives."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((11, 6)), np.arange(11) % 3
    means = np.stack([*(x[y == c].mean(axis=0) for c in range(3)), np.zeros(6)])
    monkeypatch.setattr(_linalg, "CHUNK_ELEMENTS", 3 * 4 * 6)
    with jax.enable_x64(True):
        counts, found, within = _linalg.class_scatter(jnp.asarray(x), jnp.asarray(y), num_classes=4)
    np.testing.assert_array_equal(counts, [4, 4, 3, 0])
    np.testing.assert_allclose(found, means, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(within, (x - means[y]).T @ (x - means[y]), rtol=1e-12, atol=1e-12)


def test_many_sets_of_rows_at_once():
    """As the bootstrap asks for."""
    rows = np.random.default_rng(0).standard_normal((3, 8, 10))
    with jax.enable_x64(True):
        found = jax.vmap(lambda rows: _linalg.mirrored(_linalg.upper_products(rows)))(jnp.asarray(rows))
    np.testing.assert_allclose(found, rows.transpose(0, 2, 1) @ rows, rtol=1e-12, atol=1e-12)
