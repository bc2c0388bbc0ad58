"""Pre-training of a small network on one data set: SGD with momentum and a cosine schedule."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from tqdm import tqdm

from transferjax.models import run
from transferjax.models.preprocessing import normalize
from transferjax.training.state import State
from transferjax.types import Normalization, TargetDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
      epochs: passes over the data.
      batch_size: the last batch of an epoch, if smaller, is left out (its images come elsewhere in the next epoch).
      learning_rate: at the start; it falls to 0 along a cosine.
      momentum: Nesterov's.
      weight_decay: added to the gradient, of kernels only.
    """

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4


def make_step(module: nn.Module, optimizer: optax.GradientTransformation, normalization: Normalization) -> Callable:
    """Returns the compiled training step: (state, images uint8 [b, h, w, 3], labels [b]) → (state, mean loss)."""

    def loss_of(params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        output, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
        return jnp.mean(losses), updated["batch_stats"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, images: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        inputs = normalize(images, normalization)
        (loss, batch_stats), grads = gradient(state.params, state.batch_stats, inputs, labels)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params=params, batch_stats=batch_stats, opt_state=opt_state), loss

    return step


def pretrain(
    module: nn.Module, dataset: TargetDataset, *, recipe: Recipe, normalization: Normalization, rng: jax.Array
) -> tuple[Any, list[float]]:
    """Trains from scratch with cross-entropy, on the images as they are.

    There is no augmentation: the class of most demo patches is that of their centre, and a shift would move it.

    Args:
      module: with a head of as many classes as the data set has.
      dataset: the training split.
      recipe: see `Recipe`.
      normalization: how images are scaled.
      rng: a JAX key for the initial weights and the order of the data.

    Returns:
      The variables {"params": ..., "batch_stats": ...} as NumPy float32, and the mean training loss of each epoch.
    """
    init_rng, data_rng = jax.random.split(rng)
    size = min(recipe.batch_size, len(dataset))
    num_batches = len(dataset) // size
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, recipe.epochs * num_batches)
    optimizer = optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, mask=_kernels_only),
        optax.sgd(schedule, momentum=recipe.momentum, nesterov=True),
    )
    variables = jax.jit(module.init)(init_rng, normalize(jnp.asarray(dataset.images[:1]), normalization))
    state = State(
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
    )

    step = make_step(module, optimizer, normalization)
    history = []
    for epoch in tqdm(range(recipe.epochs), desc=f"pretrain {dataset.name}", unit="epoch", disable=None):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(data_rng, epoch), len(dataset)))
        losses = []
        for batch in order[: num_batches * size].reshape(num_batches, size):
            state, loss = step(state, dataset.images[batch], dataset.labels[batch])
            losses.append(loss)
        history.append(float(np.mean(losses)))
    trained = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.tree.map(np.asarray, trained), history


def predict(
    module: nn.Module, variables: Any, dataset: TargetDataset, *, normalization: Normalization, batch_size: int = 256
) -> np.ndarray:
    """Returns the probabilities float32 [n, c] of each image's classes."""

    @jax.jit
    def probabilities(variables: Any, images: jax.Array) -> jax.Array:
        return jax.nn.softmax(run(module, variables, normalize(images, normalization)).logits, axis=1)

    parts = [
        np.asarray(probabilities(variables, dataset.images[start : start + batch_size]))
        for start in range(0, len(dataset), batch_size)
    ]
    return np.concatenate(parts)


def _kernels_only(params: Any) -> Any:
    """True for the leaves of more than one dimension: BatchNorm and biases are not decayed."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
