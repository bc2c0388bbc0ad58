"""What all populations of an architecture on one target share: its data, its network, and how much memory they take."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transferjax import _compile
from transferjax._files import sha256
from transferjax.data import content_hash
from transferjax.models import headless, memory_per_image, run
from transferjax.models.preprocessing import normalize
from transferjax.training.feed import Feed, in_order
from transferjax.training.groups import Way
from transferjax.training.network import Design, fresh_head
from transferjax.training.population import Problem
from transferjax.training.recipes import FineTuning, Settings
from transferjax.types import Normalization, SourceModel, TargetDataset

_FEATURE_BATCH = 64
_COPIES = 5  # of a member's parameters: themselves, momentum, the best, the gradient, the update


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """A target's parts; all three have the same classes."""

    train: TargetDataset
    val: TargetDataset
    test: TargetDataset


def hash_of(splits: Splits) -> str:
    """Returns a hash of all images and labels, and of their order; all of them are read."""
    parts = (splits.train, splits.val, splits.test)
    return sha256(*(content_hash(part).encode() for part in parts))


class Prepared:
    """A network without its head, and a target's splits on their way to it.

    Attributes:
      problem: see `population.train`.
      test: the test split, as the problem's others.
      task: of the target.
    """

    def __init__(self, source: SourceModel, splits: Splits, recipe: FineTuning, way: Way) -> None:
        """Takes the network of a source; for a probe its features are computed here, once.

        Args:
          source: any of those that are trained.
          splits: of the target.
          recipe: see there.
          way: how members are trained.
        """
        module, variables = headless(source)
        trains, probe = recipe.mode == "all", recipe.mode == "probe"
        shape = tuple(splits.train.images.shape[1:])
        self.task = splits.train.task
        self._classes = splits.train.num_classes
        self._width = _num_features(module, variables, shape)
        self._size = source.normalization.size or max(shape[:2])
        parts = (splits.train, splits.val, splits.test)
        feeds = [Feed(part.images, part.labels) for part in parts]
        if probe:
            feeds = [Feed(features_of(module, variables, feed, source.normalization), feed.labels) for feed in feeds]
        self.test = feeds[2]
        self.problem = Problem(
            design=Design(
                module=None if probe else module,
                trains_network=trains,
                dropout=recipe.dropout,
                precision=recipe.precision,
            ),
            frozen=jax.tree.map(jnp.asarray, variables) if recipe.mode == "head" else None,
            train=feeds[0],
            val=feeds[1],
            normalization=source.normalization,
            size=self._size,
            recipe=recipe,
            way=way,
        )
        network = sum(np.size(leaf) for leaf in jax.tree.leaves(variables)) if trains else 0
        self._parameters = network + (self._width + 1) * self._classes
        seen = (self._size, self._size, 3) if recipe.augmentation != "none" or source.normalization.size else shape
        self._image_bytes = memory_per_image(module, variables, seen) if trains else 4 * self._width

    def member(self, source: SourceModel, settings: Settings) -> tuple[Any, Any, Settings]:
        """Returns what `population.start` takes of a run.

        Args:
          source: where it starts.
          settings: of the run.
        """
        params: dict[str, Any] = {"head": fresh_head(settings.seed, self._width, self._classes)}
        batch_stats: Any = {}
        if self.problem.design.trains_network:
            _, variables = headless(source)
            params["network"], batch_stats = variables["params"], variables.get("batch_stats", {})
        return params, batch_stats, settings

    def members_at_once(self, memory: int | None) -> int:
        """Returns how many members fit into so many bytes, see `population`; at least one.

        Args:
          memory: bytes; None for most of what the device has, or a quarter of a computer's main memory.
        """
        recipe = self.problem.recipe
        batch = min(recipe.batch_size, len(self.problem.train)) // recipe.accumulate
        passes = batch * self._image_bytes // (2 if recipe.precision == "bfloat16" else 1)
        together = self.problem.way == "together"
        member = 4 * _COPIES * self._parameters + (passes if together else 0)
        frozen = sum(leaf.nbytes for leaf in jax.tree.leaves(self.problem.frozen))
        free = (_memory() if memory is None else memory) - frozen - (0 if together else passes)
        return max(1, free // member)


def _memory() -> int:
    """Returns how many bytes of the device's memory populations may take.

    Not of what is free at the moment: after an interruption members should come together as before.
    """
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.8 * stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _num_features(module: nn.Module, variables: Mapping[str, Any], shape: tuple[int, ...]) -> int:
    images = jax.ShapeDtypeStruct((1, *shape), np.float32)
    return int(jax.eval_shape(functools.partial(run, module), variables, images).features.shape[1])


def features_of(
    module: nn.Module, variables: Mapping[str, Any], feed: Feed, normalization: Normalization
) -> np.ndarray:
    """Returns the features float32 [n, d] of all images, in inference mode.

    Args:
      module: without a head.
      variables: of it.
      feed: the images.
      normalization: how the network wants them.
    """
    parts = []
    for block in feed.blocks(in_order(len(feed), _FEATURE_BATCH)):
        features = _compile.compiled(_features_of_block, ("module",))(
            variables, block.inputs, normalization, module=module
        )
        parts.append(np.asarray(features).reshape(-1, features.shape[-1]))
    return np.concatenate(parts)[: len(feed)]


def _features_of_block(
    variables: Any, images: jax.Array, normalization: Normalization, *, module: nn.Module
) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(lambda batch: run(module, variables, normalize(batch, normalization)).features, images)
