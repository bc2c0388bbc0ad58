"""PACTran-Gaussian: how well a linear classifier fits the features, and how flat a minimum it ends in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax import _linalg
from transferjax._linalg import Scatter, Spectrum
from transferjax.metrics._base import Metric, output_dtype

LDA_FACTOR = 0.1
S2_FACTOR = 1.0
MAX_EXAMPLES = 8_000  # as the authors take
# Of the loss: half of it is what the last step is expected to gain. What is left to gain is about a hundredth of
# that, or less.
_TOLERANCE = 2e-6
_MAX_STEPS, _MAX_INNER_STEPS = 100, 500
# Principal components whose part of the Hessian is inverted, class by class: halves the steps of conjugate gradients
# at (n, d, c) = (10000, 2048, 100); twice as many components cost what they gain.
_INVERTED = 64
_SUFFICIENT = 1e-4  # share of the decrease that a step's slope promises which it has to give
_SHORTEST = 1e-10
_product = functools.partial(jnp.matmul, precision="highest")


@functools.partial(jax.jit, static_argnames=("num_classes", "lda_factor", "s2_factor"))
def pactran_gauss(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    lda_factor: float = LDA_FACTOR,
    s2_factor: float = S2_FACTOR,
    scatter: Scatter | None = None,
    total: Spectrum | None = None,
) -> jax.Array:
    """The PAC-Bayesian bound of a Gaussian prior and posterior over linear classifiers, negated.

    On centred features, multinomial logistic regression is fitted: the weights W [d, c] minimise the mean
    cross-entropy + ‖W‖²/(2λσ²), biases are free. The bound is that minimum plus its flatness,
    d·c/(2λ)·log(1 + λσ²·trace/(d·c)), with the trace of the mean cross-entropy's Hessian there, biases included. σ² is
    the prior's variance and λ the bound's temperature.

    λσ² is `lda_factor`·n and σ² is `s2_factor`/d. The authors search both, (10, 1 or 0.1) and several values of σ²;
    what an earlier revision of their code reports as fixed is 0.1 and 1, the defaults here.

    The authors' code differs: it stops after 100 iterations of L-BFGS from a random start, here the minimum is reached
    (it is the only one, so nothing is random); in the trace it takes the sum over the examples where the loss is the
    mean, which makes the trace n times too large in the logarithm; and it counts every class up to the largest label,
    here those with examples.

    Invariances: rotation, translation.

    Args:
      features: float [n, d].
      labels: int [n] in 0..c-1; classes without examples are passed over.
      num_classes: c.
      lda_factor: λσ²/n; the larger, the less the weights are held back.
      s2_factor: σ²·d; how much flatness counts.
      scatter: of features and labels, if known.
      total: spectrum of `scatter.total`, if known.

    Returns:
      Scalar, at most 0; bigger is better. float64 for float64 features, else float32. It depends on the features'
      scale, since the weights' penalty does.

    References:
      Ding, Chen, Levinboim, Changpinyo, Soricut, 2022. PACTran: PAC-Bayesian metrics for estimating the
      transferability of pretrained models to classification tasks. https://arxiv.org/abs/2203.05126
    """
    n, d = features.shape
    with jax.enable_x64(True):
        scatter = scatter or _linalg.scatter(features, labels, num_classes=num_classes)
        total = total or _linalg.spectrum(scatter.total)
        columns = _columns(scatter, total.vectors, output_dtype(features))
        fit = _fit(columns, labels, total.values, scatter.counts, 1 / (lda_factor * n))
        shares = jax.nn.softmax(fit.logits, axis=0)
        trace = _trace(columns, shares)
        present = jnp.sum(scatter.counts > 0)
        flatness = present * s2_factor / (2 * lda_factor * n) * jnp.log1p(lda_factor * n * trace / (d * present))
        return -(fit.loss + flatness).astype(output_dtype(features))


class _Fit(NamedTuple):
    """A classifier on the way to the best one.

    Attributes:
      weights: [c, r + 1], the last column the biases, as far as they differ from the start's.
      logits: [c, n], of the examples.
      loss: mean cross-entropy and penalty.
      decrement: twice what the last step was expected to gain: -gradient·step.
      steps: taken.
    """

    weights: jax.Array
    logits: jax.Array
    loss: jax.Array
    decrement: jax.Array
    steps: jax.Array


def _columns(scatter: Scatter, vectors: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the examples as columns [r + 1, n]: centred, in principal components, and a 1 for the bias.

    These alone are held, as precise as the features: they are as large. Columns, since XLA takes half as long again for
    products along rows, on a CPU.
    """
    n, r = scatter.points.shape

    def put(columns: jax.Array, begin: jax.Array, size: int) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(scatter.points, begin, size).astype(jnp.float64)
        found = _product(vectors.T, (rows - scatter.mean).T)
        found = jnp.concatenate([found, jnp.ones((1, size))]).astype(dtype)
        return jax.lax.dynamic_update_slice_in_dim(columns, found, begin, axis=1)

    return _fold(put, jnp.zeros((r + 1, n), dtype), n, r)


def _fold(step: Callable[[jax.Array, jax.Array, int], jax.Array], start: jax.Array, n: int, r: int) -> jax.Array:
    """Folds step(state, first example, how many) over chunks of n examples; the last chunk reaches back."""
    size = _linalg.chunk_size(n, 16 * r)
    chunks = -(-n // size)

    def body(index: jax.Array, state: jax.Array) -> jax.Array:
        return step(state, jnp.minimum(index * size, n - size), size)

    return body(jnp.int32(0), start) if chunks == 1 else jax.lax.fori_loop(0, chunks, body, start)


def _along_examples(left: jax.Array, columns: jax.Array, *, power: int = 1) -> jax.Array:
    """Returns left [c, n] · (columns**power)ᵀ [n, r + 1] in float64, to which a chunk at a time is widened."""
    r, n = columns.shape
    counted = jnp.arange(n)

    def add(total: jax.Array, begin: jax.Array, size: int) -> jax.Array:
        own, chunk, places = (
            jax.lax.dynamic_slice_in_dim(array, begin, size, axis=-1) for array in (left, columns, counted)
        )
        new = places >= -(-begin // size) * size  # the last chunk's others have been added before
        return total + _product(jnp.where(new, own, 0), chunk.astype(jnp.float64).T ** power)

    return _fold(add, jnp.zeros((len(left), r)), n, r)


def _along_components(weights: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns weights [c, r + 1] · columns [r + 1, n] in float64, to which a chunk at a time is widened."""
    r, n = columns.shape

    def put(found: jax.Array, begin: jax.Array, size: int) -> jax.Array:
        chunk = jax.lax.dynamic_slice_in_dim(columns, begin, size, axis=1).astype(jnp.float64)
        return jax.lax.dynamic_update_slice_in_dim(found, _product(weights, chunk), begin, axis=1)

    return _fold(put, jnp.zeros((len(weights), n)), n, r)


def _trace(columns: jax.Array, shares: jax.Array) -> jax.Array:
    """Returns the trace of the mean cross-entropy's Hessian at shares [c, n]."""
    spread = jnp.sum(shares * (1 - shares), axis=0)
    return jnp.sum(_along_examples(spread[None], columns, power=2)) / columns.shape[1]


def _fit(columns: jax.Array, labels: jax.Array, spectrum: jax.Array, counts: jax.Array, penalty: float) -> _Fit:
    """Returns the classifier of the smallest mean cross-entropy + penalty/2·‖W‖², by Newton's method.

    The steps are solved for by conjugate gradients, since the Hessian has (r·c)² entries. In principal components the
    features are uncorrelated, so that its diagonal, nearly, is a good preconditioner for most of them. Classes come
    first in all arrays, since XLA multiplies twice as fast so on a CPU.

    Args:
      columns: float [r + 1, n], the examples, centred and in principal components, and 1.
      labels: int [n].
      spectrum: [r], the components' squares, summed.
      counts: [c], of the classes; those without examples get no share.
      penalty: of the weights.
    """
    n, r = columns.shape[1], columns.shape[0] - 1
    squares = jnp.append(spectrum / n, 1)
    penalties = jnp.append(jnp.full(r, penalty), 0)
    sums = _along_examples(jax.nn.one_hot(labels, len(counts), dtype=jnp.float64, axis=0), columns)  # of the classes

    def loss_of(weights: jax.Array, logits: jax.Array) -> jax.Array:
        own = jnp.take_along_axis(logits, labels[None], axis=0)[0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=0) - own) + jnp.sum(penalties * weights**2) / 2

    def step(fit: _Fit) -> _Fit:
        shares = jax.nn.softmax(fit.logits, axis=0)
        gradient = (_along_examples(shares, columns) - sums) / n + penalties * fit.weights
        spread = jnp.mean(shares * (1 - shares), axis=1, keepdims=True)
        diagonal = squares * jnp.maximum(spread, 1e-10) + penalties
        inverse = _inverse_of_first(columns, shares, diagonal, penalties)
        move = _conjugate_gradients(columns, shares, penalties, diagonal, inverse, -gradient, fit.loss)
        change, decrement = _along_components(move, columns), -jnp.sum(gradient * move)
        rounding = 8 * jnp.finfo(jnp.float64).eps * fit.loss

        def at(length: jax.Array) -> tuple[jax.Array, jax.Array]:
            return length, loss_of(fit.weights + length * move, fit.logits + length * change)

        def too_long(tried: tuple[jax.Array, jax.Array]) -> jax.Array:
            length, loss = tried
            return (loss > fit.loss - _SUFFICIENT * length * decrement + rounding) & (length > _SHORTEST)

        length, loss = jax.lax.while_loop(too_long, lambda tried: at(tried[0] / 2), at(jnp.float64(1)))
        return _Fit(fit.weights + length * move, fit.logits + length * change, loss, decrement, fit.steps + 1)

    # the best without features: -inf for a class without examples, whose bias no penalty would hold
    biases = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1) / n), -jnp.inf)[:, None]
    weights, logits = jnp.zeros((len(counts), r + 1), jnp.float64), jnp.broadcast_to(biases, (len(counts), n))
    start = _Fit(weights, logits, loss_of(weights, logits), jnp.float64(jnp.inf), jnp.int32(0))
    return jax.lax.while_loop(
        lambda fit: (fit.decrement > _TOLERANCE * fit.loss) & (fit.steps < _MAX_STEPS), step, start
    )


def _inverse_of_first(columns: jax.Array, shares: jax.Array, diagonal: jax.Array, penalties: jax.Array) -> jax.Array:
    """Returns [c, m + 1, m + 1], the inverses of the Hessian's blocks of one class, m components and the bias.

    Scaled to a diagonal of ones and with some float32 roundings added to that, so that none is singular.
    """
    m = min(_INVERTED, columns.shape[0] - 1)
    shares = shares.astype(jnp.float32)
    first, penalties, diagonal = (
        jnp.concatenate([array[..., :m], array[..., -1:]], axis=-1).astype(jnp.float32)
        for array in (columns.T, penalties, diagonal)
    )

    def inverse(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        share, floor = one
        weighted = (share * (1 - share) / len(first))[:, None] * first
        block = _product(weighted.T, first) + jnp.diag(penalties)
        widths = jnp.sqrt(jnp.maximum(jnp.diagonal(block), 1e-3 * floor))
        block = block / widths / widths[:, None]
        factor = jnp.linalg.cholesky(block + 1e-5 * jnp.eye(m + 1, dtype=jnp.float32))
        half = jax.scipy.linalg.solve_triangular(factor, jnp.diag(1 / widths), lower=True)
        return _product(half.T, half)

    return jax.lax.map(inverse, (shares, diagonal))


def _conjugate_gradients(
    columns: jax.Array,
    shares: jax.Array,
    penalties: jax.Array,
    diagonal: jax.Array,
    inverse: jax.Array,
    target: jax.Array,
    loss: jax.Array,
) -> jax.Array:
    """Returns about H⁻¹·target [c, r + 1], H the Hessian at the classes' `shares` [c, n].

    The nearer the minimum, the closer: as much as Newton's method gains from. In float32, since a step need not be
    exact: what it is to lead to, the gradient, is float64. Adding one number to all classes changes no share; H has no
    curvature there and the target, a gradient, no part. Preconditioned by the `diagonal` and, of the first components
    and the bias, by the `inverse`.
    """
    m = inverse.shape[-1] - 1
    size = jnp.sum(target**2 / diagonal)
    share = jnp.clip(10 * size / jnp.maximum(loss, _SHORTEST), 1e-7, 0.3)
    largest = jnp.max(jnp.abs(target))
    scale = jnp.where(largest > 0, largest, 1)
    columns, shares, penalties, diagonal, inverse, target = (
        array.astype(jnp.float32) for array in (columns, shares, penalties, diagonal, inverse, target / scale)
    )

    def conditioned(residual: jax.Array) -> jax.Array:
        first = jnp.concatenate([residual[:, :m], residual[:, -1:]], axis=1)
        first = _product(inverse, first[:, :, None])[:, :, 0]
        return jnp.concatenate([first[:, :m], residual[:, m:-1] / diagonal[:, m:-1], first[:, m:]], axis=1)

    scaled = conditioned(target)
    size = jnp.sum(target * scaled)
    enough = share.astype(jnp.float32) * size

    def curved(move: jax.Array) -> jax.Array:
        weighted = shares * _product(move, columns)
        weighted = weighted - shares * jnp.sum(weighted, axis=0)
        return _product(weighted, columns.T) / columns.shape[1] + penalties * move

    def step(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        move, residual, direction, size, count = state
        ahead = curved(direction)
        curvature = jnp.sum(direction * ahead)
        length = jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1), 0)
        residual = residual - length * ahead
        scaled = conditioned(residual)
        new = jnp.where(curvature > 0, jnp.sum(residual * scaled), 0)
        return move + length * direction, residual, scaled + new / size * direction, new, count + 1

    start: tuple[jax.Array, ...] = (jnp.zeros_like(target), target, scaled, size, jnp.zeros((), jnp.int32))
    state = jax.lax.while_loop(lambda state: (state[3] > enough) & (state[4] < _MAX_INNER_STEPS), step, start)
    return scale * state[0].astype(jnp.float64)


METRIC = Metric(
    name="pactran_gauss",
    fn=pactran_gauss,
    inputs=("features", "labels"),
    shares=("scatter", "total"),
    max_examples=MAX_EXAMPLES,
    range=(-float("inf"), 0.0),
    invariances=frozenset({"rotation", "translation"}),
)
