"""Residual networks as torchvision has them: resnet18, resnet34, resnet50.

References:
  He, Zhang, Ren, Sun, 2015. Deep Residual Learning for Image Recognition. https://arxiv.org/abs/1512.03385
  The stride of a bottleneck stands in its 3x3 convolution, as in torchvision ("ResNet v1.5").
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from transferjax.models._base import ModelSpec, Path, torch_key, torchvision
from transferjax.models._layers import max_pool
from transferjax.models.torch_layers import BatchNorm, conv, global_mean
from transferjax.types import ModelOutput

_EXPANSION = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [b, h, w, f] → [b, h/stride, w/stride, features]."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the block's output."""
        y = nn.relu(BatchNorm(train, name="bn1")(conv(self.features, 3, self.stride, name="conv1")(x)))
        y = BatchNorm(train, name="bn2")(conv(self.features, 3, name="conv2")(y))
        if x.shape != y.shape:
            x = conv(self.features, 1, self.stride, name="downsample_conv")(x)
            x = BatchNorm(train, name="downsample_bn")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: [b, h, w, f] → [b, h/stride, w/stride, 4·features]."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the block's output."""
        y = nn.relu(BatchNorm(train, name="bn1")(conv(self.features, 1, name="conv1")(x)))
        y = nn.relu(BatchNorm(train, name="bn2")(conv(self.features, 3, self.stride, name="conv2")(y)))
        y = BatchNorm(train, name="bn3")(conv(_EXPANSION * self.features, 1, name="conv3")(y))
        if x.shape != y.shape:
            x = conv(_EXPANSION * self.features, 1, self.stride, name="downsample_conv")(x)
            x = BatchNorm(train, name="downsample_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
      stage_sizes: blocks per stage.
      block: `BasicBlock` or `Bottleneck`.
      width: channels of the first stage; 64 in the published networks, less in small ones.
      small_images: whether it begins with a 3x3 convolution with stride 1 and without pooling, as for CIFAR and
        MedMNIST's images of 28 pixels.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    block: Callable[..., nn.Module]
    width: int = 64
    small_images: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Runs the network.

        Args:
          images: float [b, h, w, 3], normalised.
          train: normalise by the batch's statistics and update the running ones (`mutable=["batch_stats"]`).

        Returns:
          logits [b, k] and features [b, d], d = 8·width (32·width with bottlenecks).
        """
        x = conv(self.width, *((3, 1) if self.small_images else (7, 2)), name="conv1")(images)
        x = BatchNorm(train, name="bn1")(x)
        if not self.small_images:
            x = max_pool(x, 3, 2, 1)  # the same as after the ReLU, and a quarter of the work
        x = nn.relu(x)
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                x = self.block(self.width * 2**stage, stride, name=f"layer{stage + 1}_{index}")(x, train=train)
        features = global_mean(x, images=images.shape)
        logits = nn.Dense(self.num_classes, name="fc")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


def _torch_key(path: Path) -> str:
    """Maps ("params", "layer1_0", "downsample_conv", "kernel") to "layer1.0.downsample.0.weight", and so on."""
    collection, *modules, leaf = path
    renamed = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    parts = [m.replace("_", ".") if m.startswith("layer") else renamed.get(m, m) for m in modules]
    return torch_key((collection, *parts, leaf))


# In RadImageNet's files the layers are called by their places in a Sequential.
_RENAMES = tuple(
    (rf"^{at}\.", f"{name}.") for at, name in [(0, "conv1"), (1, "bn1"), *((i + 3, f"layer{i}") for i in range(1, 5))]
)


def _spec(
    name: str, stage_sizes: tuple[int, ...], block: type[nn.Module], file: str, accuracy: float
) -> tuple[ModelSpec, ModelSpec]:
    """Returns the network for images of 224 pixels, and MedMNIST's for images of 28."""
    common: dict[str, Any] = {
        "options": {"width": 64},
        "first_two_kernels": (("conv1", "kernel"), ("layer1_0", "conv1", "kernel")),
        "head_path": ("fc",),
        "torch_key": _torch_key,
    }
    large = ModelSpec(
        name=name,
        module=functools.partial(ResNet, stage_sizes=stage_sizes, block=block),
        torch_renames=_RENAMES,
        imagenet=torchvision(file, accuracy=accuracy),
        **common,
    )
    small = ModelSpec(
        name=f"{name}_28",
        module=functools.partial(ResNet, stage_sizes=stage_sizes, block=block, small_images=True),
        torch_renames=((r"\.shortcut\.", ".downsample."), (r"^linear\.", "fc.")),
        **common,
    )
    return large, small


SPECS = (
    *_spec("resnet18", (2, 2, 2, 2), BasicBlock, "resnet18-f37072fd.pth", 0.69758),
    *_spec("resnet34", (3, 4, 6, 3), BasicBlock, "resnet34-b627a593.pth", 0.73314),
    *_spec("resnet50", (3, 4, 6, 3), Bottleneck, "resnet50-0676ba61.pth", 0.7613),
)
