"""DenseNet-121 as torchvision has it.

References:
  Huang, Liu, van der Maaten, Weinberger, 2016. Densely Connected Convolutional Networks.
  https://arxiv.org/abs/1608.06993
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models._layers import max_pool
from transferjax.models.torch_layers import BatchNorm, check_size, conv, global_mean
from transferjax.types import ModelOutput

_GROWTH, _BOTTLENECK = 32, 4


class DenseNet(nn.Module):
    """A densely connected network.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
      block_sizes: layers per block.
    """

    num_classes: int
    block_sizes: tuple[int, ...] = (6, 12, 24, 16)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 1024]."""

        def norm(x: jax.Array, name: str) -> jax.Array:
            return nn.relu(BatchNorm(train, name=name)(x))

        x = norm(conv(2 * _GROWTH, 7, 2, name="features.conv0")(images), "features.norm0")
        x = max_pool(x, 3, 2, 1)
        for block, size in enumerate(self.block_sizes, start=1):
            for layer in range(1, size + 1):
                path = f"features.denseblock{block}.denselayer{layer}"
                y = norm(x, f"{path}.norm1")
                y = norm(conv(_BOTTLENECK * _GROWTH, 1, name=f"{path}.conv1")(y), f"{path}.norm2")
                x = jnp.concatenate([x, conv(_GROWTH, 3, name=f"{path}.conv2")(y)], axis=-1)
            if block < len(self.block_sizes):
                path = f"features.transition{block}"
                x = conv(x.shape[-1] // 2, 1, name=f"{path}.conv")(norm(x, f"{path}.norm"))
                x = nn.avg_pool(x, (2, 2), (2, 2))
                check_size(x, images=images.shape)
        features = global_mean(norm(x, "features.norm5"), images=images.shape)
        logits = nn.Dense(self.num_classes, name="classifier")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


SPECS = (
    ModelSpec(
        name="densenet121",
        module=DenseNet,
        first_two_kernels=(("features.conv0", "kernel"), ("features.denseblock1.denselayer1.conv1", "kernel")),
        imagenet=torchvision("densenet121-a639ec97.pth", accuracy=0.74434),
        head_path=("classifier",),
        torch_renames=(
            (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),  # as they were called before torchvision 0.3
            (r"^0\.", "features."),  # RadImageNet's: children of a Sequential
        ),
    ),
)
