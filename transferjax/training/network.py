"""From images to logits in training: a source without its head, dropout, and a linear head."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax.models.preprocessing import normalize
from transferjax.models.torch_layers import BatchNorm
from transferjax.training.state import HEAD, stream
from transferjax.types import ModelOutput, Normalization

_NORMS = (BatchNorm, nn.BatchNorm, nn.LayerNorm, nn.GroupNorm)
_FEATURES, _NETWORK = range(2)  # whose dropout a key is for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """What is computed, as far as compiled programs depend on it.

    Attributes:
      module: the network without its head; None where inputs are features already.
      trains_network: whether its parameters are trained, with BatchNorm normalising by the batch; else it is in
        inference mode and its variables are given beside the state, `frozen`.
      dropout: of features.
      precision: of training passes, see `FineTuning`.
    """

    module: nn.Module | None
    trains_network: bool
    dropout: float = 0.0
    precision: str = "float32"


def fresh_head(seed: int, d: int, num_classes: int) -> dict[str, jax.Array]:
    """Returns a linear head as PyTorch initialises it: kernel [d, c] and bias [c], uniform in ±1/√d."""
    key = stream(seed, HEAD)
    of_kernel, of_bias = jax.random.split(key)
    bound = d**-0.5
    return {
        "kernel": jax.random.uniform(of_kernel, (d, num_classes), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(of_bias, (num_classes,), minval=-bound, maxval=bound),
    }


def training_logits(
    design: Design,
    params: Any,
    batch_stats: Any,
    frozen: Any,
    inputs: jax.Array,
    normalization: Normalization,
    key: jax.Array,
) -> tuple[jax.Array, Any]:
    """Returns logits float32 [b, c] and the new BatchNorm statistics.

    Args:
      design: static.
      params: {"head"}, and {"network"} if that is trained.
      batch_stats: of the network, if it is trained and has BatchNorm; else {}.
      frozen: the network's variables if not.
      inputs: uint8 [b, h, w, 3], or features [b, d].
      normalization: how the network wants its images.
      key: of dropout.
    """
    if design.module is None:
        features = inputs
    else:
        images = normalize(inputs, normalization)
        variables = _variables(params, batch_stats) if design.trains_network else frozen
        context = _left_out(design.module) if design.trains_network else _as_it_is
        if design.precision == "bfloat16":
            images, variables, context = images.astype(jnp.bfloat16), _halved(variables), _in_bfloat16(context)
        with nn.intercept_methods(context):
            if design.trains_network:
                rngs = {"dropout": jax.random.fold_in(key, _NETWORK)}
                mutable = ["batch_stats"] if batch_stats else []
                output, updated = design.module.apply(variables, images, train=True, mutable=mutable, rngs=rngs)
                batch_stats = updated.get("batch_stats", {})
            else:
                output = design.module.apply(variables, images)
        features = output.features.astype(jnp.float32)
    if design.dropout:
        keep = jax.random.bernoulli(jax.random.fold_in(key, _FEATURES), 1 - design.dropout, features.shape)
        features = jnp.where(keep, features / (1 - design.dropout), 0)
    return _on_head(features, params["head"]), batch_stats


def logits_of(
    design: Design, params: Any, batch_stats: Any, frozen: Any, inputs: jax.Array, normalization: Normalization
) -> jax.Array:
    """Returns logits float32 [b, c] in inference mode; arguments as in `training_logits`."""
    features = inputs
    if design.module is not None:
        variables = _variables(params, batch_stats) if design.trains_network else frozen
        output: ModelOutput = design.module.apply(variables, normalize(inputs, normalization))  # type: ignore[assignment]
        features = output.features
    return _on_head(features, params["head"])


def _variables(params: Any, batch_stats: Any) -> dict[str, Any]:
    """Returns what the network takes; one without BatchNorm has no statistics."""
    return {"params": params["network"], **({"batch_stats": batch_stats} if batch_stats else {})}


def _on_head(features: jax.Array, head: Any) -> jax.Array:
    return jnp.matmul(features, head["kernel"], precision="highest") + head["bias"]


Interceptor = Callable[[Callable[..., Any], Any, Any, nn.module.InterceptorContext], Any]


def _as_it_is(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    del context
    return call(*args, **kwargs)


@functools.lru_cache(maxsize=16)
def _last_dropout(module: nn.Module) -> tuple[str, ...] | None:
    """Returns the path of the dropout whose output the features are, as in torchvision's classifiers; or None."""
    outputs: dict[tuple[str, ...], Any] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            outputs[context.module.path] = result
        return result

    found: list[tuple[str, ...]] = []

    def trace(images: jax.Array) -> Any:
        with nn.intercept_methods(note):
            output, _ = module.init_with_output(
                {"params": jax.random.key(0), "dropout": jax.random.key(1)}, images, train=True
            )
        found.extend(path for path, dropped in outputs.items() if dropped is output.features)
        return output

    jax.eval_shape(trace, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))
    return found[0] if found else None


def _left_out(module: nn.Module) -> Interceptor:
    """Leaves out the network's own dropout of the features: the fresh head comes with another in its place."""
    path = _last_dropout(module)

    def context(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if path is not None and context.module.path == path and isinstance(context.module, nn.Dropout):
            return args[0]
        return call(*args, **kwargs)

    return context


def _in_bfloat16(inner: Interceptor) -> Interceptor:
    """Normalises in float32, and hands everything on in bfloat16."""

    def context(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, _NORMS) and context.method_name == "__call__":
            args = (args[0].astype(jnp.float32), *args[1:])
        result = inner(call, args, kwargs, context)
        return result.astype(jnp.bfloat16) if isinstance(result, jax.Array) else result

    return context


def _halved(variables: Any) -> Any:
    """Returns the variables with all parameters in bfloat16 but those of normalisation layers, and no statistics."""

    def halved(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree.astype(jnp.bfloat16)
        return tree if "scale" in tree else {name: halved(part) for name, part in tree.items()}

    return {**variables, "params": halved(variables["params"])}
