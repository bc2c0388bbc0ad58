"""Sources from files and to files: safetensors, in this package's own layout or with torchvision's keys."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from transferjax._files import atomic_write, hash_arrays
from transferjax._validate import InputError, fail, one_of
from transferjax.models import _demo
from transferjax.models._base import check_tensors, nested, variable_shapes
from transferjax.models._registry import get, import_torch, names
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
    return _checked_source(
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


def _checked_source(
    name: str,
    architecture: str,
    leaves: Mapping[str, np.ndarray],
    *,
    options: Mapping[str, int],
    normalization: Normalization,
    head: Head,
    **known: Any,
) -> SourceModel:
    """Builds a source from "collection/module/leaf" → array."""
    one_of("head", head, ["softmax", "sigmoid"])
    _check_normalization(normalization)
    for fact in ("num_train_examples", "imagenet_accuracy"):
        value = known[fact]
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise fail(fact, f"{value!r}", "Give a number of at least 0, or None if it is not known.")
    spec = get(architecture)
    bias = leaves.get("/".join(("params", *spec.head_path, "bias")))
    module = spec.build(num_classes=1000 if bias is None or bias.ndim != 1 else len(bias), **options)
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
        "mean": source.normalization.mean,
        "std": source.normalization.std,
        "head": source.head,
        "num_train_examples": source.num_train_examples,
        "imagenet_accuracy": source.imagenet_accuracy,
    }
    metadata = {"format": FORMAT, "transferjax": json.dumps(facts)}
    arrays = {key: np.ascontiguousarray(leaf, dtype) for key, leaf in sorted(leaves.items())}
    with atomic_write(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def load(source: str | os.PathLike[str] | SourceModel) -> SourceModel:
    """Finds a source by what a user writes.

    Args:
      source: the name of a demo source; `<architecture>:<file>.safetensors` with torchvision's keys (images are then
        normalised as for ImageNet); a `.safetensors` file written by `save`; or a `SourceModel`, returned as is.

    Raises:
      InputError: nothing of that name, or a file that does not fit; the message lists all that is wrong with it.
    """
    if isinstance(source, SourceModel):
        return source
    text = os.fspath(source)
    if text in _demo.demo_names():
        return _load_demo(text)
    architecture, colon, rest = text.partition(":")
    if not (colon and architecture in names()):
        architecture, rest = "", text
    path = Path(rest).expanduser()  # after a colon the shell does not
    if path.suffix != ".safetensors" or (colon and not architecture and not path.is_file()):
        raise fail(
            "sources",
            f"{text!r} is unknown",
            f"Name a demo source ({', '.join(_demo.demo_names())}) or a file as <architecture>:<path>.safetensors, "
            f"the architecture being one of: {', '.join(names())}.",
        )
    return _load_file(path, architecture)


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


def _load_file(path: Path, architecture: str) -> SourceModel:
    if not path.is_file():
        raise fail("sources", f"there is no file {str(path)!r}", "Check the path.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise fail(str(path), f"cannot be read as safetensors ({error})", "Get or write the file again.") from error
    if metadata.get("format") == FORMAT:
        return _own(path, architecture, metadata, arrays)
    if not architecture:
        raise fail("sources", f"{str(path)!r} does not say its architecture", f"Write it as <architecture>:{path}.")
    try:
        variables = import_torch(architecture, arrays)
    except InputError as error:
        raise InputError(f"{path} as {error}") from error
    return make_source(path.stem, architecture, variables, origin=str(path))


def _own(path: Path, architecture: str, metadata: Mapping[str, str], arrays: dict[str, np.ndarray]) -> SourceModel:
    try:
        facts = json.loads(metadata["transferjax"])
        found, options = str(facts["architecture"]), dict(facts["options"])
        normalization = Normalization(mean=tuple(facts["mean"]), std=tuple(facts["std"]))
        known = {name: facts[name] for name in ("head", "num_train_examples", "imagenet_accuracy")}
    except (KeyError, TypeError, ValueError) as error:
        raise fail(str(path), "its header is damaged", "Write the file again with transferjax.models.save.") from error
    if architecture not in ("", found):
        raise fail("sources", f"{str(path)!r} holds a {found}", f"Write it as {found}:{path}.")
    try:
        return _checked_source(
            path.stem, found, arrays, options=options, normalization=normalization, origin=str(path), **known
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _load_demo(name: str) -> SourceModel:
    entry = _demo.manifest()[name]
    if "file" in entry:
        source = _load_file(_demo.FOLDER / entry["file"], "")
    else:
        source = random_source(
            name, entry["architecture"], num_classes=entry["num_classes"], seed=entry["seed"], **entry["options"]
        )
    if source.weights_hash != entry["weights_hash"]:
        raise fail(f"demo source {name}", "its weights are not those of the manifest", "Install the package again.")
    return source
