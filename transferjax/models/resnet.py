"""Residual networks as torchvision has them: resnet18, resnet34, resnet50.

References:
  He, Zhang, Ren, Sun, 2015. Deep Residual Learning for Image Recognition. https://arxiv.org/abs/1512.03385
  The stride of a bottleneck stands in its 3x3 convolution, as in torchvision ("ResNet v1.5").
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax.models._base import ModelSpec, Path
from transferjax.models._layers import conv_general_dilated, max_pool
from transferjax.types import ModelOutput

# PyTorch initialises convolutions of a ResNet by the fan-out, for ReLU.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_EXPANSION = 4


def _conv(features: int, size: int, stride: int = 1, *, name: str) -> nn.Conv:
    padding = (size - 1) // 2  # the same on both sides, as PyTorch does; Flax's "SAME" differs for stride 2
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        use_bias=False,
        kernel_init=_KERNEL_INIT,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def _norm(train: bool, *, name: str) -> nn.BatchNorm:
    # PyTorch's momentum .1 weighs the new value, Flax's .9 the old one.
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [b, h, w, f] → [b, h/stride, w/stride, features]."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the block's output."""
        y = nn.relu(_norm(train, name="bn1")(_conv(self.features, 3, self.stride, name="conv1")(x)))
        y = _norm(train, name="bn2")(_conv(self.features, 3, name="conv2")(y))
        if x.shape != y.shape:
            x = _conv(self.features, 1, self.stride, name="downsample_conv")(x)
            x = _norm(train, name="downsample_bn")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: [b, h, w, f] → [b, h/stride, w/stride, 4·features]."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the block's output."""
        y = nn.relu(_norm(train, name="bn1")(_conv(self.features, 1, name="conv1")(x)))
        y = nn.relu(_norm(train, name="bn2")(_conv(self.features, 3, self.stride, name="conv2")(y)))
        y = _norm(train, name="bn3")(_conv(_EXPANSION * self.features, 1, name="conv3")(y))
        if x.shape != y.shape:
            x = _conv(_EXPANSION * self.features, 1, self.stride, name="downsample_conv")(x)
            x = _norm(train, name="downsample_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network, in inference equal to torchvision's.

    In training the running variance takes the batch's biased variance, as Flax does, where PyTorch takes the unbiased.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
      stage_sizes: blocks per stage.
      block: `BasicBlock` or `Bottleneck`.
      width: channels of the first stage; 64 in the published networks, less in small ones.
    """

    num_classes: int
    stage_sizes: tuple[int, ...]
    block: Callable[..., nn.Module]
    width: int = 64

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Runs the network.

        Args:
          images: float [b, h, w, 3], normalised.
          train: normalise by the batch's statistics and update the running ones (`mutable=["batch_stats"]`).

        Returns:
          logits [b, k] and features [b, d], d = 8·width (32·width with bottlenecks).
        """
        x = _conv(self.width, 7, 2, name="conv1")(images)
        x = _norm(train, name="bn1")(x)
        x = nn.relu(max_pool(x, 3, 2, 1))  # the same as the other way round, and a quarter of the work
        for stage, size in enumerate(self.stage_sizes):
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                x = self.block(self.width * 2**stage, stride, name=f"layer{stage + 1}_{index}")(x, train=train)
        features = jnp.mean(x, axis=(1, 2))
        logits = nn.Dense(self.num_classes, name="fc")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


def _torch_key(path: Path) -> str:
    """Maps ("params", "layer1_0", "downsample_conv", "kernel") to "layer1.0.downsample.0.weight", and so on."""
    *modules, leaf = path[1:]
    leaf = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
    renamed = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    parts = [m.replace("_", ".") if m.startswith("layer") else renamed.get(m, m) for m in modules]
    return ".".join([*parts, leaf])


def _spec(name: str, stage_sizes: tuple[int, ...], block: type[nn.Module]) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(ResNet, stage_sizes=stage_sizes, block=block),
        options={"width": 64},
        first_two_kernels=(("conv1", "kernel"), ("layer1_0", "conv1", "kernel")),
        head_path=("fc",),
        torch_key=_torch_key,
    )


SPECS = (
    _spec("resnet18", (2, 2, 2, 2), BasicBlock),
    _spec("resnet34", (3, 4, 6, 3), BasicBlock),
    _spec("resnet50", (3, 4, 6, 3), Bottleneck),
)
