"""NCE: how much the source head's own classes tell about the target's."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax.metrics._base import Metric, output_dtype


@functools.partial(jax.jit, static_argnames=("num_classes",))
def nce(logits: jax.Array, labels: jax.Array, *, num_classes: int) -> jax.Array:
    """Negative conditional entropy of the target's labels, given the class that the source head names.

    Σ_{y,z} P(y,z)·log(P(y,z)/P(z)), with z the class of the largest logit and P the empirical shares. Softmax and
    sigmoid heads name the same class.

    Invariances: none (it does not see the features).

    Args:
      logits: float [n, k]; of equally large ones the first counts.
      labels: int [n] in 0..c-1.
      num_classes: c.

    Returns:
      Scalar in -log(c)..0; bigger is better. With as many source classes as examples it is near 0 whatever the labels:
      compare heads of similar size only. float64 for float64 logits, else float32.

    References:
      Tran, Nguyen, Hassner, 2019. Transferability and hardness of supervised classification tasks.
      https://arxiv.org/abs/1908.08142. There both label sets are given; here the source's are the head's predictions.
    """
    n, k = logits.shape
    named = jax.lax.argmax(logits, 1, jnp.int32)
    with jax.enable_x64(True):
        joint = jnp.zeros((num_classes, k), jnp.float64).at[labels, named].add(1.0)
        marginal = jnp.sum(joint, axis=0)
        share = joint / jnp.maximum(marginal, 1)
        entropy = jnp.where(joint > 0, joint * jnp.log(jnp.where(joint > 0, share, 1)), 0)
        return (jnp.sum(entropy) / n).astype(output_dtype(logits))


METRIC = Metric(name="nce", fn=nce, inputs=("logits", "labels"), range=(-float("inf"), 0.0), resampling="bootstrap")
