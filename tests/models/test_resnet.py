"""Residual networks against torchvision's values in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from transferjax import InputError, models
from transferjax.gradients import triplet_loss


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_is_torchvision_s(model_goldens, name):
    state_dict, images, golden = model_goldens[name]
    spec = models.get(name)
    variables = models.import_torch(name, state_dict)
    module = spec.build(num_classes=1000)
    labels = np.asarray(golden["labels"])

    @jax.jit
    def everything(variables, images):
        params = traverse_util.flatten_dict(variables["params"])

        def loss(kernels):
            replaced = {**params, **dict(zip(spec.first_two_kernels, kernels, strict=True))}
            output = models.run(module, {**variables, "params": traverse_util.unflatten_dict(replaced)}, images)
            return triplet_loss(output.features, labels), output

        kernels = [params[path] for path in spec.first_two_kernels]
        (value, output), gradients = jax.value_and_grad(loss, has_aux=True)(kernels)
        return output, value, jnp.stack([jnp.linalg.norm(gradient.ravel()) for gradient in gradients])

    output, loss, norms = everything(variables, images)
    assert output.features.shape == (golden["n"], golden["feature_dim"])
    for array, what in ((output.logits, "logits"), (output.features, "features")):
        expected = np.asarray(golden[f"{what}_first8"])
        np.testing.assert_allclose(array[:, :8], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), golden[f"{what}_norm"], rtol=1e-4)
    np.testing.assert_allclose(loss, golden["triplet_loss"], rtol=1e-5)
    np.testing.assert_allclose(norms, [golden["grad_norm_first"], golden["grad_norm_second"]], rtol=1e-3)
    np.testing.assert_allclose(norms[1] / norms[0], golden["gradient_ratio"], rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_kernels_and_head_are_the_published_ones(model_goldens, name):
    _, _, golden = model_goldens[name]
    spec = models.get(name)
    first, second = (spec.torch_key(("params", *path)) for path in spec.first_two_kernels)
    assert (first, second) == (f"{golden['first_conv']}.weight", f"{golden['second_conv']}.weight")
    assert spec.torch_key(("params", *spec.head_path, "kernel")) == f"{golden['head']}.weight"


@pytest.mark.parametrize("name", models.names())
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
    if width == 64:  # torchvision's counts, with 1000 classes
        counted = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) + (1000 - 5) * (
            output.features.shape[1] + 1
        )
        assert counted == {"resnet18": 11689512, "resnet34": 21797672, "resnet50": 25557032}[name]


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
    np.testing.assert_allclose(var, 0.9 + 0.1 * np.var(conv, axis=(0, 1, 2)), rtol=1e-4)


def test_an_option_that_is_not_there():
    with pytest.raises(InputError, match=r"resnet18: no option depth. It has: width"):
        models.get("resnet18").build(num_classes=2, depth=3)


def test_an_architecture_that_is_not_there():
    with pytest.raises(InputError, match=r"architecture: 'resnet19' is unknown.*resnet18"):
        models.get("resnet19")
