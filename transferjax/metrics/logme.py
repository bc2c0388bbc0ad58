"""LogME: the evidence of a Bayesian linear model from features to labels."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

_MAX_ITERATIONS = 11
_TOLERANCE = 1e-3
_EPSILON = 1e-5
_SMALLEST_ALPHA = 1e-100
_State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]  # iteration, α, β, evidence, change of α/β


@functools.partial(jax.jit, static_argnames=("num_classes", "rank_term"))
def logme(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    rank_term: bool = True,
    scatter: Scatter | None = None,
    gram: Spectrum | None = None,
) -> jax.Array:
    """Logarithm of the maximum evidence, per example, mean over one-vs-rest targets.

    A linear model with a Gaussian prior of precision α on its weights and Gaussian noise of precision β is fitted to
    the one-hot column of each class; α and β maximise the evidence by the fixed-point iteration of the 2021 paper, from
    α = β = 1, at most 11 times, until α/β changes by less than 1e-3. Features are not centred.

    Invariances: rotation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; or [n, c] of 0 and 1, each column a target of its own (a multi-label target).
      num_classes: c.
      rank_term: whether the d-r directions without data count as the evidence says, by -(d-r)/2·log α with
        r ≤ min(n, d) the number of directions with data. The authors' code leaves them out, and its score then grows
        with d whatever the features hold (`logme_published`).
      scatter: of features and labels, if known.
      gram: spectrum of `scatter.gram`, if known.

    Returns:
      Scalar; bigger is better. float64 for float64 features, else float32.

    References:
      You, Liu, Wang, Long, 2021. LogME: practical assessment of pre-trained models for transfer learning.
      https://arxiv.org/abs/2102.11005; its extension with the fixed point: https://arxiv.org/abs/2110.10545
    """
    dtype = output_dtype(features)
    n, d = features.shape
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        gram = gram or _linalg.spectrum(scatter.gram)
        if labels.ndim == 2:
            cross = _linalg.cross_products(scatter.points, labels)
            squares = jnp.sum(labels, axis=0, dtype=jnp.float64)
        else:
            cross, squares = (scatter.counts[:, None] * scatter.means).T, scatter.counts
        # A direction without data has eigenvalue 0 and enters the evidence as -log(α)/2: just the rank term. It is
        # wanting only for directions outside the space of the examples; and the published code drops exact zeros.
        if rank_term:
            without_data = jnp.float64(d - len(gram.values))
        else:
            dead = jnp.sum(jnp.all(features == 0, axis=0), dtype=jnp.float64)
            without_data = -dead if n > d else jnp.float64(0.0)
        along = jnp.matmul(gram.vectors.T, cross, precision="highest") ** 2
        return jnp.mean(_evidence(gram.values, along, squares, n, d - without_data)).astype(dtype)


def _evidence(
    spectrum: jax.Array, projected: jax.Array, squares: jax.Array, n: int, num_weights: jax.Array
) -> jax.Array:
    """Returns the evidence per example of each target.

    Args:
      spectrum: [r], of XᵀX.
      projected: [r, c], (vᵀXᵀy)² for each eigenvector v and target y.
      squares: [c], ‖y‖².
      n: number of examples.
      num_weights: of the prior that count.

    Returns:
      float64 [c].
    """

    def solve(alpha: jax.Array, beta: jax.Array, along: jax.Array, square: jax.Array) -> tuple[jax.Array, ...]:
        """Returns γ, the weights' squared norm and the squared residual at α and β."""
        ratio = alpha / beta
        shrunk = (ratio + spectrum) ** 2
        gamma = jnp.sum(spectrum / (spectrum + ratio))
        return gamma, jnp.sum(along / shrunk), square - jnp.sum(along * (2 * ratio + spectrum) / shrunk)

    def of_target(along: jax.Array, square: jax.Array) -> jax.Array:
        def step(state: _State) -> _State:
            index, alpha, beta, _, _ = state
            gamma, weights, residual = solve(alpha, beta, along, square)
            residual = jnp.maximum(residual, 0.0)
            # features that are zero throughout would give α = 0, whose logarithms cancel in the evidence but not here
            new_alpha = jnp.maximum(gamma / (weights + _EPSILON), _SMALLEST_ALPHA)
            new_beta = (n - gamma) / (residual + _EPSILON)
            evidence = (
                num_weights / 2 * jnp.log(new_alpha)
                + n / 2 * jnp.log(new_beta)
                - 0.5 * jnp.sum(jnp.log(new_alpha + new_beta * spectrum))
                - new_beta / 2 * residual
                - new_alpha / 2 * weights
                - n / 2 * jnp.log(2 * jnp.pi)
            ) / n
            change = jnp.abs(new_alpha / new_beta - alpha / beta) / (alpha / beta)
            return index + 1, new_alpha, new_beta, evidence, change

        def unfinished(state: _State) -> jax.Array:
            return (state[0] < _MAX_ITERATIONS) & (state[4] > _TOLERANCE)

        one = jnp.float64(1.0)
        start = (jnp.int32(0), one, one, jnp.float64(0.0), jnp.float64(jnp.inf))
        return jax.lax.while_loop(unfinished, step, start)[3]

    return jax.vmap(of_target, in_axes=(1, 0))(projected, squares)


def _metric(name: str, *, rank_term: bool) -> Metric:
    return Metric(
        name=name,
        fn=functools.partial(logme, rank_term=rank_term),
        inputs=("features", "labels"),
        shares=("scatter", "gram"),
        multilabel="columns" if rank_term else "refused",
        invariances=frozenset({"rotation"}),
    )


METRICS = (_metric("logme", rank_term=True), _metric("logme_published", rank_term=False))
