"""Networks without their heads, and heads without their networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from transferjax.models._registry import get
from transferjax.types import SourceModel


def headless(source: SourceModel) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a source's module and variables without the head: the same program for all of one architecture."""
    size = len(source.head_path)
    leaves = traverse_util.flatten_dict(dict(source.variables["params"]))
    kept = {path: leaf for path, leaf in leaves.items() if path[:size] != source.head_path}
    variables = {**source.variables, "params": traverse_util.unflatten_dict(kept)}
    return source.module.clone(num_classes=0), variables


def apply_head(source: SourceModel, features: jax.Array) -> jax.Array | None:
    """Returns the logits [b, k] of features [b, d]; None if the source has no head."""
    params: Any = source.variables["params"]
    for name in source.head_path:
        if not isinstance(params, Mapping) or name not in params:
            return None
        params = params[name]
    spec = get(source.architecture)
    num_classes = len(traverse_util.flatten_dict(dict(params))[spec.bias_path[len(source.head_path) :]])
    logits: jax.Array = spec.head(num_classes).apply({"params": params}, features)  # type: ignore[assignment]
    return logits
