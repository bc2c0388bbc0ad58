"""LEEP: the log-likelihood of the target's labels under the source head's own classes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax.metrics._base import Metric, output_dtype, probabilities


@functools.partial(jax.jit, static_argnames=("num_classes", "head"))
def leep(logits: jax.Array, labels: jax.Array, *, num_classes: int, head: str = "softmax") -> jax.Array:
    """Log expected empirical prediction.

    With θ the source probabilities and P(y|z) the empirical share of target class y in source class z, the mean over
    examples of log Σ_z P(y_i|z)·θ_iz. A source class that never fires contributes nothing.

    Invariances: none (it does not see the features).

    Args:
      logits: float [n, k].
      labels: int [n] in 0..c-1.
      num_classes: c.
      head: how logits become θ, see `probabilities`.

    Returns:
      Scalar in (-inf, 0]; bigger is better. float64 for float64 logits, else float32.

    References:
      Nguyen, Hassner, Seeger, Archambeau, 2020. LEEP: a new measure to evaluate transferability of learned
      representations. https://arxiv.org/abs/2002.12462
    """
    dtype = output_dtype(logits)
    theta = probabilities(logits.astype(dtype), head)
    members = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    joint = jnp.matmul(members.T, theta, precision="highest")  # [c, k], n·P(y, z)
    marginal = jnp.sum(joint, axis=0)
    conditional = jnp.where(marginal > 0, joint / jnp.where(marginal > 0, marginal, 1), 0)
    likelihood = jnp.sum(conditional[labels] * theta, axis=1)
    return jnp.mean(jnp.log(jnp.maximum(likelihood, jnp.finfo(dtype).tiny)))


METRICS = (
    Metric(
        name="leep",
        fn=leep,
        inputs=("logits", "labels"),
        static=("num_classes", "head"),
        range=(-float("inf"), 0.0),
        resampling="bootstrap",
    ),
    # A softmax whatever the head was trained with: the published code's values that we know were made so.
    Metric(
        name="leep_published",
        fn=leep,
        inputs=("logits", "labels"),
        range=(-float("inf"), 0.0),
        multilabel="refused",
        resampling="bootstrap",
    ),
)
