"""A network's passes over a target's images: forward, and backward to the gradients' statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from transferjax._compile import compiled
from transferjax._lazy import LazyImages
from transferjax._prefetch import Waited, batches
from transferjax.gradients import KernelGradients, kernel_gradients, statistics, triplet_loss
from transferjax.gradients.taps import Wanted
from transferjax.models import apply_head, headless, run
from transferjax.models.preprocessing import normalize
from transferjax.types import Normalization, SourceModel, TargetDataset

Gradients = Literal["batch", "example"]
STATIC = ("module", "kernels", "gradients", "micro_batch", "num_classes")
_STATIC_BACKWARD = ("module", "kernels", "gradients", "num_classes")


def run_batches(
    source: SourceModel,
    target: TargetDataset,
    bounds: list[tuple[int, int]],
    *,
    gradients: Gradients | None,
    micro_batch: int,
    waited: Waited | None,
) -> dict[str, np.ndarray]:
    """Runs the source over batches of the target.

    Args:
      source: the network.
      target: n images.
      bounds: start and end of each batch.
      gradients: see `extract`.
      micro_batch: how many images go through the network at a time, if gradients are taken.
      waited: where the seconds are added up for which the device waited for images.

    Returns:
      Features [n, d], logits [n, k] if there is a head, and the fields of the gradients' statistics.
    """
    # Without their heads the networks of one architecture are one program, whatever they were trained on: it is
    # compiled once, and the head is one small product at the end.
    module, variables = headless(source)
    variables = jax.device_put(variables)
    found: dict[str, list[np.ndarray]] = {}
    with (
        jax.default_matmul_precision("highest"),
        tqdm(total=len(target), desc=source.name, unit="image", disable=None, leave=False) as bar,
    ):
        options: dict[str, Any] = {"module": module, "kernels": source.first_two_kernels}
        if gradients is None:
            run_network = compiled(forward, ("module",))
            for images in batches(target.images, (slice(*bound) for bound in bounds), waited):
                _append(found, {"features": run_network(variables, images, source.normalization, module=module)})
                bar.update(len(images))
        else:
            options |= {"gradients": gradients, "num_classes": target.num_classes}
            for start, end in bounds:
                batch = target.take(np.arange(start, end))
                size = min(micro_batch, end - start)
                if isinstance(batch.images, LazyImages):
                    of_batch = _streamed(variables, batch, source.normalization, size, waited, bar, **options)
                else:
                    of_batch = compiled(forward_backward, STATIC)(
                        variables, batch.images, batch.labels, source.normalization, micro_batch=size, **options
                    )
                    bar.update(end - start)
                _append(found, of_batch)
        by_example = ("features", "norms")  # the rest is of batches
        arrays = {name: (np.concatenate if name in by_example else np.stack)(parts) for name, parts in found.items()}
        logits = apply_head(source, jnp.asarray(arrays["features"]))
    return arrays if logits is None else {**arrays, "logits": np.asarray(logits)}


def _append(found: dict[str, list[np.ndarray]], of_batch: Mapping[str, jax.Array]) -> None:
    for name, array in of_batch.items():
        found.setdefault(name, []).append(np.asarray(array))


def _streamed(
    variables: Any,
    batch: TargetDataset,
    normalization: Normalization,
    size: int,
    waited: Waited | None,
    bar: tqdm,
    *,
    gradients: Gradients,
    **options: Any,
) -> dict[str, jax.Array]:
    """What `forward_backward` returns, of a batch whose images are read in parts, once for each of two passes.

    The first gives features, and with them the gradient of the batch's loss at them; the second takes that back.
    """
    n = len(batch)
    parts = [np.minimum(np.arange(start, start + size), n - 1) for start in range(0, n, size)]
    run_network = compiled(forward, ("module",))
    pieces = []
    for images in batches(batch.images, parts, waited):
        pieces.append(np.asarray(run_network(variables, images, normalization, module=options["module"])))
        bar.update(len(images) / 2)
    features = jnp.asarray(np.concatenate(pieces)[:n])  # the last part was filled up with the last image
    labels = jnp.asarray(batch.labels)
    pulls = np.asarray(compiled(_pulls)(features, labels))
    total: KernelGradients | None = None
    norms = []
    for rows, images in zip(parts, batches(batch.images, parts, waited), strict=True):
        new = np.arange(rows[0], rows[0] + size) < n  # nothing pulls on what fills up
        of_rows = np.where(new[:, None], pulls[rows], 0)
        found = compiled(_backward, _STATIC_BACKWARD)(
            variables, images, batch.labels[rows], of_rows, normalization, gradients=gradients, **options
        )
        if found.norms is not None:
            norms.append(found.norms)
        sums = found._replace(features=jnp.zeros(()), norms=None)
        total = jax.block_until_ready(sums if total is None else jax.tree.map(jnp.add, total, sums))
        bar.update(len(images) / 2)
    assert total is not None
    total = total._replace(features=features, norms=jnp.concatenate(norms)[:n] if norms else None)
    return _told(total, labels, gradients)


def _pulls(features: jax.Array, labels: jax.Array) -> jax.Array:
    """The gradient of the batch's loss at its features."""
    return jax.grad(triplet_loss)(features, labels)


def _backward(
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    pulls: jax.Array,
    normalization: Normalization,
    *,
    module: nn.Module,
    kernels: tuple[tuple[str, ...], ...],
    gradients: Gradients,
    num_classes: int,
) -> KernelGradients:
    """The part of `forward_backward` of some images, given what pulls on their features [b, d]."""
    return kernel_gradients(
        module,
        variables,
        images,
        labels,
        paths=kernels,
        wanted=_wanted(labels, gradients),
        loss=jax.tree_util.Partial(_pulled, pulls),
        num_classes=num_classes,
        prepare=jax.tree_util.Partial(normalize, normalization=normalization),
    )


def _pulled(pulls: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
    """A loss whose gradient at the features is `pulls`."""
    del labels
    return jnp.vdot(pulls, features, precision="highest")


def forward(variables: Any, images: jax.Array, normalization: Normalization, *, module: nn.Module) -> jax.Array:
    """Images uint8 [b, h, w, 3] → features [b, d]."""
    return run(module, variables, normalize(images, normalization)).features


def forward_backward(
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    normalization: Normalization,
    *,
    module: nn.Module,
    kernels: tuple[tuple[str, ...], ...],
    gradients: Gradients,
    micro_batch: int,
    num_classes: int,
) -> dict[str, jax.Array]:
    """Images uint8 [b, h, w, 3], labels [b] or [b, c] → features [b, d] and the fields of the gradients' statistics."""
    found = kernel_gradients(
        module,
        variables,
        images,
        labels,
        paths=kernels,
        wanted=_wanted(labels, gradients),
        micro_batch=micro_batch,
        num_classes=num_classes,
        prepare=jax.tree_util.Partial(normalize, normalization=normalization),
    )
    return _told(found, labels, gradients)


def _wanted(labels: jax.Array, gradients: Gradients) -> tuple[Wanted, ...]:
    if gradients == "batch":
        return ("batch",)
    return ("batch", "norms", "squares", *(("directions",) if labels.ndim == 1 else ()))


def _told(found: KernelGradients, labels: jax.Array, gradients: Gradients) -> dict[str, jax.Array]:
    """Returns the features and the fields of the gradients' statistics."""
    told = {"features": found.features, "batch_norms": statistics.batch_norms(found)}
    if gradients == "example":
        assert found.norms is not None
        told |= {"norms": found.norms, "signal_to_noise": statistics.signal_to_noise(found)}
        if labels.ndim == 1:
            told["alignment"] = statistics.alignment(found, labels)
    return told
