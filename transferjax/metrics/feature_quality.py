"""Feature quality: nearest neighbours in the space that neighbourhood components analysis finds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from transferjax._linalg import neighbor_share, principal_axes
from transferjax.metrics._base import Metric, output_dtype

NUM_COMPONENTS = 50
MAX_ITERATIONS = 50
TOLERANCE = 1e-5
NUM_NEIGHBORS = 5


@jax.jit
def nca_loss_and_gradient(transform: jax.Array, features: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The objective of neighbourhood components analysis, negated, and its gradient.

    Example i picks another, j, as its neighbour with probability q_ij = softmax_j(-‖A·x_i - A·x_j‖²); the objective is
    the expected number of examples that pick one of their own class. The gradient is written out: its two matrix
    products take about four fifths of the time of the automatic one (n=1100, d=512; `experiments/benchmark.py`).

    Args:
      transform: A, float [k, d].
      features: float [n, d]; centre them, so that distances do not cancel.
      labels: int [n].

    Returns:
      Loss (scalar in -n..0, smaller is better) and gradient [k, d], in the dtype of the input. O(n²) memory.

    References:
      Goldberger, Hinton, Roweis, Salakhutdinov, 2004. Neighbourhood components analysis.
      https://papers.nips.cc/paper/2566-neighbourhood-components-analysis
    """
    mapped = jnp.matmul(features, transform.T, precision="highest")
    squares = jnp.sum(mapped**2, axis=1)
    distances = squares[:, None] + squares - 2 * jnp.matmul(mapped, mapped.T, precision="highest")
    picks = jax.nn.softmax(jnp.where(jnp.eye(len(mapped), dtype=bool), -jnp.inf, -distances), axis=1)
    same = labels[:, None] == labels
    right = jnp.sum(jnp.where(same, picks, 0), axis=1)
    weights = picks * (same - right[:, None])
    pull = jnp.matmul(weights + weights.T, mapped, precision="highest") - jnp.sum(weights, axis=0)[:, None] * mapped
    return -jnp.sum(right), -2 * jnp.matmul(pull.T, features, precision="highest")


def nca(features: jax.Array, labels: jax.Array) -> jax.Array:
    """Fits the map: L-BFGS (SciPy's, on the host) around the compiled loss and gradient, from the principal axes.

    All of it in float64, as in scikit-learn: in float32 the line search sees rounding, and where the path is cut off
    after 50 iterations then depends on it.

    Args:
      features: float [n, d], centred.
      labels: int [n].

    Returns:
      float64 [min(50, d), d]. Call it, and use its result, inside `jax.enable_x64(True)`.
    """
    n, d = features.shape
    k = min(NUM_COMPONENTS, d)
    features = features.astype(jnp.float64)
    # the published start: principal axes if there are more than 50, else the first coordinates
    start = np.asarray(principal_axes(features, k)) if k < min(n, d) else np.eye(k, d)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = nca_loss_and_gradient(jnp.asarray(flat.reshape(k, d)), features, labels)
        return float(loss), np.asarray(gradient).ravel()

    result = scipy.optimize.minimize(
        loss_and_gradient,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "ftol": TOLERANCE, "gtol": TOLERANCE},
    )
    return jnp.asarray(result.x.reshape(k, d))


def feature_quality(
    features: jax.Array, labels: jax.Array, *, num_classes: int, leave_one_out: bool = False
) -> jax.Array:
    """How well the features separate the target's classes, as the paper measures it.

    A linear map to 50 dimensions (all d, if there are fewer) by neighbourhood components analysis; then the mean share
    of the own class among the 5 nearest neighbours in the mapped space.

    As published, an example is its own first neighbour and the map was fitted to the very examples it is judged on, so
    random labels do not give chance: .73 at n=200, c=2 and .52 at n=800, c=8. Compare scores on the same examples only.

    Args:
      features: float [n, d].
      labels: int [n].
      num_classes: c; not needed, present because every metric of features and labels takes it.
      leave_one_out: leaves the example out of its own neighbours (preset `feature_quality_loo`). What optimism remains
        is the map's, which was still fitted to the same examples.

    Returns:
      Scalar in 0..1 (at least 1/5 as published); bigger is better. float64 for float64 features, else float32.
      Deviation from the published code: its randomised PCA is exact here, so that agreement with it is statistical.
      Not traceable as a whole (SciPy's optimiser is around it); the loss and the neighbours are compiled.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172
    """
    del num_classes
    dtype = output_dtype(features)
    with jax.enable_x64(True):
        wide = features.astype(jnp.float64)
        wide = wide - jnp.mean(wide, axis=0)
        mapped = jnp.matmul(wide, nca(wide, labels).T, precision="highest")
        share = neighbor_share(mapped, labels, num_neighbors=NUM_NEIGHBORS, include_self=not leave_one_out)
        return share.astype(dtype)


def _metric(name: str, *, leave_one_out: bool) -> Metric:
    return Metric(
        name=name,
        fn=functools.partial(feature_quality, leave_one_out=leave_one_out),
        inputs=("features", "labels"),
        jittable=False,
        max_examples=4096,  # the n x n matrices of the loss take about 400 MB there
        range=(0.0, 1.0),
        invariances=frozenset({"translation"}),
    )


METRICS = (_metric("feature_quality", leave_one_out=False), _metric("feature_quality_loo", leave_one_out=True))
