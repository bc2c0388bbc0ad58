"""A small target and a small source, for tests of training."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from flax import linen as nn

from transferjax import models
from transferjax.models.torch_layers import BatchNorm, conv
from transferjax.training.prepare import Splits
from transferjax.types import ModelOutput, TargetDataset

ARCHITECTURE = "tiny"


class Tiny(nn.Module):
    """Two strided convolutions with BatchNorm: compiled in a second or two."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        x = nn.relu(BatchNorm(train, name="bn1")(conv(6, 4, 4, padding=0, name="conv1")(images)))
        x = nn.relu(BatchNorm(train, name="bn2")(conv(8, 2, 2, padding=0, name="conv2")(x)))
        features = x.mean(axis=(1, 2))
        logits = nn.Dense(self.num_classes, name="fc")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


def target(n=24, *, seed=0, classes=2, size=16, multilabel=False):
    """Class j has more of the j-th colour; as labels, each colour by itself, some unknown."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (n, size, size, 3)).astype(np.uint8)
    if multilabel:
        labels = rng.integers(0, 2, (n, classes)).astype(np.int8)
        labels[:2] = [[0] * classes, [1] * classes]
    else:
        labels = np.resize(np.arange(classes), n).astype(np.int32)
    has = labels == 1 if multilabel else labels[:, None] == np.arange(classes)
    for j in range(classes):
        images[has[:, j], :, :, j] += 40
    if multilabel:
        labels[2::5, 0] = -1
    return TargetDataset(
        name="colours",
        images=images,
        labels=labels,
        class_names=tuple(f"colour {j}" for j in range(classes)),
        task="multilabel" if multilabel else ("binary" if classes == 2 else "multiclass"),
    )


def splits(n=24, **options):
    return Splits(
        train=target(n, seed=0, **options), val=target(12, seed=1, **options), test=target(14, seed=2, **options)
    )


def source(seed=0):
    """Of random weights."""
    if ARCHITECTURE not in models.names():  # not while tests are collected, some of which take all names there are
        models.register(
            dataclasses.replace(
                models.get("resnet18"),
                name=ARCHITECTURE,
                module=Tiny,
                options={},
                first_two_kernels=(("conv1", "kernel"), ("conv2", "kernel")),
                imagenet=None,
            )
        )
    return models.random_source(f"random {seed}", ARCHITECTURE, num_classes=4, seed=seed)
