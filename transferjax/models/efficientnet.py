"""EfficientNetV2, the small one, as torchvision has it.

References:
  Tan, Le, 2021. EfficientNetV2: Smaller Models and Faster Training. https://arxiv.org/abs/2104.00298
"""

from __future__ import annotations

import functools

import jax
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models.torch_layers import SqueezeExcitation, StochasticDepth, conv_norm, global_mean
from transferjax.types import ModelOutput

# Of each stage: whether expansion and 3x3 are one convolution, expansion, stride of the first, channels, blocks.
_STAGES = (
    (True, 1, 1, 24, 2),
    (True, 4, 2, 48, 4),
    (True, 4, 2, 64, 4),
    (False, 4, 2, 128, 6),
    (False, 6, 1, 160, 9),
    (False, 6, 2, 256, 15),
)
_DROPOUT, _STOCHASTIC_DEPTH = 0.2, 0.2


class EfficientNetV2(nn.Module):
    """A network of inverted residual blocks, the first of which are fused.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 1280]."""
        step = functools.partial(conv_norm, train=train, epsilon=1e-3)
        x = nn.silu(step(images, 24, 3, "features.0", 2))
        count, total = 0, sum(stage[-1] for stage in _STAGES)
        for index, (fused, expansion, first_stride, features, size) in enumerate(_STAGES, start=1):
            for block in range(size):
                path, stride = f"features.{index}.{block}.block", first_stride if block == 0 else 1
                channels = x.shape[-1]
                wide = expansion * channels
                if fused:
                    y = nn.silu(step(x, wide, 3, f"{path}.0", stride))
                    if wide != channels:
                        y = step(y, features, 1, f"{path}.1")
                else:
                    y = nn.silu(step(x, wide, 1, f"{path}.0"))
                    y = nn.silu(step(y, wide, 3, f"{path}.1", stride, groups=wide))
                    y = SqueezeExcitation(max(1, channels // 4), activation="silu", name=f"{path}.2")(y)
                    y = step(y, features, 1, f"{path}.3")
                if x.shape == y.shape:
                    y = x + StochasticDepth(_STOCHASTIC_DEPTH * count / total, train)(y)
                x, count = y, count + 1
        x = nn.silu(step(x, 1280, 1, f"features.{len(_STAGES) + 1}"))
        features = nn.Dropout(_DROPOUT, deterministic=not train)(global_mean(x, images=images.shape))
        logits = nn.Dense(self.num_classes, name="classifier.1")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


SPECS = (
    ModelSpec(
        name="efficientnet_v2_s",
        module=EfficientNetV2,
        first_two_kernels=(("features.0.0", "kernel"), ("features.1.0.block.0.0", "kernel")),
        imagenet=torchvision("efficientnet_v2_s-dd5fe13b.pth", accuracy=0.84228),
        head_path=("classifier.1",),
    ),
)
