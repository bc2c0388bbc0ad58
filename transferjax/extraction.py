"""From a source and a target to their pair: one forward and, if wanted, one backward pass, cached on disk."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from flax import linen as nn
from flax import traverse_util
from tqdm import tqdm

from transferjax import data
from transferjax._files import atomic_write, hash_arrays, sha256, writable_folder
from transferjax._validate import positive
from transferjax.gradients import kernel_gradient_norms
from transferjax.gradients.ratio import batch_bounds
from transferjax.models import run
from transferjax.models.preprocessing import normalize
from transferjax.types import GradientStats, Normalization, SourceModel, TargetDataset, TransferPair, make_pair

# Counted up whenever the same inputs give other numbers, so that old cache files are not used any more.
_VERSION = 1
FORWARD_BATCH_SIZE = 128


def extract(
    source: SourceModel,
    target: TargetDataset,
    *,
    gradients: bool = True,
    batch_size: int = FORWARD_BATCH_SIZE,
    cache_dir: str | os.PathLike[str] | None = None,
) -> TransferPair:
    """Runs the source over the target's images, in their order.

    With gradients the batches are the published ones (a sixth of the data, the tail kept), because the triplet loss
    couples the examples of a batch; features then come out of the same forward pass. The network is in inference
    mode throughout. Products run at the highest precision on every backend.

    Args:
      source: the network.
      target: n images; shuffled, so that batches mix classes (`data.subsample` does that). Of a multi-label target the
        triplet loss compares label sets.
      gradients: whether to take the gradient norms too.
      batch_size: of the forward pass if no gradients are taken.
      cache_dir: folder of cache files; None for no cache. A file that is damaged or belongs to other inputs is not
        used but written again. Passes with and without gradients have files of their own: their batches differ, so
        their features do in the last digit, and a result may not depend on what was run before.

    Returns:
      Features, logits, labels and, if wanted, gradients.

    Raises:
      InputError: too few examples, or the network gives values that are not finite.
    """
    positive("batch_size", batch_size)
    bounds = (
        batch_bounds(len(target))
        if gradients
        else [(start, min(start + batch_size, len(target))) for start in range(0, len(target), batch_size)]
    )
    arrays = None
    if cache_dir is not None:
        key = _key(source, target, gradients=gradients, batch_size=bounds[0][1])
        path = writable_folder("cache_dir", cache_dir) / f"{sha256(key.encode())[:40]}.safetensors"
        arrays = _read(path, key)
    if arrays is None:
        arrays = _run(source, target, bounds, gradients=gradients)
        if cache_dir is not None:
            with atomic_write(path) as temporary:
                metadata = {"key": key, "sha256": hash_arrays(arrays)}
                safetensors.numpy.save_file(arrays, temporary, metadata=metadata)
    return make_pair(
        arrays["features"],
        target.labels,
        num_classes=target.num_classes,
        logits=arrays["logits"],
        gradients=GradientStats(batch_norms=jnp.asarray(arrays["batch_norms"])) if gradients else None,
        head=source.head,
    )


def _run(
    source: SourceModel, target: TargetDataset, bounds: list[tuple[int, int]], *, gradients: bool
) -> dict[str, np.ndarray]:
    # Without their heads the networks of one architecture are one program, whatever they were trained on: it is
    # compiled once, and the head is one small product at the end.
    params = traverse_util.flatten_dict(dict(source.variables["params"]))
    kernel, bias = (params.pop((*source.head_path, leaf)) for leaf in ("kernel", "bias"))
    module = source.module.clone(num_classes=0)
    variables = jax.device_put({**source.variables, "params": traverse_util.unflatten_dict(params)})
    features, norms = [], []
    with jax.default_matmul_precision("highest"):
        for start, end in tqdm(bounds, desc=source.name, unit="batch", disable=None, leave=False):
            images = target.images[start:end]
            if gradients:
                batch_features, batch_norms = _forward_backward(
                    variables,
                    images,
                    target.labels[start:end],
                    module=module,
                    kernels=source.first_two_kernels,
                    normalization=source.normalization,
                )
                norms.append(np.asarray(batch_norms))
            else:
                batch_features = _forward(variables, images, module=module, normalization=source.normalization)
            features.append(np.asarray(batch_features))
        all_features = np.concatenate(features)
        arrays = {"features": all_features, "logits": np.asarray(jnp.asarray(all_features) @ kernel + bias)}
    return {**arrays, "batch_norms": np.stack(norms)} if gradients else arrays


@functools.partial(jax.jit, static_argnames=("module",))
def _forward(variables: Any, images: jax.Array, *, module: nn.Module, normalization: Normalization) -> jax.Array:
    """Images uint8 [b, h, w, 3] → features [b, d]."""
    return run(module, variables, normalize(images, normalization)).features


@functools.partial(jax.jit, static_argnames=("module", "kernels"))
def _forward_backward(
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    module: nn.Module,
    kernels: tuple[tuple[str, ...], ...],
    normalization: Normalization,
) -> tuple[jax.Array, jax.Array]:
    """Images uint8 [b, h, w, 3], labels [b] or [b, c] → features [b, d], gradient norms [l]."""
    params = traverse_util.flatten_dict(variables["params"])

    def embed(leaves: tuple[jax.Array, ...]) -> jax.Array:
        replaced = traverse_util.unflatten_dict({**params, **dict(zip(kernels, leaves, strict=True))})
        return run(module, {**variables, "params": replaced}, normalize(images, normalization)).features

    return kernel_gradient_norms(embed, tuple(params[path] for path in kernels), labels)


def _key(source: SourceModel, target: TargetDataset, *, gradients: bool, batch_size: int) -> str:
    """Everything that the arrays depend on, as text."""
    facts = {
        "version": _VERSION,
        "architecture": source.architecture,
        "weights": source.weights_hash,
        "data": data.content_hash(target),
        "preprocessing": {"mean": source.normalization.mean, "std": source.normalization.std},
        "dtype": "float32",
        "batch_size": batch_size,
        "gradients": [list(path) for path in source.first_two_kernels] if gradients else None,
    }
    return json.dumps(facts, sort_keys=True)


def _read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a cache file, or None if there is none that is whole and of this key."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError) as error:
        logging.warning("%s cannot be read (%s); computing it again.", path, error)
        return None
    if metadata.get("key") != key or metadata.get("sha256") != hash_arrays(arrays):
        logging.warning("%s is damaged; computing it again.", path)
        return None
    return arrays
