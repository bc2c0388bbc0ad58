"""NCTI: how near the features are to neural collapse on the target."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._groups import class_members
from transferjax._linalg import Scatter, Spectrum
from transferjax._pca import default_solver_is_randomized, randomized_components
from transferjax.metrics._base import Metric, output_dtype

NUM_COMPONENTS = 64
_SHRINKAGE_COMPONENTS = 32
_SMALLEST_SHRINKAGE = 1e-10
_RANK_TOLERANCE = 1e-4  # of singular values, as in scikit-learn
_PUBLISHED_SEED = 42


@functools.partial(jax.jit, static_argnames=("num_classes", "max_class_size", "term", "published"))
def ncti(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    max_class_size: int,
    term: str,
    published: bool = False,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """One of the three terms of the neural-collapse transferability index.

    After PCA to 64 dimensions (fewer, if there are not so many) a linear discriminant analysis is fitted. Then

    - `"seli"` (preset `ncti_seli`): nuclear norm of the centred discriminant coordinates, at most c-1 of them;
    - `"ncc"` (`ncti_ncc`): mean probability of the true class;
    - `"vc"` (`ncti_vc`): -log Σ_c of the nuclear norm of the probabilities [n_c, c] of the examples of class c: the
      less they vary within the class, the bigger. By itself it also rewards a discriminant that is sure of nothing,
      whose probabilities hardly vary either.

    The index is their sum after each was scaled to 0..1 over the candidate sources, so it belongs to a list of them:
    see `transferjax.combine.combine_ncti`. The paper's tables hold the sum with the wrong sign of the third term.

    The discriminant is that of the authors' code: with λ = max(exp(-Σ of the 32 largest variances), 1e-10), the
    within-class covariance is shrunk by λ towards its mean variance if λ is above 1e-10. Else, as by scikit-learn's
    `"svd"` solver, it is taken as it is, and directions in which the classes have no spread are dropped.

    Invariances of ncti_seli, ncti_ncc and ncti_vc: rotation, translation.
    Invariances of ncti_seli_published, ncti_ncc_published and ncti_vc_published: translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; classes without examples are passed over.
      num_classes: c.
      max_class_size: no class has more examples (`TransferPair.max_class_size`).
      term: see above.
      published: what the paper's tables were computed from (presets with `_published`): scikit-learn's PCA, which for
        most sizes is a randomised one and here not converged, of seed 42. It moves the terms by up to a few percent,
        and makes them depend on the order of the examples where n < d.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known; not needed with the randomised PCA.

    Returns:
      Scalar, bigger is better: `"seli"` >= 0, `"ncc"` 0..1, `"vc"` any. float64 for float64 features, else float32. λ
      depends on the features' scale.

    References:
      Wang, Luo, Zheng, Huang, Baktashmotlagh, 2023. How far pre-trained models are from neural collapse on the target
      dataset informs their transferability. ICCV.
    """
    with jax.enable_x64(True):
        n, d = features.shape
        q = min(NUM_COMPONENTS, n, d)
        if published and default_solver_is_randomized(n, d, q):
            points, variances, _ = randomized_components(features, q, seed=_PUBLISHED_SEED)
            counts, means, within = _linalg.class_scatter(points, labels, num_classes=num_classes)
        else:
            scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
            total = total or _linalg.spectrum(scatter.total)
            centre, axes, counts = scatter.mean, total.vectors[:, :q], scatter.counts
            points = _linalg.map_rows(lambda row: jnp.matmul(row - centre, axes, precision="highest"), scatter.points)
            means = jnp.matmul(scatter.means - centre, axes, precision="highest")
            within = jnp.matmul(axes.T, jnp.matmul(scatter.within, axes, precision="highest"), precision="highest")
            variances = total.values[:q] / max(n - 1, 1)
        shrinkage = jnp.maximum(jnp.exp(-jnp.sum(variances[:_SHRINKAGE_COMPONENTS])), _SMALLEST_SHRINKAGE)
        shrinks = shrinkage > _SMALLEST_SHRINKAGE
        whitening = jnp.where(shrinks, _shrunk_whitening(within / n, shrinkage), _plain_whitening(within / n))
        # the classes in whitened coordinates; the principal axes of their means are the discriminant's coordinates
        white = jnp.matmul(jnp.where(counts[:, None] > 0, means, 0), whitening, precision="highest")
        if term == "seli":
            between = jnp.matmul(white.T * (counts / n), white, precision="highest")
            # the authors' solver shrinks the total covariance too, by its own trace: what is left between the classes
            # then has a multiple of the identity in it
            squares = _linalg.products(points, change=lambda rows: rows)
            excess = (jnp.trace(squares) - jnp.trace(within)) / (n * q)
            extra = shrinkage * excess * jnp.matmul(whitening.T, whitening, precision="highest")
            between = jnp.where(shrinks, (1 - shrinkage) * between + extra, between)
            directions = _linalg.spectrum(between)
            k = min(num_classes - 1, q)
            strong = shrinks | (directions.values > _RANK_TOLERANCE**2 * directions.values[0])
            used = strong[:k] & (jnp.arange(k) < jnp.sum(counts > 0) - 1)
            turn = jnp.matmul(whitening, jnp.where(used, directions.vectors[:, :k], 0), precision="highest")
            # of the coordinates points·turn [n, k], centred as the points are
            gram = jnp.matmul(turn.T, jnp.matmul(squares, turn, precision="highest"), precision="highest")
            return jnp.sum(jnp.sqrt(_linalg.spectrum(gram).values)).astype(output_dtype(features))
        to_scores = jnp.matmul(whitening, white.T, precision="highest")
        priors = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1) / n), -jnp.inf)
        offsets = priors - jnp.sum(white**2, axis=1) / 2

        def shares_of(point: jax.Array) -> jax.Array:
            return jax.nn.softmax(jnp.matmul(point, to_scores, precision="highest") + offsets)

        if term == "ncc":
            own = _linalg.map_rows(lambda point, label: shares_of(point)[label], points, labels)
            return jnp.mean(own).astype(output_dtype(features))
        norms = _nuclear_norms_of_classes(
            lambda members: jax.vmap(shares_of)(points[members]), labels, num_classes=num_classes, size=max_class_size
        )
        return -jnp.log(jnp.sum(norms)).astype(output_dtype(features))


def _plain_whitening(covariance: jax.Array) -> jax.Array:
    """Returns the matrix [q, q] by which the covariance becomes the identity.

    Directions without spread are columns of zeros; which they are is seen after each component was divided by its
    standard deviation.
    """
    deviations = jnp.sqrt(jnp.maximum(jnp.diag(covariance), 0))
    deviations = jnp.where(deviations > 1e-12 * jnp.max(deviations), deviations, 1)
    correlations = _linalg.spectrum(covariance / (deviations[:, None] * deviations))
    kept = correlations.values > _RANK_TOLERANCE**2
    return correlations.vectors / deviations[:, None] * _inverse_root(correlations.values, kept)


def _shrunk_whitening(covariance: jax.Array, shrinkage: jax.Array) -> jax.Array:
    """Returns the matrix [q, q] by which the covariance, shrunk towards its mean variance, becomes the identity."""
    q = len(covariance)
    shrunk = _linalg.spectrum((1 - shrinkage) * covariance + shrinkage * jnp.trace(covariance) / q * jnp.eye(q))
    return shrunk.vectors * _inverse_root(shrunk.values, shrunk.values > 0)


def _inverse_root(values: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)


def _nuclear_norms_of_classes(
    rows_of: Callable[[jax.Array], jax.Array], labels: jax.Array, *, num_classes: int, size: int
) -> jax.Array:
    """Returns the nuclear norm of the rows [n_c, c] of each class, [c]; 0 for a class without examples.

    Args:
      rows_of: numbers of examples → their rows, which are never held for all.
      labels: int [n].
      num_classes: c.
      size: no class has more examples.
    """
    indices, present = class_members(labels, num_classes=num_classes, size=size)

    def of_class(entry: tuple[jax.Array, jax.Array]) -> jax.Array:
        members, mask = entry
        rows = jnp.where(mask[:, None], rows_of(members), 0)
        small = rows if size <= num_classes else rows.T
        gram = jnp.matmul(small, small.T, precision="highest")
        return jnp.sum(jnp.sqrt(_linalg.spectrum(gram).values))  # each to 1e-8 of the largest

    return jax.lax.map(of_class, (indices, present), batch_size=_linalg.chunk_size(num_classes, 4 * size * num_classes))


def _metric(term: str, low: float, high: float, *, published: bool = False) -> Metric:
    return Metric(
        name=f"ncti_{term}" + ("_published" if published else ""),
        fn=functools.partial(ncti, term=term, published=published),
        inputs=("features", "labels"),
        static=("num_classes", "max_class_size"),
        shares=("scatter", "total"),
        range=(low, high),
        multilabel="refused" if published else "per_label",
        invariances=frozenset({"translation"} if published else {"rotation", "translation"}),
    )


_INF = float("inf")
METRICS = tuple(
    _metric(term, low, high, published=published)
    for term, low, high in (("seli", 0.0, _INF), ("ncc", 0.0, 1.0), ("vc", -_INF, _INF))
    for published in (False, True)
)
