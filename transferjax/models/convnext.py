"""ConvNeXt, the tiny one, as torchvision has it.

References:
  Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, 2022. A ConvNet for the 2020s. https://arxiv.org/abs/2201.03545
"""

from __future__ import annotations

import functools

import jax
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models.torch_layers import StochasticDepth, conv, global_mean
from transferjax.types import ModelOutput

_STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))
_STOCHASTIC_DEPTH = 0.1
_norm = functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class Block(nn.Module):
    """A depthwise convolution and two dense layers on each pixel, beside a shortcut.

    Attributes:
      drop: how likely it is left out in training.
      train: whether it is.
    """

    drop: float
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h, w, c]."""
        c = x.shape[-1]
        y = conv(c, 7, groups=c, bias=True, name="block.0")(x)
        y = nn.Dense(4 * c, name="block.3")(_norm(name="block.2")(y))
        y = nn.Dense(c, name="block.5")(nn.gelu(y, approximate=False))
        y = y * self.param("layer_scale", nn.initializers.constant(1e-6), (c,))
        return x + StochasticDepth(self.drop, self.train)(y)


class ConvNeXt(nn.Module):
    """A network of depthwise convolutions and dense layers.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 768]."""
        count, total = 0, sum(size for _, size in _STAGES)
        x = images
        for stage, (features, size) in enumerate(_STAGES):
            path = f"features.{2 * stage}"
            if stage == 0:
                x = _norm(name=f"{path}.1")(conv(features, 4, 4, bias=True, padding=0, name=f"{path}.0")(x))
            else:
                x = conv(features, 2, 2, bias=True, padding=0, name=f"{path}.1")(_norm(name=f"{path}.0")(x))
            for index in range(size):
                drop = _STOCHASTIC_DEPTH * count / (total - 1)
                x, count = Block(drop, train, name=f"features.{2 * stage + 1}.{index}")(x), count + 1
        features = _norm(name="classifier.0")(global_mean(x, images=images.shape))
        logits = nn.Dense(self.num_classes, name="classifier.2")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


SPECS = (
    ModelSpec(
        name="convnext_tiny",
        module=ConvNeXt,
        first_two_kernels=(("features.0.0", "kernel"), ("features.1.0", "block.0", "kernel")),
        imagenet=torchvision("convnext_tiny-983f1562.pth", accuracy=0.8252),
        head_path=("classifier.2",),
    ),
)
