"""Every architecture against torchvision's values in float64, and through files."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from tests.conftest import GOLDEN
from tests.models.torch_files import write_zip
from transferjax import InputError, models
from transferjax.gradients import triplet_loss

NAMES = tuple(json.loads((GOLDEN / "models.json").read_text())["models"])
# torchvision's numbers of parameters, with 1000 classes
PARAMETERS = {
    "convnext_tiny": 28_589_128,
    "densenet121": 7_978_856,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_v2_s": 21_458_488,
    "googlenet": 6_624_904,
    "mnasnet1_0": 4_383_312,
    "mobilenet_v3_small": 2_542_856,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "shufflenet_v2_x0_5": 1_366_792,
    "vgg11": 132_863_336,
    "vit_b_16": 86_567_656,
}


def everything(spec, variables, images, labels, num_classes=1000):
    """Output, triplet loss and the norms of its gradients at the first two kernels."""
    module = spec.build(num_classes=num_classes)

    def compute(variables, images):
        params = traverse_util.flatten_dict(variables["params"])

        def loss(kernels):
            replaced = {**params, **dict(zip(spec.first_two_kernels, kernels, strict=True))}
            output = models.run(module, {**variables, "params": traverse_util.unflatten_dict(replaced)}, images)
            return triplet_loss(output.features, labels), output

        kernels = [params[path] for path in spec.first_two_kernels]
        (value, output), gradients = jax.value_and_grad(loss, has_aux=True)(kernels)
        return output, value, jnp.stack([jnp.linalg.norm(gradient.ravel()) for gradient in gradients])

    with jax.default_matmul_precision("highest"):
        return jax.jit(compute)(variables, images)


@pytest.mark.parametrize("architecture", NAMES)
def test_is_torchvision_s(model_goldens, architecture):
    state_dict, images, golden = model_goldens[architecture]
    spec = models.get(architecture)
    output, loss, norms = everything(
        spec, models.import_torch(architecture, state_dict), images, np.asarray(golden["labels"])
    )
    assert output.features.shape == (golden["n"], golden["feature_dim"])
    for array, what in ((output.logits, "logits"), (output.features, "features")):
        expected = np.asarray(golden[f"{what}_first8"])
        np.testing.assert_allclose(array[:, :8], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), golden[f"{what}_norm"], rtol=1e-4)
    np.testing.assert_allclose(loss, golden["triplet_loss"], rtol=1e-5)
    np.testing.assert_allclose(norms, [golden["grad_norm_first"], golden["grad_norm_second"]], rtol=1e-3)
    np.testing.assert_allclose(norms[1] / norms[0], golden["gradient_ratio"], rtol=1e-3)


@pytest.mark.parametrize("architecture", NAMES)
def test_kernels_and_head_are_the_published_ones(model_goldens, architecture):
    _, _, golden = model_goldens[architecture]
    spec = models.get(architecture)
    first, second = (spec.torch_key(("params", *path)) for path in spec.first_two_kernels)
    assert (first, second) == (f"{golden['first_conv']}.weight", f"{golden['second_conv']}.weight")
    assert spec.torch_key(("params", *spec.head_path, "")).removesuffix(".") == golden["head"]


LIGHT = ("mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5")


@pytest.mark.parametrize(
    "architecture", [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_through_files(model_goldens, architecture, tmp_path):
    """PyTorch's file and a safetensors file give the same bits as the arrays; and what is saved reads back."""
    state_dict, _, _ = model_goldens[architecture]
    counted = dict(state_dict)
    for key in state_dict:
        if key.endswith("running_var"):
            counted[key.replace("running_var", "num_batches_tracked")] = np.asarray(7, np.int64)
    write_zip(tmp_path / "a.pth", counted)
    safetensors.numpy.save_file(state_dict, tmp_path / "b.safetensors")
    variables = models.import_torch(architecture, state_dict)
    expected = models.make_source("x", architecture, variables)
    for file in ("a.pth", "b.safetensors"):
        source, report = models.load_and_report(f"{architecture}:{tmp_path / file}")
        assert source.weights_hash == expected.weights_hash
        assert set(report.matched.values()) == set(state_dict)
        assert len(report.dropped) == (len(counted) - len(state_dict) if file == "a.pth" else 0)
    models.save(tmp_path / "own.safetensors", source)
    assert models.load(tmp_path / "own.safetensors").weights_hash == expected.weights_hash


@pytest.mark.parametrize("architecture", sorted(PARAMETERS))
def test_shapes(architecture):
    spec = models.get(architecture)
    module = spec.build(num_classes=1000)
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    output = jax.eval_shape(module.apply, variables, images)
    assert output.logits.shape == (2, 1000)
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[architecture]
    headless = module.clone(num_classes=0)
    without = jax.eval_shape(headless.init_with_output, jax.random.key(0), images)
    assert without[0].logits.shape == (2, 0)
    kept = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(dict(variables["params"])).items()
        if path[: len(spec.head_path)] != spec.head_path
    }
    assert kept == traverse_util.flatten_dict(dict(without[1]["params"]))
    assert {(*spec.bias_path,), *spec.first_two_kernels} <= set(traverse_util.flatten_dict(dict(variables["params"])))


@pytest.mark.parametrize("architecture", sorted(PARAMETERS))
def test_training_mode_runs(architecture):
    """With dropout and stochastic depth, which need randomness; the running statistics change."""
    spec = models.get(architecture)
    module = spec.build(num_classes=3)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)

    def train(variables, images):
        rngs = {"dropout": jax.random.key(1)}
        return module.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    output, updated = jax.eval_shape(train, variables, images)
    assert output.logits.shape == (2, 3)
    assert jax.tree.structure(updated.get("batch_stats", {})) == jax.tree.structure(variables.get("batch_stats", {}))


@pytest.mark.parametrize("architecture", ["vgg11", "densenet121"])
def test_images_that_are_too_small(architecture):
    module = models.get(architecture).build(num_classes=3)
    with pytest.raises(InputError, match="28 x 28 pixels are too few"):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 3), np.float32))
