"""Per-example gradients by their definition: for any parameters, clear, and slow. `taps` is compared to this."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from transferjax._validate import fail
from transferjax.gradients.triplet import triplet_loss

Path = tuple[str, ...]
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def example_gradients(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    paths: Sequence[Path],
    loss: Loss = triplet_loss,
) -> dict[Path, jax.Array]:
    """Each example's share of the batch loss's gradient.

    The loss is one number of the whole batch, which may couple its examples, as the triplet loss does. Example i acts
    on it by way of its features f_i alone, since the network is in inference mode. So its share of the gradient at θ
    is (∂f_i/∂θ)ᵀ·∂L/∂f_i, and the shares add up to the batch loss's gradient.

    Args:
      module: a Flax network that returns features, see `transferjax.types.ModelOutput`.
      variables: of the network.
      images: float [b, h, w, 3], normalised.
      labels: what the loss takes, e.g. int [b].
      paths: of parameters in `variables["params"]`, of any kind.
      loss: features [b, d], labels → scalar.

    Returns:
      Path → float [b, ...], the parameter's shape behind the examples.

    Raises:
      InputError: a path that is not a parameter's.
    """
    parameters_at(variables, paths)
    return _example_gradients(variables, images, labels, as_pytree(loss), module=module, paths=tuple(map(tuple, paths)))


@functools.partial(jax.jit, static_argnames=("module", "paths"))
def _example_gradients(
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    loss: Loss,
    *,
    module: nn.Module,
    paths: tuple[Path, ...],
) -> dict[Path, jax.Array]:
    params = parameters_at(variables, paths)

    def features_of(chosen: Mapping[Path, jax.Array], images: jax.Array) -> jax.Array:
        replaced = traverse_util.unflatten_dict({**params, **chosen})
        features: jax.Array = module.apply({**variables, "params": replaced}, images).features  # type: ignore[union-attr]
        return features

    chosen = {path: params[path] for path in paths}
    pulls = jax.grad(loss)(features_of(chosen, images), labels)

    def of_example(image: jax.Array, pull: jax.Array) -> dict[Path, jax.Array]:
        _, pullback = jax.vjp(lambda chosen: features_of(chosen, image[None])[0], chosen)
        gradients: dict[Path, jax.Array] = pullback(pull)[0]
        return gradients

    return jax.vmap(of_example)(images, pulls)


def example_norms(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    paths: Sequence[Path],
    loss: Loss = triplet_loss,
) -> jax.Array:
    """Frobenius norms of `example_gradients`, which has the arguments: float [b, l], in the order of the paths."""
    gradients = example_gradients(module, variables, images, labels, paths=paths, loss=loss)
    return jnp.stack([jnp.linalg.norm(gradients[path].reshape(len(images), -1), axis=1) for path in paths], axis=1)


def as_pytree(fn: Callable[..., Any]) -> jax.tree_util.Partial:
    """Returns a function as an argument of a compiled one: what a `Partial` holds can change, others are static."""
    return fn if isinstance(fn, jax.tree_util.Partial) else jax.tree_util.Partial(fn)


def parameters_at(variables: Mapping[str, Any], paths: Sequence[Path]) -> dict[Path, jax.Array]:
    """Returns path → array of all parameters, after a check that `paths` are among them.

    Raises:
      InputError: names those that are not, and the parameters there are.
    """
    params: dict[Path, jax.Array] = traverse_util.flatten_dict(dict(variables["params"]))
    if unknown := ["/".join(path) for path in paths if path not in params]:
        known = ", ".join("/".join(path) for path in params)
        raise fail("paths", f"no parameter {', '.join(unknown)}", f"There are: {known}.")
    if not paths:
        raise fail("paths", "none", "Name at least one parameter.")
    return params
