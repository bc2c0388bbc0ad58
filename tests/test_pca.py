"""The randomised principal components of published scores are scikit-learn's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from sklearn.decomposition import PCA

from transferjax._pca import default_solver_is_randomized, randomized_components


@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
@pytest.mark.parametrize(("k", "iterations"), [(5, None), (12, None), (12, 1)])
def test_randomized_components_are_scikit_learn_s(shape, k, iterations):
    rng = np.random.default_rng(0)
    features = rng.standard_normal(shape) * np.linspace(3, 1, shape[1]) + 5
    with jax.enable_x64(True):
        found = randomized_components(jnp.asarray(features), k, seed=42, iterations=iterations)
    scores, variances, axes = map(np.asarray, found)
    model = PCA(k, svd_solver="randomized", random_state=42, iterated_power=iterations or "auto")
    expected = model.fit_transform(features)
    np.testing.assert_allclose(np.abs(scores), np.abs(expected), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(variances, model.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(np.abs(axes.T), np.abs(model.components_), rtol=1e-8, atol=1e-10)
    exact = PCA(k, svd_solver="full").fit(features).explained_variance_
    assert np.abs(variances / exact - 1).max() > 1e-6, "the test would not see another seed"


@pytest.mark.parametrize("shape", [(1100, 512), (500, 128), (600, 96), (501, 70), (6000, 96), (300, 512)])
def test_solver_is_chosen_as_by_scikit_learn(shape):
    features = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    fitted = PCA(64).fit(features)
    assert default_solver_is_randomized(*shape, 64) == (fitted._fit_svd_solver == "randomized")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for(platform):
    with jax.enable_x64(True):
        features = jax.ShapeDtypeStruct((90, 60), np.float32)
        fn = jax.jit(lambda x: randomized_components(x, 5, seed=0)[0])
        assert export.export(fn, platforms=[platform])(features).platforms == (platform,)
