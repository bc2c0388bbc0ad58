"""MobileNetV3, the small one, as torchvision has it.

References:
  Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam, 2019. Searching for MobileNetV3.
  https://arxiv.org/abs/1905.02244
"""

from __future__ import annotations

import functools

import jax
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models.torch_layers import SqueezeExcitation, conv_norm, global_mean
from transferjax.types import ModelOutput

# Of each block: window, expanded channels, channels, squeeze and excitation, activation, stride.
_BLOCKS = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)
_HIDDEN, _DROPOUT = 1024, 0.2


class Classifier(nn.Module):
    """The head: a hidden layer and the logits.

    Attributes:
      num_classes: k.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Features [b, 576] → logits [b, k]."""
        x = nn.hard_swish(nn.Dense(_HIDDEN, name="0")(features))
        x = nn.Dropout(_DROPOUT, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="3")(x)


class MobileNetV3(nn.Module):
    """A network of inverted residual blocks.

    The head is the whole classifier, its hidden layer included, and the features are what goes into that: the paper
    replaces it as a whole.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 576]."""
        step = functools.partial(conv_norm, train=train, momentum=0.01, epsilon=1e-3)
        x = nn.hard_swish(step(images, 16, 3, "features.0", 2))
        for index, (window, wide, channels, squeeze, activation, stride) in enumerate(_BLOCKS, start=1):
            path, act, y, at = f"features.{index}.block", getattr(nn, activation), x, 0
            if wide != x.shape[-1]:
                y, at = act(step(y, wide, 1, f"{path}.0")), 1
            y = act(step(y, wide, window, f"{path}.{at}", stride, groups=wide))
            if squeeze:
                at += 1
                y = SqueezeExcitation(_eighths(wide // 4), gate="hard_sigmoid", name=f"{path}.{at}")(y)
            y = step(y, channels, 1, f"{path}.{at + 1}")
            x = x + y if x.shape == y.shape else y
        x = nn.hard_swish(step(x, 576, 1, f"features.{len(_BLOCKS) + 1}"))
        features = global_mean(x, images=images.shape)
        if not self.num_classes:
            return ModelOutput(features[:, :0], features)
        return ModelOutput(Classifier(self.num_classes, name="classifier")(features, train=train), features)


def _eighths(channels: int) -> int:
    """Returns the nearest multiple of 8, but no less than nine tenths of it."""
    near = max(8, (channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


SPECS = (
    ModelSpec(
        name="mobilenet_v3_small",
        module=MobileNetV3,
        first_two_kernels=(("features.0.0", "kernel"), ("features.1.block.0.0", "kernel")),
        imagenet=torchvision("mobilenet_v3_small-047dcff4.pth", accuracy=0.67668),
        head_path=("classifier",),
        head=Classifier,
        logits_path=("classifier", "3"),
    ),
)
