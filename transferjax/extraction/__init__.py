"""From a source and a target to their pair: one forward and, if wanted, one backward pass, cached on disk."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from transferjax import data
from transferjax._files import atomic_write, hash_arrays, sha256, writable_folder
from transferjax._lazy import LazyImages
from transferjax._prefetch import Waited
from transferjax._validate import one_of, positive
from transferjax.extraction.passes import Gradients, run_batches
from transferjax.gradients.batches import batch_bounds
from transferjax.models import memory_per_image
from transferjax.types import ExampleGradientStats, GradientStats, SourceModel, TargetDataset, TransferPair, make_pair

__all__ = ["FORWARD_BATCH_SIZE", "MEMORY", "STREAM_MEMORY", "Gradients", "extract"]

# Counted up whenever the same inputs give other numbers, so that old cache files are not used any more.
_VERSION = 3
FORWARD_BATCH_SIZE = 128
# On CPU, images that are read ahead are not in memory because it is short; activations then should not fill it.
MEMORY, STREAM_MEMORY = 4 * 2**30, 2**28


def extract(
    source: SourceModel,
    target: TargetDataset,
    *,
    gradients: Gradients | None = "batch",
    batch_size: int = FORWARD_BATCH_SIZE,
    memory: int | None = None,
    waited: Waited | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> TransferPair:
    """Runs the source over the target's images, in their order.

    With gradients the batches are the published ones (a sixth of the data, the tail kept), because the triplet loss
    couples the examples of a batch; features then come out of the same forward pass. A batch that is too large for
    the memory goes through the network in equal parts, twice (`gradients.kernel_gradients`); its loss is still that of
    the whole batch. The network is in inference mode throughout. Products run at the highest precision on every
    backend.

    Images that are not in memory are read ahead, a part of a batch at a time (twice, for gradients), so memory does not
    grow with their number: but for features and logits, and the distances of the triplet loss one row at a time.

    Args:
      source: the network.
      target: n images; shuffled, so that batches mix classes (`data.subsample` does that). Of a multi-label target the
        triplet loss compares label sets.
      gradients: `"batch"` for the norms of the batches' gradients at the source's first two kernels; `"example"` for
        what is known of the examples' shares of them too, see `ExampleGradientStats`; None for none.
      batch_size: of the forward pass if no gradients are taken.
      memory: bytes that the activations of one pass may take, about; None for `MEMORY`, or for `STREAM_MEMORY` if the
        images are not in memory and the device is the CPU.
      waited: where the seconds are added up for which the device waited for images.
      cache_dir: folder of cache files; None for no cache. A file that is damaged or belongs to other inputs is not
        used but written again. Passes with and without gradients have files of their own: their batches differ, so
        their features do in the last digit, and a result may not depend on what was run before.

    Returns:
      Features, logits, labels and, if wanted, gradients.

    Raises:
      InputError: too few examples, or the network gives values that are not finite.
    """
    positive("batch_size", batch_size)
    streamed = isinstance(target.images, LazyImages)
    if memory is None:
        memory = STREAM_MEMORY if streamed and jax.default_backend() == "cpu" else MEMORY
    positive("memory", memory)
    if gradients is None:
        if streamed:
            batch_size = min(batch_size, _most(source, target, memory))
        bounds = [(start, min(start + batch_size, len(target))) for start in range(0, len(target), batch_size)]
    else:
        one_of("gradients", gradients, ["batch", "example"])
        bounds = batch_bounds(len(target))
    micro_batch = _micro_batch(source, target, bounds[0][1], memory) if gradients else bounds[0][1]
    arrays = None
    if cache_dir is not None:
        key = _key(source, target, gradients=gradients, batch_size=bounds[0][1], micro_batch=micro_batch)
        path = writable_folder("cache_dir", cache_dir) / f"{sha256(key.encode())[:40]}.safetensors"
        arrays = _read(path, key)
    if arrays is None:
        arrays = run_batches(source, target, bounds, gradients=gradients, micro_batch=micro_batch, waited=waited)
        if cache_dir is not None:
            with atomic_write(path) as temporary:
                metadata = {"key": key, "sha256": hash_arrays(arrays)}
                safetensors.numpy.save_file(arrays, temporary, metadata=metadata)
    known = {name: jnp.asarray(arrays[name]) for name in arrays if name not in ("features", "logits")}
    batch_norms = known.pop("batch_norms", None)
    return make_pair(
        arrays["features"],
        target.labels,
        num_classes=target.num_classes,
        logits=arrays.get("logits"),
        gradients=None if batch_norms is None else GradientStats(batch_norms=batch_norms),
        example_gradients=ExampleGradientStats(**known) if known else None,
        head=source.head,
    )


def _micro_batch(source: SourceModel, target: TargetDataset, batch: int, memory: int) -> int:
    """Returns how many images at a time go through the network; where they have to be fewer, parts of equal size."""
    parts = -(-batch // _most(source, target, memory))
    return -(-batch // parts)


def _most(source: SourceModel, target: TargetDataset, memory: int) -> int:
    """Returns how many images fit into the memory."""
    size = source.normalization.size
    shape = target.images.shape[1:] if size is None else (size, size, 3)
    return max(1, memory // memory_per_image(source.module, source.variables, shape))


def _key(
    source: SourceModel, target: TargetDataset, *, gradients: Gradients | None, batch_size: int, micro_batch: int
) -> str:
    """Everything that the arrays depend on, as text."""
    facts = {
        "version": _VERSION,
        "architecture": source.architecture,
        "weights": source.weights_hash,
        "data": data.content_hash(target),
        "preprocessing": dataclasses.asdict(source.normalization),
        "dtype": "float32",
        "batch_size": batch_size,
        "micro_batch": micro_batch,
        "by_example": gradients == "example",
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
