"""A fine-tuned network as a source, to be saved, scored, or fine-tuned again."""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn
from flax import traverse_util

from transferjax._validate import fail
from transferjax.models import ModelSpec, get, headless, make_source
from transferjax.training.finetune import Run
from transferjax.types import SourceModel


def has_linear_head(spec: ModelSpec) -> bool:
    """Returns whether the head that is trained can take the place of an architecture's own."""
    return spec.head is nn.Dense and spec.logits_path in (None, spec.head_path)


def fine_tuned_source(source: SourceModel, found: Run, class_names: Sequence[str]) -> SourceModel:
    """Returns a run's network of the best epoch, its head included, as a source that `models.save` can write.

    Args:
      source: where the run started.
      found: a run that did not fail.
      class_names: of the target.

    Raises:
      InputError: the run failed; or the architecture's head is more than a linear layer, as `mobilenet_v3_small`'s is.
    """
    spec = get(source.architecture)
    if found.variables is None:
        raise fail("run", f"of {source.name} failed", "Take another run.")
    if not has_linear_head(spec):
        raise fail("source", f"{source.architecture} has a head of several layers", "Keep the run's variables instead.")
    _, variables = headless(source)
    params = found.variables["params"].get("network", variables["params"])
    leaves = traverse_util.flatten_dict(dict(params))
    leaves |= {(*spec.head_path, name): leaf for name, leaf in found.variables["params"]["head"].items()}
    statistics = found.variables["batch_stats"] or variables.get("batch_stats", {})
    collections = {"params": traverse_util.unflatten_dict(leaves)} | ({"batch_stats": statistics} if statistics else {})
    return make_source(
        source.name,
        source.architecture,
        collections,
        options=source.options,
        normalization=source.normalization,
        origin=f"{source.origin or source.name}, fine-tuned for {len(class_names)} classes",
    )
