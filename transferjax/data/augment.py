"""Augmentation of batches on the device, with a key for each image.

    images = augment(images, key, size=224)

turns uint8 [b, h, w, 3] into float32 [b, 224, 224, 3]: each image flipped, cropped and resized, turned, sharpened, its
contrast stretched and its histogram made even, or not, as its key has it, in the order and with the arithmetic of
torchvision's v2 transforms on uint8 tensors:

    RandomHorizontalFlip(0.5), RandomResizedCrop(224, antialias=True), RandomRotation((0, 5)),
    RandomAdjustSharpness(2, p=0.5), RandomAutocontrast(0.5), RandomEqualize(0.5), ToDtype(float32, scale=True),
    Normalize(mean, std)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transferjax._validate import fail, positive
from transferjax.data import _image_ops as ops
from transferjax.data._image_ops import autocontrast, equalize, flip, resized_crop, rotate, sharpness
from transferjax.data._recipes import PAPER, SMALL, Parameters, Recipe, draw
from transferjax.types import Normalization

__all__ = [
    "PAPER",
    "SMALL",
    "Parameters",
    "Recipe",
    "Step",
    "apply",
    "augment",
    "autocontrast",
    "draw",
    "equalize",
    "flip",
    "resized_crop",
    "rotate",
    "sharpness",
    "steps",
    "tones",
]

_IMAGENET = Normalization()


class Step(NamedTuple):
    """What is done to images uint8 [h, w, 3], in two parts.

    Attributes:
      plan: from an image and its parameters to few numbers: whatever can be known before a pixel is made.
      act: from an image and its plan to the image.
    """

    plan: Callable[[jax.Array, Parameters], Any]
    act: Callable[[jax.Array, Any], jax.Array]


def steps(size: int, recipe: Recipe = PAPER) -> list[Step]:
    """Returns what is done, in this order. Steps of probability 0 are left out, whatever the parameters say."""

    def columns(image: jax.Array, p: Parameters) -> ops.Taps:
        return ops.taps_of(p.left, p.width, extent=image.shape[1], size=size)

    def rows(image: jax.Array, p: Parameters) -> ops.Taps:
        return ops.taps_of(p.top, p.height, extent=image.shape[0], size=size)

    found = [
        Step(columns, functools.partial(ops.resample, axis=1)),
        Step(rows, functools.partial(ops.resample, axis=0)),
    ]
    if recipe.flip:
        found.insert(0, Step(lambda _, p: p.flip, lambda image, does: jnp.where(does, flip(image), image)))
    if recipe.degrees != (0, 0):
        found.append(Step(lambda _, p: p.degrees, rotate))
    if recipe.sharpness:
        found.append(Step(lambda _, p: jnp.where(p.sharpness, recipe.sharpness_factor, 1), sharpness))
    if recipe.autocontrast or recipe.equalize:
        found.append(Step(tones, ops.lookup))
    return found


def tones(image: jax.Array, parameters: Parameters) -> jax.Array:
    """Returns what `autocontrast`, then `equalize`, where there are to be, make of each value: uint8 [3, 256].

    Autocontrast keeps different values different, and their order; equalize looks at nothing else. So where it acts at
    all, it makes the same of an image before and after autocontrast.
    """
    counts = ops.histogram(image)
    table = jnp.where(parameters.autocontrast, ops.autocontrast_table(counts), ops.unchanged(image.shape[2]))
    return jnp.where(parameters.equalize, ops.equalize_table(counts, table), table)


@functools.partial(jax.jit, static_argnames=("size", "recipe"))
def augment(
    images: jax.Array,
    key: jax.Array,
    *,
    size: int,
    recipe: Recipe = PAPER,
    normalization: Normalization | None = _IMAGENET,
) -> jax.Array:
    """Augments a batch.

    Args:
      images: uint8 [b, h, w, 3].
      key: one key for each image, [b]: what becomes of an image depends on its key alone, whichever batch it is in. Or
        one for the batch, from which image i has `fold_in(key, i)`.
      size: height and width of the result; static.
      recipe: see `Recipe`; static. `PAPER` for images of 224 pixels, `SMALL` for those of 28.
      normalization: whose mean, std and order of channels are taken; or None for bytes that something else will
        normalise, such as `transferjax.models.preprocessing.normalize`, which can do more.

    Returns:
      float32 [b, size, size, 3], `(image / 255 - mean) / std`; uint8 if `normalization` is None.

    Raises:
      InputError: other images or keys; or a `normalization` to grey, or to another size.
    """
    _check(images, size, normalization)
    keys = _keys(key, len(images))
    _, height, width, _ = images.shape
    parameters = jax.vmap(lambda own: draw(own, recipe, height=height, width=width))(keys)
    return apply(images, parameters, size=size, recipe=recipe, normalization=normalization)


@functools.partial(jax.jit, static_argnames=("size", "recipe"))
def apply(
    images: jax.Array,
    parameters: Parameters,
    *,
    size: int,
    recipe: Recipe = PAPER,
    normalization: Normalization | None = _IMAGENET,
) -> jax.Array:
    """Returns what `augment` makes of images with given parameters, arrays [b]. The boxes have to lie in the images."""
    _check(images, size, normalization)
    stages = steps(size, recipe)
    if normalization is not None:
        stages.append(Step(lambda *_: (), lambda image, _: _normalized(image, normalization)))
    return jax.lax.platform_dependent(
        images,
        parameters,
        cpu=functools.partial(_one_by_one, stages),
        default=functools.partial(_at_once, stages),
    )


def _at_once(stages: Sequence[Step], images: jax.Array, parameters: Parameters) -> jax.Array:
    def one(image: jax.Array, own: Parameters) -> jax.Array:
        return functools.reduce(lambda found, step: step.act(found, step.plan(found, own)), stages, image)

    return jax.vmap(one)(images, parameters)


def _one_by_one(stages: Sequence[Step], images: jax.Array, parameters: Parameters) -> jax.Array:
    """Takes the whole batch through each step before the next one.

    XLA merges what it can and then, on a CPU, computes a step anew for each pixel that the next one reads. It does not
    merge with what is in a branch: that no box is empty is always true, which it cannot know.
    """
    some = jnp.all(parameters.height > 0)
    for plan, act in stages:
        plans = jax.vmap(plan)(images, parameters)
        result = jax.eval_shape(jax.vmap(act), images, plans)
        empty = functools.partial(jnp.zeros, result.shape, result.dtype)
        images = jax.lax.cond(some, jax.vmap(act), lambda *_, empty=empty: empty(), images, plans)
    return images


def _check(images: jax.Array, size: int, normalization: Normalization | None) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size or images.dtype != jnp.uint8:
        found = f"{images.dtype} of shape {images.shape}"
        raise fail("images", found, "Give uint8 of shape [b, h, w, 3], at least one image of one pixel.")
    positive("size", size)
    if normalization is not None and (normalization.grey or normalization.size not in (None, size)):
        remedy = "Give None, and normalise the bytes that come back."
        raise fail("normalization", "it wants grey images or another size", remedy)


def _keys(key: jax.Array, batch: int) -> jax.Array:
    """Returns a key for each image, of one for each or of one for all."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        found = f"{key.dtype} of shape {key.shape}"
        raise fail("key", found, "Make keys by jax.random.key, or of raw ones by jax.random.wrap_key_data.")
    if key.shape not in ((), (batch,)):
        raise fail("key", f"shape {key.shape}", f"Give one key, or one for each of the {batch} images.")
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def _normalized(image: jax.Array, normalization: Normalization) -> jax.Array:
    """Returns bytes [size, size, 3] as a network wants them."""
    mean, std = (jnp.stack([jnp.float32(v) for v in part]) for part in (normalization.mean, normalization.std))
    scaled = image.astype(jnp.float32) / 255
    return ((scaled[..., ::-1] if normalization.channel_order == "bgr" else scaled) - mean) / std
