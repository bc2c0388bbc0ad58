"""Sources from variables, and to files in this package's own layout of safetensors."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from transferjax._files import atomic_write, hash_arrays
from transferjax._validate import fail, one_of, positive
from transferjax.models import _demo
from transferjax.models._base import check_tensors, nested, variable_shapes
from transferjax.models._registry import get
from transferjax.types import Head, Normalization, SourceModel

FORMAT = "transferjax-1"


def make_source(
    name: str,
    architecture: str,
    variables: Mapping[str, Any],
    *,
    options: Mapping[str, int] | None = None,
    normalization: Normalization | None = None,
    head: Head = "softmax",
    origin: str = "",
    num_train_examples: int | None = None,
    imagenet_accuracy: float | None = None,
) -> SourceModel:
    """Builds a source from variables that fit the architecture, e.g. those of `import_torch`.

    Args:
      name: what tables and plots call it.
      architecture: as in `get`.
      variables: {"params": ..., "batch_stats": ...}; the head's size gives the number of source classes.
      options: of the architecture, e.g. {"width": 16}.
      normalization: how it wants its images; ImageNet's mean and standard deviation if not given.
      head: `"softmax"`, or `"sigmoid"` after training with binary cross-entropy.
      origin: where the weights came from.
      num_train_examples: how many images it was trained on, if known.
      imagenet_accuracy: top-1, 0..1, if it was trained there.

    Raises:
      InputError: the variables do not fit; lists all problems at once.
    """
    leaves = {"/".join(path): np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(dict(variables)).items()}
    return checked_source(
        name,
        architecture,
        leaves,
        options=dict(options or {}),
        normalization=normalization or Normalization(),
        head=head,
        origin=origin,
        num_train_examples=num_train_examples,
        imagenet_accuracy=imagenet_accuracy,
    )


def checked_source(
    name: str,
    architecture: str,
    leaves: Mapping[str, np.ndarray],
    *,
    options: Mapping[str, int],
    normalization: Normalization,
    head: Head,
    **known: Any,
) -> SourceModel:
    """Builds a source from "collection/module/leaf" → array; see `make_source`."""
    one_of("head", head, ["softmax", "sigmoid"])
    _check_normalization(normalization)
    for fact in ("num_train_examples", "imagenet_accuracy"):
        value = known[fact]
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise fail(fact, f"{value!r}", "Give a number of at least 0, or None if it is not known.")
    spec = get(architecture)
    bias = leaves.get("/".join(("params", *spec.bias_path)))
    head_starts = "/".join(("params", *spec.head_path, ""))
    if bias is not None and bias.ndim == 1:
        num_classes = len(bias)
    else:
        num_classes = 1000 if any(path.startswith(head_starts) for path in leaves) else 0
    module = spec.build(num_classes=num_classes, **options)
    shapes = variable_shapes(module)
    check_tensors(name, {"/".join(path): shape for path, shape in shapes.items()}, leaves)
    checked = nested({path: leaves["/".join(path)] for path in shapes})
    return SourceModel(
        name=name,
        architecture=architecture,
        options=options,
        module=module,
        variables=checked,
        first_two_kernels=spec.first_two_kernels,
        head_path=spec.head_path,
        normalization=normalization,
        head=head,
        weights_hash=hash_arrays(traverse_util.flatten_dict(checked, sep="/")),
        **known,
    )


def _check_normalization(normalization: Normalization) -> None:
    for name, low in (("mean", -np.inf), ("std", 0.0)):
        values = getattr(normalization, name)
        fine = len(values) == 3 and all(isinstance(v, int | float) and np.isfinite(v) and v > low for v in values)
        if not fine:
            remedy = "Give three finite numbers, for std above 0."
            raise fail(f"normalization.{name}", f"{values!r}", remedy)
    one_of("normalization.channel_order", normalization.channel_order, ["rgb", "bgr"])
    if not isinstance(normalization.grey, bool):
        raise fail("normalization.grey", f"{normalization.grey!r}", "Give True or False.")
    if normalization.size is not None:
        positive("normalization.size", normalization.size)


def save(path: str | os.PathLike[str], source: SourceModel, *, dtype: Any = np.float32) -> None:
    """Writes a source to a safetensors file that `load` reads back without being told the architecture.

    Args:
      path: of the file; it is whole or not there.
      source: what is not a tensor goes into the header; its name will be the file's, its origin the file's path.
      dtype: of the stored floats; float16 halves the file and rounds the weights.
    """
    leaves = traverse_util.flatten_dict(dict(source.variables), sep="/")
    facts = {
        "architecture": source.architecture,
        "options": dict(source.options),
        **dataclasses.asdict(source.normalization),
        "head": source.head,
        "num_train_examples": source.num_train_examples,
        "imagenet_accuracy": source.imagenet_accuracy,
    }
    metadata = {"format": FORMAT, "transferjax": json.dumps(facts)}
    arrays = {key: np.ascontiguousarray(leaf, dtype) for key, leaf in sorted(leaves.items())}
    with atomic_write(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def random_source(name: str, architecture: str, *, num_classes: int, seed: int, **options: int) -> SourceModel:
    """Returns an untrained network, the control: a source that ranks below it has nothing to offer.

    Args:
      name: what tables and plots call it.
      architecture: as in `get`.
      num_classes: of its head.
      seed: of the weights; the same bits on every machine and with every version of NumPy.
      **options: of the architecture.
    """
    module = get(architecture).build(num_classes=num_classes, **options)
    variables = nested(_demo.random_leaves(variable_shapes(module), seed))
    origin = f"untrained, seed {seed}"
    return make_source(name, architecture, variables, options=options, origin=origin, num_train_examples=0)
