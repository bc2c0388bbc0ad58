"""ViT-B/16 as torchvision has it.

It has one convolution; the "first two kernels" are the patch embedding's and that of the first block's queries, keys
and values.

References:
  Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, Unterthiner, Dehghani, Minderer, Heigold, Gelly, Uszkoreit,
  Houlsby, 2020. An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale. https://arxiv.org/abs/2010.11929
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax.models._base import ModelSpec, Path, torch_key, torchvision
from transferjax.models.torch_layers import check_size, conv
from transferjax.types import ModelOutput

_PATCH, _GRID = 16, 14  # patches of 16 pixels, 14 x 14 of them in the images it was trained on
_DIM, _HIDDEN, _HEADS, _LAYERS = 768, 3072, 12, 12
_norm = functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class ViT(nn.Module):
    """A transformer on patches.

    Images of another size than 224 pixels get the position embedding of their grid by bicubic interpolation.

    Attributes:
      num_classes: k; 0 for a network without a head, whose logits are empty.
      num_layers: blocks.
    """

    num_classes: int
    num_layers: int = _LAYERS

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> ModelOutput:
        """Images float [b, h, w, 3], normalised → logits [b, k] and features [b, 768], the class token's."""
        del train  # no BatchNorm, and torchvision's has no dropout
        x = conv(_DIM, _PATCH, _PATCH, bias=True, padding=0, name="conv_proj")(images)
        check_size(x, images=images.shape)
        b, *grid, _ = x.shape
        token = self.param("class_token", nn.initializers.zeros, (1, 1, _DIM))
        places = self.param("encoder.pos_embedding", nn.initializers.normal(0.02), (1, _GRID**2 + 1, _DIM))
        if tuple(grid) != (_GRID, _GRID):
            square = places[:, 1:].reshape(1, _GRID, _GRID, _DIM)
            square = jax.image.resize(square, (1, *grid, _DIM), "cubic", antialias=False)
            places = jnp.concatenate([places[:, :1], square.reshape(1, -1, _DIM)], axis=1)
        x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, _DIM)), x.reshape(b, -1, _DIM)], axis=1) + places
        for layer in range(self.num_layers):
            path = f"encoder.layers.encoder_layer_{layer}"
            x = x + _attention(_norm(name=f"{path}.ln_1")(x), f"{path}.self_attention")
            y = nn.Dense(_HIDDEN, name=f"{path}.mlp.0")(_norm(name=f"{path}.ln_2")(x))
            x = x + nn.Dense(_DIM, name=f"{path}.mlp.3")(nn.gelu(y, approximate=False))
        features = _norm(name="encoder.ln")(x)[:, 0]
        logits = nn.Dense(self.num_classes, name="heads.head")(features) if self.num_classes else features[:, :0]
        return ModelOutput(logits, features)


def _attention(x: jax.Array, path: str) -> jax.Array:
    """Returns the multi-head self-attention of [b, t, 768], its layers named after `path`; within a module only."""
    b, t, _ = x.shape
    three = nn.Dense(3 * _DIM, name=f"{path}.in_proj")(x).reshape(b, t, 3, _HEADS, _DIM // _HEADS)
    queries, keys, values = (three[:, :, index] for index in range(3))
    mixed = jax.nn.dot_product_attention(queries, keys, values)
    return nn.Dense(_DIM, name=f"{path}.out_proj")(mixed.reshape(b, t, _DIM))


def _torch_key(path: Path) -> str:
    return torch_key(path).replace(".in_proj.", ".in_proj_")


SPECS = (
    ModelSpec(
        name="vit_b_16",
        module=ViT,
        first_two_kernels=(
            ("conv_proj", "kernel"),
            ("encoder.layers.encoder_layer_0.self_attention.in_proj", "kernel"),
        ),
        imagenet=torchvision("vit_b_16-c867db91.pth", accuracy=0.81072),
        head_path=("heads.head",),
        torch_key=_torch_key,
        # as they were called before torchvision 0.12
        torch_renames=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    ),
)
