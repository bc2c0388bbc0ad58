"""MNASNet of depth multiplier 1 as torchvision has it.

References:
  Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le, 2018. MnasNet: Platform-Aware Neural Architecture Search for Mobile.
  https://arxiv.org/abs/1807.11626
"""

from __future__ import annotations

import jax
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models.torch_layers import BatchNorm, conv, global_mean
from transferjax.types import ModelOutput

# Of each stack: channels, window, stride of the first, expansion, blocks.
_STACKS = ((24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3), (96, 3, 1, 6, 2), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1))
_MOMENTUM = 1 - 0.9997
_DROPOUT = 0.2


class MNASNet(nn.Module):
    """A network of inverted residual blocks.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 1280]."""

        def step(x: jax.Array, features: int, window: int, path: str, at: int, **options: int) -> jax.Array:
            x = conv(features, window, name=f"{path}.{at}", **options)(x)  # type: ignore[arg-type]
            return BatchNorm(train, momentum=_MOMENTUM, name=f"{path}.{at + 1}")(x)

        x = nn.relu(step(images, 32, 3, "layers", 0, stride=2))
        x = nn.relu(step(x, 32, 3, "layers", 3, groups=32))
        x = step(x, 16, 1, "layers", 6)
        for index, (features, window, first_stride, expansion, size) in enumerate(_STACKS, start=8):
            for block in range(size):
                path, stride = f"layers.{index}.{block}.layers", first_stride if block == 0 else 1
                wide = expansion * x.shape[-1]
                y = nn.relu(step(x, wide, 1, path, 0))
                y = nn.relu(step(y, wide, window, path, 3, stride=stride, groups=wide))
                y = step(y, features, 1, path, 6)
                x = x + y if x.shape == y.shape else y
        x = nn.relu(step(x, 1280, 1, "layers", 14))
        features = nn.Dropout(_DROPOUT, deterministic=not train)(global_mean(x, images=images.shape))
        logits = nn.Dense(self.num_classes, name="classifier.1")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


SPECS = (
    ModelSpec(
        name="mnasnet1_0",
        module=MNASNet,
        first_two_kernels=(("layers.0", "kernel"), ("layers.3", "kernel")),
        imagenet=torchvision("mnasnet1.0_top1_73.512-f206786ef8.pth", accuracy=0.73456),
        head_path=("classifier.1",),
    ),
)
