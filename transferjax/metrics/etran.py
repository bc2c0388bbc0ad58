"""ETran: does the source know such images, and do its features separate the classes?"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype
from transferjax.metrics.lda import lda


@functools.partial(jax.jit, static_argnames=("num_classes",))
def etran(
    features: jax.Array,
    labels: jax.Array,
    logits: jax.Array,
    *,
    num_classes: int,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """Mean energy of the source's logits plus the classification score `lda`.

    The energy of an example is log Σ_z exp(logit_z): high where the source head is sure of some class of its own, that
    is where the target looks like what the source was trained on. It has the unit of logits: compare sources of the
    same head size and training.

    Deviations: the authors' code takes the energy of the features, of the half percent of examples with the lowest
    only, and mixes energy and `lda` with weights .15 and .85 after scaling each over the candidates; and its `lda` is
    another (see there). Here it is the sum that the paper defines.

    Invariances: rotation, translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1.
      logits: float [n, k].
      num_classes: c.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar; bigger is better. float64 for float64 features, else float32.

    References:
      Gholami, Akbari, Wang, Kamranian, Zhang, 2023. ETran: energy-based transferability estimation.
      https://arxiv.org/abs/2308.02027
    """
    with jax.enable_x64(True):
        energy = jnp.mean(jax.nn.logsumexp(logits.astype(jnp.float64), axis=1))
        separation = lda(features, labels, num_classes=num_classes, scatter=scatter, total=total)
        return (energy + separation.astype(jnp.float64)).astype(output_dtype(features))


METRIC = Metric(
    name="etran",
    fn=etran,
    inputs=("features", "labels", "logits"),
    shares=("scatter", "total"),
    invariances=frozenset({"rotation", "translation"}),
)
