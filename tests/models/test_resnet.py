"""Residual networks against torchvision's values in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from transferjax import InputError, models


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet18_28"])
@pytest.mark.parametrize("width", [4, 64])
def test_shapes(name, width):
    module = models.get(name).build(num_classes=5, width=width)
    images = jax.ShapeDtypeStruct((2, 40, 40, 3), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    output = jax.eval_shape(module.apply, variables, images)
    assert output.logits.shape == (2, 5)
    assert output.features.shape == (2, width * (32 if name == "resnet50" else 8))
    headless = module.clone(num_classes=0)
    assert jax.eval_shape(headless.init_with_output, jax.random.key(0), images)[0].logits.shape == (2, 0)


def test_training_updates_the_running_statistics():
    module = models.get("resnet18").build(num_classes=2, width=4)
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    source = models.random_source("thin", "resnet18", num_classes=2, seed=0, width=4)
    train = jax.jit(lambda variables: module.apply(variables, images, train=True, mutable=["batch_stats"]))
    _, updated = train(source.variables)
    padded = ((3, 3), (3, 3))
    conv = jax.lax.conv_general_dilated(
        images,
        source.variables["params"]["conv1"]["kernel"],
        (2, 2),
        padded,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean, var = (updated["batch_stats"]["bn1"][name] for name in ("mean", "var"))
    np.testing.assert_allclose(mean, 0.1 * np.mean(conv, axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var, 0.9 + 0.1 * np.var(conv, axis=(0, 1, 2), ddof=1), rtol=1e-4)


def test_an_option_that_is_not_there():
    with pytest.raises(InputError, match=r"resnet18: no option depth. It has: width"):
        models.get("resnet18").build(num_classes=2, depth=3)


def test_an_architecture_that_is_not_there():
    with pytest.raises(InputError, match=r"architecture: 'resnet19' is unknown.*resnet18"):
        models.get("resnet19")
