"""PED: the classes are pushed apart as fine-tuning would, then scored."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter
from transferjax.metrics._base import Metric, output_dtype
from transferjax.metrics._fisher import EXAMPLES_PER_DIMENSION, fisher_space
from transferjax.metrics.sfda import self_challenged

MAX_STEPS = 6
EXIT_RATIO = 0.5
TIME_STEP = 0.1
NUM_SIGMAS = 0.6


@functools.partial(jax.jit, static_argnames=("num_classes",))
def ped(
    features: jax.Array, labels: jax.Array, *, num_classes: int, num_sigmas: float = NUM_SIGMAS,
    scatter: Scatter | None = None,
) -> jax.Array:  # fmt: skip
    """Potential energy decline: SFDA of features whose classes have moved out of each other's way.

    Each class is a ball around its mean, its radius `num_sigmas` standard deviations (of the distance from the mean).
    Two balls that overlap by f repel each other: in a step of time t = 0.1 each moves by f·t²/2 along the line between
    the means. At most six such steps, as long as the classes together still move more than half as much as in the
    first; then `sfda`, with its guard, on the examples moved with their classes.

    Deviations: the authors' code first divides the features by their standard deviations on ImageNet's validation
    images, which a scoring of the target alone does not have; overlaps are relative to the classes' own spread, so
    nothing is divided here. It measures how much all moved by absolute values of coordinates, here by distances, so
    that the axes do not matter. Classes of equal means, for which it divides by zero, do not push each other.

    Invariances: rotation, translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; classes without examples are passed over.
      num_classes: c.
      num_sigmas: the authors try .3 and .6 and take the better; .6 is their default.
      scatter: of features and labels, if known.

    Returns:
      Scalar in 0..1; bigger is better. float64 for float64 features, else float32. Like `sfda` it depends on the
      features' scale.

    References:
      Li, Hu, Ge, Shan, Duan, 2023. Exploring model transferability through the lens of potential energy.
      https://arxiv.org/abs/2308.15074
    """
    d = features.shape[1]
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        counts, start = scatter.counts, scatter.means

        def add(state: jax.Array, rows: jax.Array, present: jax.Array, label: jax.Array) -> jax.Array:
            return state.at[label].add(present * jnp.sum((rows - start[label]) ** 2, axis=1))

        squares = _linalg.fold_rows(add, jnp.zeros(num_classes, jnp.float64), scatter.points, labels)
        radii = num_sigmas * jnp.sqrt(squares / jnp.maximum(counts, 1))
        reach = radii[:, None] + radii
        present = counts > 0
        pushing = present[:, None] & present & ~jnp.eye(num_classes, dtype=bool)

        def step(_: int, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            means, first, moving = state
            moves = _pushes(means, reach, pushing)
            size = jnp.sum(jnp.linalg.norm(moves, axis=1))
            first = jnp.where(first < 0, size, first)
            moving = moving & (size > EXIT_RATIO * first)
            return jnp.where(moving, means + moves, means), first, moving

        means, _, _ = jax.lax.fori_loop(0, MAX_STEPS, step, (start, jnp.float64(-1.0), jnp.bool_(True)))
        moved = scatter._replace(means=means)
        space = fisher_space(moved, None, d, examples_per_dimension=EXAMPLES_PER_DIMENSION)
        score = self_challenged(space, scatter.points, labels, num_classes=num_classes, moves=means - start)
        return score.astype(output_dtype(features))


def _pushes(means: jax.Array, reach: jax.Array, pushing: jax.Array) -> jax.Array:
    """Returns how far each class moves in one step, [c, r]: Σ_j u_ij·(m_i - m_j), u the push over the distance."""
    centred = means - jnp.mean(means, axis=0)
    lengths = jnp.sum(centred**2, axis=1)
    squares = lengths[:, None] + lengths - 2 * jnp.matmul(centred, centred.T, precision="highest")
    apart = pushing & (squares > 1e-24 * jnp.max(lengths))  # below, it is rounding
    distances = jnp.sqrt(jnp.where(apart, squares, 1))
    overlap = jnp.maximum(reach - distances, 0)
    rates = jnp.where(apart, TIME_STEP**2 / 2 * overlap / distances, 0)
    return jnp.sum(rates, axis=1)[:, None] * centred - jnp.matmul(rates, centred, precision="highest")


METRIC = Metric(
    name="ped",
    fn=ped,
    inputs=("features", "labels"),
    shares=("scatter",),
    range=(0.0, 1.0),
    invariances=frozenset({"rotation", "translation"}),
)
