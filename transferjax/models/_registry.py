"""Architectures by name, and their weights from torchvision-style state dicts."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from transferjax._validate import InputError, fail, one_of
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


def register(spec: ModelSpec) -> None:
    """Adds an architecture of your own to those of the package; README's "Add a model" shows one.

    Args:
      spec: what it tells of itself; its name must be new.
    """
    if spec.name in _specs():
        raise fail("name", f"an architecture {spec.name!r} is there", "Choose another name.")
    _specs()[spec.name] = spec


class Imported(NamedTuple):
    """What became of a state dict.

    Attributes:
      variables: nested dicts {"params": ..., "batch_stats": ...} of float32 NumPy arrays, for `spec.build(...).apply`.
      num_classes: of the head; 0 if the weights have none.
      matched: PyTorch's keys that were used, by path.
      dropped: keys that were left out on purpose.
      notes: what was changed on the way, in words.
    """

    variables: Any
    num_classes: int
    matched: Mapping[str, str]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def import_state_dict(name: str, state_dict: Mapping[str, np.ndarray], **options: int) -> Imported:
    """Turns a PyTorch-style state dict into Flax variables.

    Strict both ways: every key is used once and every leaf is filled once, but for what the architecture names to be
    dropped, and for `num_batches_tracked`. The number of classes is the head's; weights without a head become a network
    without one. A first convolution that takes one channel is spread over three, a third on each: the same on grey
    images.

    Args:
      name: the architecture.
      state_dict: torchvision's key → array; convolution kernels [out, in, h, w], dense kernels [out, in].
      **options: of the architecture, e.g. `width`.

    Returns:
      The variables and a report.

    Raises:
      InputError: lists every missing, surplus, misshapen or non-finite tensor at once.
    """
    spec = get(name)
    kept: dict[str, np.ndarray] = {}
    dropped, notes = [], []
    for key, array in state_dict.items():
        renamed = key
        for pattern, replacement in spec.torch_renames:
            renamed = re.sub(pattern, replacement, renamed)
        if renamed.endswith("num_batches_tracked") or renamed.startswith(spec.torch_drops):
            dropped.append(key)
        elif renamed in kept:
            raise InputError(f"{name}: several tensors are called {renamed}. Leave all but one out.")
        else:
            kept[renamed] = array
    first = spec.torch_key(("params", *spec.first_two_kernels[0]))
    if (kernel := kept.get(first)) is not None and kernel.ndim == 4 and kernel.shape[1] == 1:
        kept[first] = np.repeat(kernel.astype(np.float32) / 3, 3, axis=1)
        notes.append(f"{first} took one channel: a third of it for each of three")
    bias = kept.get(spec.torch_key(("params", *spec.bias_path)))
    head = spec.torch_key(("params", *spec.head_path, "")).removesuffix(".")
    if bias is None and not any(key.startswith(f"{head}.") for key in kept):
        num_classes = 0
        notes.append("there is no head, so there will be no logits")
    else:
        num_classes = 1000 if bias is None or bias.ndim != 1 else len(bias)
    shapes = variable_shapes(spec.build(num_classes=num_classes, **options))
    keys = {path: spec.torch_key(path) for path in shapes}
    check_tensors(name, {keys[path]: torch_shape(path, shapes[path]) for path in shapes}, kept)
    return Imported(
        nested({path: from_torch(path, kept[keys[path]]) for path in shapes}),
        num_classes,
        {"/".join(path): keys[path] for path in shapes},
        tuple(dropped),
        tuple(notes),
    )


def import_torch(name: str, state_dict: Mapping[str, np.ndarray], **options: int) -> Any:
    """Returns the variables of `import_state_dict`; see there."""
    return import_state_dict(name, state_dict, **options).variables
