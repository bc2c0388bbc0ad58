"""Feature quality: nearest neighbours in the space that neighbourhood components analysis finds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype
from transferjax.metrics._lbfgs import minimize

NUM_COMPONENTS = 50
MAX_ITERATIONS = 50
TOLERANCE = 1e-5
NUM_NEIGHBORS = 5
NUM_FOLDS = 5


@jax.jit
def nca_loss_and_gradient(
    transform: jax.Array, features: jax.Array, labels: jax.Array, present: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The objective of neighbourhood components analysis, negated, and its gradient.

    Example i picks another, j, as its neighbour with probability q_ij = softmax_j(-‖A·x_i - A·x_j‖²); the objective is
    the expected number of examples that pick one of their own class. The gradient is written out: with p_i the
    probability of the own class and w_ij = q_ij·(same_ij - p_i) it needs w_ij + w_ji only, which follow from the one
    distance of i and j; so nothing of size n x n is transposed, and each n x n array is read once or twice.

    Args:
      transform: A, float [k, d].
      features: float [n, d]; centre them, so that distances do not cancel.
      labels: int [n].
      present: bool [n], false for rows that fill up the array: nobody's neighbours, and not counted.

    Returns:
      Loss (scalar in -n..0, smaller is better) and gradient [k, d], in the dtype of the input. O(n²) memory.

    References:
      Goldberger, Hinton, Roweis, Salakhutdinov, 2004. Neighbourhood components analysis.
      https://papers.nips.cc/paper/2566-neighbourhood-components-analysis
    """
    mapped = jnp.matmul(features, transform.T, precision="highest")
    squares = jnp.sum(mapped**2, axis=1)
    distances = squares[:, None] + squares - 2 * jnp.matmul(mapped, mapped.T, precision="highest")
    apart = jnp.eye(len(mapped), dtype=bool)
    if present is not None:
        apart = apart | ~present | ~present[:, None]
    distances = jnp.where(apart, jnp.inf, distances)
    nearest = jnp.min(distances, axis=1)
    nearest = jnp.where(jnp.isfinite(nearest), nearest, 0)  # of an example without another, and of filled rows
    closeness = jnp.exp(nearest[:, None] - distances)
    same = labels[:, None] == labels
    total = jnp.sum(closeness, axis=1)
    inverse = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    right = jnp.sum(jnp.where(same, closeness, 0), axis=1) * inverse
    picked = closeness * inverse[:, None] * (same - right[:, None])
    picked_by = jnp.exp(nearest - distances) * inverse * (same - right)
    ones = jnp.ones_like(mapped[:, :1])  # for the sums of the weights: they cost a column and not a pass
    pulls = jnp.matmul(picked + picked_by, jnp.concatenate([mapped, ones], axis=1), precision="highest")
    pull = pulls[:, :-1] - pulls[:, -1:] * mapped
    return -jnp.sum(right), -2 * jnp.matmul(pull.T, features, precision="highest")


@jax.jit
def nca(features: jax.Array, labels: jax.Array, start: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """Fits the map by L-BFGS, as scikit-learn does: at most 50 iterations, tolerance 1e-5.

    All of it in float64: in float32 the line search sees rounding, and where the path is cut off after 50 iterations
    then depends on it.

    Args:
      features: float64 [n, d], centred.
      labels: int [n].
      start: float64 [k, d].
      present: bool [n], see `nca_loss_and_gradient`; the features of the other rows are 0.

    Returns:
      float64 [k, d]. Call it, and use its result, inside `jax.enable_x64(True)`.
    """
    fitted = minimize(
        lambda transform: nca_loss_and_gradient(transform, features, labels, present),
        start,
        max_iterations=MAX_ITERATIONS,
        tolerance=TOLERANCE,
    )
    return fitted.point


@jax.jit
def _published(features: jax.Array, labels: jax.Array, scatter: Scatter, total: Spectrum) -> jax.Array:
    n, d = features.shape
    if min(n, d) > NUM_COMPONENTS:
        points, start = scatter.points, total.vectors[:, :NUM_COMPONENTS].T
    else:  # then the published start is the first coordinates
        points, start = features, jnp.eye(min(NUM_COMPONENTS, d), d, dtype=jnp.float64)
    points = points.astype(jnp.float64)
    points = points - jnp.mean(points, axis=0)
    mapped = jnp.matmul(points, nca(points, labels, start).T, precision="highest")
    return _linalg.neighbor_share(mapped, labels, num_neighbors=NUM_NEIGHBORS, include_self=True)


@functools.partial(jax.jit, static_argnames=("num_classes",))
def feature_quality(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """How well the features separate the target's classes, as the paper measures it.

    A linear map to 50 dimensions (all d, if there are fewer) by neighbourhood components analysis; then the mean share
    of the own class among the 5 nearest neighbours in the mapped space.

    As published, an example is its own first neighbour and the map was fitted to the very examples it is judged on, so
    random labels do not give chance: about .65 at n=200, d=512, c=2 and .75 at d=64. Compare scores on the same
    examples only, or take `feature_quality_loo`.

    Invariances: translation.

    Args:
      features: float [n, d].
      labels: int [n].
      num_classes: c.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar in 1/5..1; bigger is better. float64 for float64 features, else float32. Deviation from the published code:
      its randomised PCA is exact here, so that agreement with it is statistical.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172
    """
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        total = total or _linalg.spectrum(scatter.total)
        return _published(features, labels, scatter, total).astype(output_dtype(features))


@functools.partial(jax.jit, static_argnames=("num_classes",))
def feature_quality_cross_fitted(
    features: jax.Array, labels: jax.Array, *, num_classes: int, scatter: Scatter | None = None
) -> jax.Array:
    """How well a map that separates some examples by class separates other examples: feature quality without optimism.

    The examples are dealt to 5 folds (`deal`). For each fold the map of `feature_quality` is fitted to the examples of
    the other folds; each example of the fold is judged by the share of its class among its 5 nearest neighbours, in the
    mapped space, out of the examples that the map was fitted to. It is its own neighbour nowhere.

    Random labels give chance: Σ_c (n_c/n)² for classes of n_c examples, that is 1/c for balanced ones. An example that
    is alone in its class scores 0.

    Invariances: rotation, translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1.
      num_classes: c.
      scatter: of features and labels, if known.

    Returns:
      Scalar in 0..1; bigger is better. float64 for float64 features, else float32. The start is the principal axes
      whatever the numbers of examples and features.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172. There the map is judged on the examples it was fitted to.
    """
    n = len(features)
    size = -(-n // NUM_FOLDS)  # of the largest fold
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        points = scatter.points.astype(jnp.float64) - scatter.mean
        order = deal(points, labels, scatter.counts)

        def rights(fold: jax.Array) -> jax.Array:
            """Sum of the shares of the fold's examples; places beyond the last are masked, to have one shape."""
            rounds = NUM_FOLDS * jnp.arange(size)[:, None]
            others = jnp.arange(NUM_FOLDS - 1)
            places = (rounds + others + (others >= fold)).ravel()
            present, chosen = places < n, order[jnp.minimum(places, n - 1)]
            mean = jnp.sum(points[chosen] * present[:, None], axis=0) / jnp.sum(present)
            known = (points[chosen] - mean) * present[:, None]
            start = _linalg.principal_axes(known, min(NUM_COMPONENTS, *known.shape))
            transform = nca(known, labels[chosen], start, present)

            places = rounds[:, 0] + fold
            judged, asked = places < n, order[jnp.minimum(places, n - 1)]
            mapped = jnp.matmul(known, transform.T, precision="highest")
            queries = jnp.matmul(points[asked] - mean, transform.T, precision="highest")
            squares = jnp.where(present, jnp.sum(mapped**2, axis=1), jnp.inf)
            distances = squares - 2 * jnp.matmul(queries, mapped.T, precision="highest")
            found = _linalg.smallest(distances, min(NUM_NEIGHBORS, n - size))
            alike = labels[chosen][found] == labels[asked][:, None]
            return jnp.sum(jnp.mean(alike, axis=1, dtype=jnp.float64) * judged)

        total = jnp.sum(jax.lax.map(rights, jnp.arange(NUM_FOLDS)))
        return (total / n).astype(output_dtype(features))


def deal(points: jax.Array, labels: jax.Array, counts: jax.Array) -> jax.Array:
    """Returns the order in which examples are dealt to folds in turn: place i is of fold i mod 5.

    Class after class, in a class by distance from the mean: so each fold gets its share of every class (to within one)
    and of near and far examples, folds differ by one example at most, and neither the order of the examples nor the
    names of the classes matter, nor do rotation, translation and scale. Small classes come first, of equally large
    ones that with the nearest example.

    Args:
      points: float [n, r], centred.
      labels: int [n] in 0..c-1.
      counts: [c], examples of each class.

    Returns:
      int32 [n].
    """
    distances = jnp.sum(points**2, axis=1)
    nearest = jnp.full(counts.shape, jnp.inf).at[labels].min(distances)
    return jnp.lexsort((distances, labels, nearest[labels], counts[labels])).astype(jnp.int32)


METRICS = (
    Metric(
        name="feature_quality",
        fn=feature_quality,
        inputs=("features", "labels"),
        shares=("scatter", "total"),
        max_examples=4096,  # the n x n matrices of the loss take about 600 MB there
        range=(0.0, 1.0),
        invariances=frozenset({"translation"}),
    ),
    Metric(
        name="feature_quality_loo",
        fn=feature_quality_cross_fitted,
        inputs=("features", "labels"),
        shares=("scatter",),
        max_examples=4096,
        range=(0.0, 1.0),
        invariances=frozenset({"rotation", "translation"}),
    ),
)
