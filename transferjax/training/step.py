"""The programs of training: a block of steps, predictions, and how good they are, of one member."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from transferjax.data.augment import Recipe as Augmentation
from transferjax.data.augment import augment
from transferjax.evaluation.classification import device_accuracy, device_auc
from transferjax.training.network import Design, logits_of, training_logits
from transferjax.training.state import DROPOUT, Hyperparameters, State, optimizer, stream
from transferjax.types import Normalization

# What JAX is told of products in training passes. By themselves GPUs and TPUs round float32 factors.
_PRODUCTS = {"float32": "highest", "tensorfloat32": "tensorfloat32", "bfloat16": "bfloat16"}


def mean_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy; of a multi-label target the binary one, over all labels that are known.

    Args:
      logits: float [n, c].
      labels: int [n] in 0..c-1; or [n, c] of 0, 1, and -1 for a missing label.
    """
    if labels.ndim == 1:
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))
    known = labels >= 0
    losses = optax.losses.sigmoid_binary_cross_entropy(logits, jnp.where(known, labels, 0).astype(logits.dtype))
    return jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(jnp.sum(known), 1)


def probabilities_of(logits: jax.Array, *, multilabel: bool) -> jax.Array:
    """Returns probabilities float [n, c]: by softmax, or one by one of a multi-label target."""
    return jax.nn.sigmoid(logits) if multilabel else jax.nn.softmax(logits, axis=-1)


def train_step(
    state: State,
    hyper: Hyperparameters,
    rate: jax.Array,
    frozen: Any,
    inputs: jax.Array,
    labels: jax.Array,
    normalization: Normalization,
    key: jax.Array,
    *,
    design: Design,
    accumulate: int = 1,
) -> tuple[State, jax.Array]:
    """One step of SGD.

    Args:
      state: before it.
      hyper: of the member.
      rate: by what its learning rate is multiplied.
      frozen: see `Design`.
      inputs: uint8 [b, h, w, 3], or features [b, d].
      labels: int [b] or [b, c].
      normalization: how the network wants its images.
      key: of dropout.
      design: static.
      accumulate: a divisor of b; static. See `FineTuning`.

    Returns:
      The state after it, and the mean loss before it.
    """

    def loss_of(params: Any, batch_stats: Any, inputs: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        logits, batch_stats = training_logits(design, params, batch_stats, frozen, inputs, normalization, key)
        return mean_loss(logits, labels), batch_stats

    def gradient(*args: Any) -> Any:
        with jax.default_matmul_precision(_PRODUCTS[design.precision]):  # of the way back too
            return jax.value_and_grad(loss_of, has_aux=True)(*args)

    if accumulate == 1:
        (loss, batch_stats), grads = gradient(state.params, state.batch_stats, inputs, labels, key)
    else:

        def add(carry: Any, part: Any) -> Any:
            total, grads, batch_stats = carry
            (loss, batch_stats), new = gradient(state.params, batch_stats, *part)
            return (
                total + loss / accumulate,
                jax.tree.map(lambda a, b: a + b / accumulate, grads, new),
                batch_stats,
            ), None

        parts = tuple(array.reshape(accumulate, -1, *array.shape[1:]) for array in (inputs, labels))
        start = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
        keys = jax.random.split(key, accumulate)
        (loss, grads, batch_stats), _ = jax.lax.scan(add, start, (*parts, keys))
    updates, opt_state = optimizer(hyper, rate).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params=params, batch_stats=batch_stats, opt_state=opt_state), loss


def augment_block(
    inputs: jax.Array, epoch: jax.Array, first: jax.Array, key: jax.Array, *, recipe: Augmentation, size: int
) -> jax.Array:
    """Augments the images of some batches, once for all members.

    Args:
      inputs: uint8 [k, b, h, w, 3].
      epoch: its number.
      first: number of the first of these batches in its epoch.
      key: what becomes of an image depends on this, the epoch and its place in that.
      recipe: static.
      size: height and width of the result; static.

    Returns:
      uint8 [k, b, size, size, 3].
    """
    steps, batch = inputs.shape[:2]
    places = first * batch + jnp.arange(steps * batch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, epoch), places)
    flat = inputs.reshape(-1, *inputs.shape[2:])
    return augment(flat, keys, size=size, recipe=recipe, normalization=None).reshape(steps, batch, size, size, 3)


def train_block(
    state: State,
    hyper: Hyperparameters,
    frozen: Any,
    inputs: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    epoch: jax.Array,
    first: jax.Array,
    rate: jax.Array,
    normalization: Normalization,
    *,
    design: Design,
    accumulate: int,
) -> tuple[State, jax.Array]:
    """Takes a step over each of some batches.

    Args:
      state: before them.
      hyper: of the member.
      frozen: see `Design`.
      inputs: uint8 [k, b, h, w, 3], or features [k, b, d].
      labels: int [k, b] or [k, b, c].
      valid: bool [k]; no step is taken over the others, which only fill a block.
      epoch: its number.
      first: number of the block's first step in its epoch.
      rate: by what the learning rate is multiplied.
      normalization: how the network wants its images.
      design: static.
      accumulate: see `train_step`; static.

    Returns:
      The state after them, and the sum of the losses.
    """
    key = jax.random.fold_in(stream(hyper.seed, DROPOUT), epoch)

    def take(state: State, step: Any) -> tuple[State, jax.Array]:
        number, batch, labels = step
        own = jax.random.fold_in(key, number)
        return train_step(
            state, hyper, rate, frozen, batch, labels, normalization, own, design=design, accumulate=accumulate
        )

    def one(state: State, step: Any) -> tuple[State, jax.Array]:
        return jax.lax.cond(step[0], take, lambda state, _: (state, jnp.float32(0)), state, step[1])

    numbers = first + jnp.arange(len(inputs))
    state, losses = jax.lax.scan(one, state, (valid, (numbers, inputs, labels)))
    return state, jnp.sum(losses)


def predict_block(
    params: Any, batch_stats: Any, frozen: Any, inputs: jax.Array, normalization: Normalization, *, design: Design
) -> jax.Array:
    """Returns the logits float32 [k·b, c] of inputs [k, b, ...] in inference mode; arguments as in `train_block`."""

    def predict(inputs: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return logits_of(design, params, batch_stats, frozen, inputs, normalization)

    logits = jax.lax.map(predict, inputs)
    return logits.reshape(-1, logits.shape[-1])


def judge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns loss, AUC and accuracy, float32 [3]: logits [n, c], labels [n] or [n, c]."""
    probabilities = probabilities_of(logits, multilabel=labels.ndim == 2)
    scores = mean_loss(logits, labels), device_auc(probabilities, labels), device_accuracy(probabilities, labels)
    return jnp.stack(scores)
