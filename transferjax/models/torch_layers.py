"""Layers as PyTorch and torchvision have them, in Flax: what the families are built of.

Modules carry torchvision's names, dots included, so that a path of Flax's is a key of PyTorch's (`_base.torch_key`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax._validate import fail
from transferjax.models._layers import conv_general_dilated, max_pool

# PyTorch's networks are initialised by the fan-out, for ReLU. Flax traces it at every pass, only for the shape: once
# each is enough.
_KERNEL_INIT = jax.jit(nn.initializers.variance_scaling(2.0, "fan_out", "normal"), static_argnums=(1, 2))


def conv(
    features: int,
    window: int,
    stride: int = 1,
    *,
    name: str,
    groups: int = 1,
    bias: bool = False,
    padding: int | str | None = None,
) -> nn.Conv:
    """Returns `Conv2d`: [b, h, w, c] → [b, oh, ow, features], the same padding on both sides.

    Args:
      features: of the output.
      window: height and width of the kernel.
      stride: down and across.
      name: torchvision's.
      groups: of channels; as many as there are channels for a depthwise convolution.
      bias: whether there is one.
      padding: on all sides; half the window if None. Flax's "SAME", which is TensorFlow's, differs for stride 2.
    """
    if padding is None:
        padding = (window - 1) // 2
    return nn.Conv(
        features,
        (window, window),
        strides=stride,
        padding=padding if isinstance(padding, str) else ((padding, padding), (padding, padding)),
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=_KERNEL_INIT,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the batch's own statistics. No gradient goes through the statistics that are returned.

    Differentiated by hand, it goes backwards through the batch three times, automatically some five times.

    Args:
      x: float [..., c].
      scale: [c].
      bias: [c].
      epsilon: added to the variance.

    Returns:
      What is normalised, [..., c], and over all axes but the last the mean and the biased variance, [c].
    """
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    var = jnp.mean(jnp.square(x - mean), axes)
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias, mean, var


def _normalised_forwards(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[Any, Any]:
    found = batch_normalised(x, scale, bias, epsilon)
    _, mean, var = found
    return found, (x, mean, jax.lax.rsqrt(var + epsilon), scale, bias)


def _normalised_backwards(epsilon: float, kept: Any, pulls: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale, bias = kept
    pull, axes = pulls[0], tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    centred = x - mean
    of_bias = jnp.sum(pull, axes)
    along = jnp.sum(pull * centred, axes) * inverse
    of_x = (pull - of_bias / count - centred * (along * inverse / count)) * (scale * inverse)
    return of_x.astype(x.dtype), along.astype(scale.dtype), of_bias.astype(bias.dtype)


batch_normalised.defvjp(_normalised_forwards, _normalised_backwards)


class BatchNorm(nn.Module):
    """PyTorch's: unlike Flax's, the running variance takes the batch's unbiased one.

    Attributes:
      train: whether to normalise by the batch's statistics and to update the running ones.
      momentum: how much the new value weighs, as in PyTorch.
      epsilon: added to the variance.
    """

    train: bool
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., c] over all axes but the last."""
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if not self.train:
            mean, var = running_mean.value, running_var.value
            return (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        normalised, mean, var = batch_normalised(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            count = x.size // x.shape[-1]
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (unbiased - running_var.value)
        return normalised


def conv_norm(
    x: jax.Array,
    features: int,
    window: int,
    path: str,
    stride: int = 1,
    *,
    train: bool,
    groups: int = 1,
    momentum: float = 0.1,
    epsilon: float = 1e-5,
) -> jax.Array:
    """Returns torchvision's `Conv2dNormActivation` of [b, h, w, c], without the activation; within a module only."""
    x = conv(features, window, stride, groups=groups, name=f"{path}.0")(x)
    return BatchNorm(train, momentum=momentum, epsilon=epsilon, name=f"{path}.1")(x)


class StochasticDepth(nn.Module):
    """Drops a block for some of the examples in training, and scales it up for the others.

    Attributes:
      rate: how likely a block is dropped.
      train: without, nothing is done.
    """

    rate: float
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, ...]; needs an rng called "dropout" in training."""
        if not self.train or self.rate == 0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (len(x), *[1] * (x.ndim - 1)))
        return jnp.where(keep, x / (1 - self.rate), 0)


class SqueezeExcitation(nn.Module):
    """Scales each channel by what a small network makes of all channels' means.

    Attributes:
      squeezed: channels in between.
      activation: after the first layer.
      gate: after the second.
    """

    squeezed: int
    activation: str = "relu"
    gate: str = "sigmoid"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [b, h, w, c]."""
        scale = jnp.mean(x, axis=(1, 2), keepdims=True)
        scale = getattr(nn, self.activation)(conv(self.squeezed, 1, bias=True, name="fc1")(scale))
        return x * getattr(nn, self.gate)(conv(x.shape[-1], 1, bias=True, name="fc2")(scale))


def ceil_max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Returns `MaxPool2d(window, stride, ceil_mode=True)` of [b, h, w, c]: the last window may reach over the edge."""
    pads = []
    for size in x.shape[1:3]:
        outputs = max(-(-(size - window) // stride), 0) + 1
        pads.append((0, max((outputs - 1) * stride + window - size, 0)))
    return max_pool(jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf), window, stride, 0)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Returns `AdaptiveAvgPool2d(size)` of [b, h, w, c]: means over windows that cover the map, also a smaller one."""

    def means(length: int) -> jax.Array:
        rows = [
            [1 / (end - start) if start <= place < end else 0.0 for place in range(length)]
            for start, end in ((i * length // size, -(-(i + 1) * length // size)) for i in range(size))
        ]
        return jnp.asarray(rows, x.dtype)

    if x.shape[1:3] == (size, size):
        return x
    return jnp.einsum("bhwc,ih,jw->bijc", x, means(x.shape[1]), means(x.shape[2]), precision="highest")


def global_mean(x: jax.Array, *, images: Sequence[int]) -> jax.Array:
    """Returns the mean over the map: [b, h, w, c] → [b, c].

    Raises:
      InputError: nothing is left of the map; names the shape of the `images`.
    """
    check_size(x, images=images)
    return jnp.mean(x, axis=(1, 2))


def check_size(x: jax.Array, *, images: Sequence[int]) -> None:
    """Raises `InputError` if nothing is left of the map x [b, h, w, c] of images of shape [b, h, w, 3]."""
    if 0 in x.shape[1:3]:
        size = " x ".join(map(str, images[1:3]))
        raise fail("image_size", f"{size} pixels are too few for this network", "Take larger ones, e.g. 64.")
