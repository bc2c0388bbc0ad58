"""The regularised Fisher discriminant that several metrics share. All of it inside `jax.enable_x64(True)`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum

# Examples per dimension that the guard asks for.
EXAMPLES_PER_DIMENSION = 10


class FisherSpace(NamedTuple):
    """Where discriminants are fitted: the features, or their leading principal components.

    Attributes:
      num_dimensions: q, of the space; its coordinates may be fewer, see `Scatter`.
      centre: [r], subtracted before the projection; None without one.
      axes: [r, q], the principal axes; None without a projection.
      means: [c, q], of the classes.
      within: [q, q], within-class covariance.
      log_priors: [c], -inf for a class without examples.
      shrinkage: λ, see `fisher_space`.
    """

    num_dimensions: int
    centre: jax.Array | None
    axes: jax.Array | None
    means: jax.Array
    within: jax.Array
    log_priors: jax.Array
    shrinkage: jax.Array

    def centred(self, rows: jax.Array) -> jax.Array:
        """Subtracts the centre from examples [b, r]."""
        return rows if self.centre is None else rows - self.centre

    def projected(self, rows: jax.Array) -> jax.Array:
        """Brings differences or weighted sums of centred examples, [b, r], into the space, [b, q]."""
        return rows if self.axes is None else jnp.matmul(rows, self.axes, precision="highest")

    def reduced(self, rows: jax.Array) -> jax.Array:
        """Brings examples [b, r] into the space, [b, q]."""
        return self.projected(self.centred(rows))

    def products(self, rows: jax.Array, rule: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Returns the products of examples [b, r] with the weights of a rule in the space, [b, c].

        Without bringing the examples there, which takes q/c times as long.
        """
        weights = rule[0].T if self.axes is None else jnp.matmul(self.axes, rule[0].T, precision="highest")
        return jnp.matmul(self.centred(rows), weights, precision="highest")

    def class_scores(self, rows: jax.Array, rule: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Returns the logarithms, up to a term that all classes share, of P(class | example): [b, c] of rows [b, r]."""
        return self.products(rows, rule) - rule[1] + self.log_priors


def fisher_space(scatter: Scatter, total: Spectrum | None, d: int, *, examples_per_dimension: int) -> FisherSpace:
    """Returns the space and how much the covariance is shrunk in it.

    Where the number of dimensions is near that of the examples, any labels can be separated and every discriminant's
    score is 1. The guard keeps the leading n/`examples_per_dimension` principal components, if there are more features.

    Args:
      scatter: of features and labels.
      total: spectrum of `scatter.total`, if known.
      d: number of features.
      examples_per_dimension: how many examples the guard asks for; 0 for no guard.

    Returns:
      With λ = max(exp(-5σ), 1e-10), σ the largest eigenvalue of the within-class covariance; without the guard σ is
      the authors' estimate of it, by power iteration from the row sums.
    """
    n = len(scatter.points)
    centre, axes, means, within = None, None, scatter.means, scatter.within
    q = max(1, n // examples_per_dimension) if examples_per_dimension else d
    if q < d:
        total = total or _linalg.spectrum(scatter.total)
        axes, centre = total.vectors[:, :q], scatter.mean
        means = jnp.matmul(means - centre, axes, precision="highest")
        within = jnp.matmul(axes.T, jnp.matmul(within, axes, precision="highest"), precision="highest")
        d = min(q, len(total.values))
    within = within / n
    guarded = bool(examples_per_dimension)
    largest = jnp.linalg.eigvalsh(within)[-1] if guarded else _estimated_eigenvalue(within, scatter.ones)
    counts = scatter.counts
    log_priors = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1) / n), -jnp.inf)
    return FisherSpace(d, centre, axes, means, within, log_priors, jnp.maximum(jnp.exp(-5 * largest), 1e-10))


def discriminant(
    within: jax.Array, means: jax.Array, shrinkage: jax.Array, num_dimensions: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the weights [c, q] and offsets [c] of the classes' scores: S⁻¹·m and m·S⁻¹·m/2.

    S is the covariance shrunk to (1-λ)·W + λ·tr(W)/q·I. All eigenvectors of the generalised problem that the authors of
    SFDA solve together are just S⁻¹, so none is computed.

    Args:
      within: W, [q, q], covariance within the classes.
      means: [c, q].
      shrinkage: λ.
      num_dimensions: q, by which the trace is divided.
    """
    floor = 1e-14 * jnp.sum(means**2) / means.size + 1e-200  # for classes without any spread
    ridge = shrinkage * jnp.trace(within) / num_dimensions + floor
    shrunk = (1 - shrinkage) * within + ridge * jnp.eye(len(within))
    weights = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(shrunk, lower=True), means.T).T
    return weights, jnp.sum(means * weights, axis=1) / 2


def _estimated_eigenvalue(matrix: jax.Array, ones: jax.Array) -> jax.Array:
    """Returns the authors' estimate: three double steps of power iteration from the matrix's row sums."""

    def step(vector: jax.Array) -> jax.Array:
        product = matrix @ vector
        return product / jnp.maximum(jnp.linalg.norm(product), jnp.finfo(jnp.float64).tiny)

    after = matrix @ ones
    for _ in range(3):
        before = step(after)
        after = step(before)
    return after @ matrix @ before
