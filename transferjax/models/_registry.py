"""Architectures by name, and their weights from torchvision-style state dicts."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from transferjax._validate import one_of
from transferjax.models._base import ModelSpec, check_tensors, from_torch, nested, torch_shape, variable_shapes


@functools.cache
def _specs() -> dict[str, ModelSpec]:
    package = importlib.import_module(__package__ or "")
    specs: dict[str, ModelSpec] = {}
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{__package__}.{module.name}")
        specs.update({spec.name: spec for spec in getattr(loaded, "SPECS", ())})
    return specs


def names() -> tuple[str, ...]:
    """Returns the names of all architectures."""
    return tuple(sorted(_specs()))


def get(name: str) -> ModelSpec:
    """Returns the architecture called `name`; raises `InputError` naming all if there is none."""
    return _specs()[one_of("architecture", name, names())]


def import_torch(name: str, state_dict: Mapping[str, np.ndarray], **options: int) -> Any:
    """Turns a torchvision-style state dict into Flax variables.

    Strict both ways: every key is used once and every leaf is filled once; `num_batches_tracked` is dropped. The number
    of classes is the head's.

    Args:
      name: the architecture.
      state_dict: torchvision's key → array; convolution kernels [out, in, h, w], dense kernels [out, in].
      **options: of the architecture, e.g. `width`.

    Returns:
      Nested dicts {"params": ..., "batch_stats": ...} of float32 NumPy arrays, for `spec.build(...).apply`.

    Raises:
      InputError: lists every missing, surplus, misshapen or non-finite tensor at once.
    """
    spec = get(name)
    kept = {key: array for key, array in state_dict.items() if not key.endswith(spec.torch_drops)}
    head = kept.get(spec.torch_key(("params", *spec.head_path, "bias")))
    module = spec.build(num_classes=1000 if head is None or head.ndim != 1 else len(head), **options)
    shapes = variable_shapes(module)
    check_tensors(name, {spec.torch_key(path): torch_shape(path, shapes[path]) for path in shapes}, kept)
    return nested({path: from_torch(path, kept[spec.torch_key(path)]) for path in shapes})
