"""ShuffleNetV2 with half the channels as torchvision has it.

References:
  Ma, Zhang, Zheng, Sun, 2018. ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design.
  https://arxiv.org/abs/1807.11164
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models._layers import max_pool
from transferjax.models.torch_layers import BatchNorm, conv, global_mean
from transferjax.types import ModelOutput

_STAGES = ((48, 4), (96, 8), (192, 4))


class ShuffleNetV2(nn.Module):
    """A network whose blocks work on half of the channels and then mix the halves.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 1024]."""

        def step(x: jax.Array, features: int, window: int, path: str, at: int, stride: int = 1) -> jax.Array:
            groups = features if window == 3 and path != "conv1" else 1
            x = conv(features, window, stride, groups=groups, name=f"{path}.{at}")(x)
            return BatchNorm(train, name=f"{path}.{at + 1}")(x)

        x = max_pool(nn.relu(step(images, 24, 3, "conv1", 0, 2)), 3, 2, 1)
        for stage, (channels, size) in enumerate(_STAGES, start=2):
            half = channels // 2
            for block in range(size):
                path, stride = f"stage{stage}.{block}", 2 if block == 0 else 1
                if stride == 2:
                    kept = step(x, x.shape[-1], 3, f"{path}.branch1", 0, stride)
                    kept, y = nn.relu(step(kept, half, 1, f"{path}.branch1", 2)), x
                else:
                    kept, y = x[..., :half], x[..., half:]
                y = nn.relu(step(y, half, 1, f"{path}.branch2", 0))
                y = step(y, half, 3, f"{path}.branch2", 3, stride)
                y = nn.relu(step(y, half, 1, f"{path}.branch2", 5))
                x = jnp.stack([kept, y], axis=-1).reshape(*y.shape[:-1], channels)  # one of each, in turns
        x = nn.relu(step(x, 1024, 1, "conv5", 0))
        features = global_mean(x, images=images.shape)
        logits = nn.Dense(self.num_classes, name="fc")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


SPECS = (
    ModelSpec(
        name="shufflenet_v2_x0_5",
        module=ShuffleNetV2,
        first_two_kernels=(("conv1.0", "kernel"), ("stage2.0.branch1.0", "kernel")),
        imagenet=torchvision("shufflenetv2_x0.5-f707e7126e.pth", accuracy=0.60552),
        head_path=("fc",),
    ),
)
