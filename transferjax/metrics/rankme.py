"""RankMe: how many dimensions the features really use."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

_EPSILON = 1e-7


@jax.jit
def rankme(features: jax.Array, *, scatter: Scatter | None = None, gram: Spectrum | None = None) -> jax.Array:
    """Effective rank of the features: the exponential of the entropy of their singular values. It sees no labels.

    With p_j = σ_j/Σσ + 1e-7, exp(-Σ_j p_j·log p_j) over the min(n, d) singular values of the features, not centred, as
    in the paper.

    Invariances: rotation, scaling.

    Args:
      features: float [n, d].
      scatter: of the features, if known.
      gram: spectrum of `scatter.gram`, if known.

    Returns:
      Scalar in about 1..min(n, d) (0 for features that are all zero); bigger is better. float64 for float64 features,
      else float32. A singular value below 1e-8 of the largest is taken from a Gram matrix and not exact, which moves
      the score by less than that.

    References:
      Garrido, Balestriero, Najman, LeCun, 2023. RankMe: assessing the downstream performance of pretrained
      self-supervised representations by their rank. https://arxiv.org/abs/2210.02885
    """
    with jax.enable_x64(True):
        if gram is None:
            scatter = scatter or _linalg.scatter(features, jnp.zeros((len(features), 1), jnp.int32), num_classes=1)
            gram = _linalg.spectrum(scatter.gram)
        singular = jnp.sqrt(gram.values)
        total = jnp.sum(singular)
        shares = singular / jnp.where(total > 0, total, 1) + _EPSILON
        rank = jnp.exp(-jnp.sum(shares * jnp.log(shares)))
        return jnp.where(total > 0, rank, 0).astype(output_dtype(features))


METRIC = Metric(
    name="rankme",
    fn=rankme,
    inputs=("features",),
    static=(),
    shares=("scatter", "gram"),
    range=(0.0, float("inf")),
    invariances=frozenset({"rotation", "scaling"}),
)
