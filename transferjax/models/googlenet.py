"""GoogLeNet as torchvision has it, without the auxiliary heads of its training.

Its published weights want images with mean and standard deviation .5 in all channels. As torchvision's with
`transform_input`, the network takes images normalised as for ImageNet and makes those of them.

References:
  Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich, 2014. Going Deeper with Convolutions.
  https://arxiv.org/abs/1409.4842
  With BatchNorm, and 3x3 convolutions where the paper has 5x5, as in torchvision.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax.models._base import ModelSpec, torchvision
from transferjax.models._layers import max_pool
from transferjax.models.torch_layers import BatchNorm, ceil_max_pool, conv, global_mean
from transferjax.types import ModelOutput, Normalization

# Channels of 1x1 | 1x1 to 3x3 | 1x1 to 3x3 | pooling to 1x1; and what pools the map before.
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
_WINDOW_BEFORE = {"3a": 3, "4a": 3, "5a": 2}
_DROPOUT = 0.2
_IMAGENET = Normalization()


class GoogLeNet(nn.Module):
    """A network of inception blocks.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 1024]."""

        def basic(x: jax.Array, features: int, window: int, name: str, stride: int = 1) -> jax.Array:
            x = conv(features, window, stride, name=f"{name}.conv")(x)
            return nn.relu(BatchNorm(train, epsilon=1e-3, name=f"{name}.bn")(x))

        mean, std = (jnp.asarray(values, images.dtype) for values in (_IMAGENET.mean, _IMAGENET.std))
        x = (images * std + mean - 0.5) / 0.5
        x = ceil_max_pool(basic(x, 64, 7, "conv1", 2), 3, 2)
        x = basic(basic(x, 64, 1, "conv2"), 192, 3, "conv3")
        for name, (one, to_three, three, to_five, five, pooled) in _INCEPTIONS.items():
            if name in _WINDOW_BEFORE:
                x = ceil_max_pool(x, _WINDOW_BEFORE[name], 2)
            path = f"inception{name}"
            branches = [
                basic(x, one, 1, f"{path}.branch1"),
                basic(basic(x, to_three, 1, f"{path}.branch2.0"), three, 3, f"{path}.branch2.1"),
                basic(basic(x, to_five, 1, f"{path}.branch3.0"), five, 3, f"{path}.branch3.1"),
                basic(max_pool(x, 3, 1, 1), pooled, 1, f"{path}.branch4.1"),
            ]
            x = jnp.concatenate(branches, axis=-1)
        features = nn.Dropout(_DROPOUT, deterministic=not train)(global_mean(x, images=images.shape))
        logits = nn.Dense(self.num_classes, name="fc")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


SPECS = (
    ModelSpec(
        name="googlenet",
        module=GoogLeNet,
        first_two_kernels=(("conv1.conv", "kernel"), ("conv2.conv", "kernel")),
        imagenet=torchvision("googlenet-1378be20.pth", accuracy=0.69778),
        head_path=("fc",),
        torch_drops=("aux1.", "aux2."),
    ),
)
