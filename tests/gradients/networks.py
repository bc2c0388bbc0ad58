"""Small networks with every kind of layer whose kernel's gradient can be taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transferjax import models
from transferjax.models.resnet import BasicBlock, ResNet
from transferjax.types import ModelOutput


class Mixed(nn.Module):
    """Convolutions: strided, grouped, depthwise, dilated, pointwise, padded by name; and dense layers."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding=1, name="strided")(images))
        x = nn.relu(nn.Conv(12, (3, 3), feature_group_count=4, name="grouped")(x))
        x = nn.relu(nn.Conv(24, (3, 3), feature_group_count=12, padding="VALID", name="depthwise")(x))
        x = nn.relu(nn.Conv(6, (3, 2), kernel_dilation=(2, 1), padding=((1, 2), (0, 1)), name="dilated")(x))
        x = nn.relu(nn.Conv(10, (1, 1), use_bias=False, name="pointwise")(x))
        x = nn.relu(nn.Dense(7, name="dense_of_positions")(x))
        x = nn.relu(nn.Dense(9, name="dense")(jnp.mean(x, axis=(1, 2))))
        return ModelOutput(x[:, :0], x)


LAYERS = ("strided", "grouped", "depthwise", "dilated", "pointwise", "dense_of_positions", "dense")


def mixed(seed=0, *, size=13, dtype=np.float64):
    """The network, its variables, and normalised images."""
    module = Mixed()
    images = np.random.default_rng(seed).standard_normal((9, size, size, 3)).astype(dtype)
    variables = module.init(jax.random.key(seed), jnp.asarray(images[:1], jnp.float32))
    return module, jax.tree.map(lambda leaf: leaf.astype(dtype), variables), jnp.asarray(images)


def short(seed=0, *, size=21, width=8, b=9, dtype=np.float64):
    """A residual network of two blocks: what resnet18 has, and quickly compiled."""
    module = ResNet(num_classes=0, stage_sizes=(1, 1), block=BasicBlock, width=width)
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((b, size, size, 3)).astype(dtype)
    variables = module.init(jax.random.key(seed), jnp.asarray(images[:1], jnp.float32))
    return module, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables), jnp.asarray(images)


def resnet(seed=0, *, size=32, width=8, b=9, dtype=np.float64, name="resnet18"):
    """A thin residual network without a head, with running statistics that are not the identity."""
    source = models.random_source("thin", name, num_classes=3, seed=seed, width=width)
    rng = np.random.default_rng(seed)
    variables = {
        "params": {key: leaf for key, leaf in source.variables["params"].items() if key != "fc"},
        "batch_stats": jax.tree.map(
            lambda leaf: (leaf * rng.uniform(0.5, 1.5, leaf.shape) + rng.uniform(0, 0.1, leaf.shape)).astype(
                leaf.dtype
            ),
            source.variables["batch_stats"],
        ),
    }
    images = rng.standard_normal((b, size, size, 3)).astype(dtype)
    return (
        source.module.clone(num_classes=0),
        jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables),
        jnp.asarray(images),
    )
