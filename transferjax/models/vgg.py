"""VGG with eleven layers, without BatchNorm, as torchvision has it.

References:
  Simonyan, Zisserman, 2014. Very Deep Convolutional Networks for Large-Scale Image Recognition.
  https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

import jax
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models._layers import max_pool
from transferjax.models.torch_layers import adaptive_avg_pool, check_size, conv
from transferjax.types import ModelOutput

# Channels by torchvision's index of the convolution; a map is halved after those below.
_CONVOLUTIONS = {0: 64, 3: 128, 6: 256, 8: 256, 11: 512, 13: 512, 16: 512, 18: 512}
_HALVED_AFTER = (0, 3, 8, 13, 18)
_HIDDEN, _DROPOUT = 4096, 0.5


class VGG(nn.Module):
    """Convolutions, pooling, and three dense layers.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 4096]."""
        x = images
        for index, channels in _CONVOLUTIONS.items():
            x = conv(channels, 3, bias=True, name=f"features.{index}")(x)
            if index in _HALVED_AFTER:
                x = max_pool(x, 2, 2, 0)
                check_size(x, images=images.shape)
            x = nn.relu(x)  # the same before pooling, and four times the work
        x = adaptive_avg_pool(x, 7).transpose(0, 3, 1, 2).reshape(len(x), -1)  # channels first, as its kernel has them
        for index in (0, 3):
            x = nn.relu(nn.Dense(_HIDDEN, name=f"classifier.{index}")(x))
            x = nn.Dropout(_DROPOUT, deterministic=not train)(x)
        logits = nn.Dense(self.num_classes, name="classifier.6")(x) if self.num_classes else x[:, :0]
        return ModelOutput(logits, x)


SPECS = (
    ModelSpec(
        name="vgg11",
        module=VGG,
        first_two_kernels=(("features.0", "kernel"), ("features.3", "kernel")),
        imagenet=torchvision("vgg11-8a719046.pth", accuracy=0.6902),
        head_path=("classifier.6",),
    ),
)
