"""What a training step changes and what it is told, as pytrees."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from transferjax.training.recipes import Settings

HEAD, DROPOUT, ORDER, AUGMENT = range(4)
"""What randomness is for: the fresh head, dropout, the order of images, their augmentation."""


def stream(seed: Any, purpose: int) -> jax.Array:
    """Returns the key from which all randomness of a seed for one purpose comes, by `fold_in` of epochs and steps.

    So nothing has to be remembered, and training that goes on after an interruption draws what it would have drawn.
    """
    return jax.random.fold_in(jax.random.key(seed), purpose)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What a training step changes: parameters, BatchNorm statistics, the optimizer's memory."""

    params: Any
    batch_stats: Any
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """`Settings` as arrays: other values compile nothing again, and members can differ in them.

    Attributes:
      learning_rate: float32, as are the following.
      momentum: Nesterov's.
      weight_decay: added to the gradient.
      seed: uint32.
    """

    learning_rate: Any
    momentum: Any
    weight_decay: Any
    seed: Any


def optimizer(hyper: Hyperparameters, rate: Any) -> optax.GradientTransformation:
    """Returns PyTorch's SGD with Nesterov's momentum; `rate` multiplies the learning rate. See `Settings`."""
    return optax.chain(
        optax.add_decayed_weights(hyper.weight_decay),
        optax.trace(decay=hyper.momentum, nesterov=True),
        optax.scale(-hyper.learning_rate * rate),
    )


def hyperparameters(settings: Settings) -> Hyperparameters:
    """Returns settings as scalars."""
    return Hyperparameters(
        learning_rate=np.float32(settings.learning_rate),
        momentum=np.float32(settings.momentum),
        weight_decay=np.float32(settings.weight_decay),
        seed=np.uint32(settings.seed),
    )


def fresh_state(params: Any, batch_stats: Any, hyper: Hyperparameters) -> State:
    """Returns the state before the first step.

    Args:
      params: to be trained.
      batch_stats: of the network, {} if it has none or is not trained.
      hyper: of the run.
    """
    return State(params=params, batch_stats=batch_stats, opt_state=optimizer(hyper, 1.0).init(params))
