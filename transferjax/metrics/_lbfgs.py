"""L-BFGS as SciPy's without bounds, step for step, but traceable: it runs on the device, and many at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

MEMORY = 10
_MAX_EVALUATIONS = 20  # of one line search
_DECREASE, _CURVATURE, _WIDTH = 1e-3, 0.9, 0.1
_LONGEST = 1e10
_ValueAndGradient = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class _End(NamedTuple):
    """A step of a line search, with value and slope there."""

    step: jax.Array
    value: jax.Array
    slope: jax.Array


class _Search(NamedTuple):
    """A line search: where it started, the best step so far, the other end of the interval, and the step to try."""

    start: _End
    best: _End
    other: _End
    bracketed: jax.Array
    second_stage: jax.Array
    low: jax.Array
    high: jax.Array
    width: jax.Array
    width_before: jax.Array
    step: jax.Array
    evaluations: jax.Array


class _State(NamedTuple):
    """Between two evaluations: the point reached, value and gradient there, the direction searched, and the memory."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    direction: jax.Array
    search: _Search
    moves: jax.Array  # [MEMORY, p], of the point, oldest first
    changes: jax.Array  # [MEMORY, p], of the gradient
    stored: jax.Array  # how many of them
    iterations: jax.Array
    finished: jax.Array


class Minimum(NamedTuple):
    """Where a minimisation ended.

    Attributes:
      point: of the smallest value.
      value: there.
      iterations: how many steps were taken.
      finished: false if they were cut off by `max_iterations`.
    """

    point: jax.Array
    value: jax.Array
    iterations: jax.Array
    finished: jax.Array


def minimize(
    value_and_gradient: _ValueAndGradient, start: jax.Array, *, max_iterations: int, tolerance: float
) -> Minimum:
    """Minimises a smooth function without bounds.

    What `scipy.optimize.minimize(method="L-BFGS-B")` does with `ftol` and `gtol` both `tolerance`, ten steps of memory,
    and Moré and Thuente's line search; the points it visits are the same but for rounding, which matters where the
    number of iterations is cut off. Here the host sees nothing of it: one program, that `jax.vmap` can take.

    Each turn of the loop is one evaluation, not one step, so that minimisations that run side by side need not wait for
    each other's line searches.

    Args:
      value_and_gradient: float64 array → (scalar, gradient of the array's shape).
      start: float64, of any shape.
      max_iterations: steps at most.
      tolerance: stop if a step lowers the value by less than this, relative to the larger of the two values and 1; or
        if no entry of the gradient is larger.

    Returns:
      `Minimum`. If the start's value is not finite, or nothing lower is found, the start.

    References:
      Byrd, Lu, Nocedal, Zhu, 1995. A limited memory algorithm for bound constrained optimization.
      https://doi.org/10.1137/0916069
      Moré, Thuente, 1994. Line search algorithms with guaranteed sufficient decrease.
      https://doi.org/10.1145/192115.192132
    """

    def step(state: _State) -> _State:
        trial = state.point + state.search.step * state.direction
        value, gradient = value_and_gradient(trial.reshape(start.shape))
        gradient = gradient.ravel()
        search, accepted = _advanced(state.search, _End(state.search.step, value, gradient @ state.direction))
        first = jnp.isinf(state.value)  # the start itself, which is accepted as it is
        accepted = first | accepted
        given_up = search.evaluations >= _MAX_EVALUATIONS
        return jax.lax.cond(
            accepted | given_up,
            lambda: moved(state._replace(search=search), trial, value, gradient, first, accepted),
            lambda: state._replace(search=search),
        )

    def moved(
        state: _State, trial: jax.Array, value: jax.Array, gradient: jax.Array, first: jax.Array, accepted: jax.Array
    ) -> _State:
        """Returns the state after a line search, with the next direction; without a step if it was given up."""
        move, change = trial - state.point, gradient - state.gradient
        product, before = move @ change, state.search.start
        useful = accepted & (product > -jnp.finfo(product.dtype).eps * state.search.step * before.slope)
        moves = jnp.where(useful, jnp.concatenate([state.moves[1:], move[None]]), state.moves)
        changes = jnp.where(useful, jnp.concatenate([state.changes[1:], change[None]]), state.changes)
        stored = jnp.where(accepted, jnp.minimum(state.stored + useful, MEMORY), 0)  # given up: begin anew
        scale = jnp.maximum(jnp.maximum(jnp.abs(before.value), jnp.abs(value)), 1)
        small = ~first & (before.value - value <= tolerance * scale)
        level = (jnp.max(jnp.abs(gradient)) <= tolerance) | ~jnp.isfinite(value)
        finished = jnp.where(accepted, small | level, state.stored == 0)
        point, value, gradient = (
            jnp.where(accepted, new, old)
            for new, old in ((trial, state.point), (value, state.value), (gradient, state.gradient))
        )
        direction = -_product_with_inverse_hessian(moves, changes, stored, gradient)
        slope = gradient @ direction
        length = jnp.where(first, jnp.minimum(1 / jnp.sqrt(-slope), _LONGEST), 1)
        iterations = state.iterations + (accepted & ~first)
        search = _begun(value, slope, length)
        return _State(point, value, gradient, direction, search, moves, changes, stored, iterations, finished)

    flat, zero = start.ravel(), jnp.int32(0)
    nothing, memory = jnp.zeros_like(flat), jnp.zeros((MEMORY, len(flat)), flat.dtype)
    infinite, none = jnp.full((), jnp.inf, flat.dtype), jnp.zeros((), flat.dtype)
    search = _begun(infinite, none, none)
    state = _State(flat, infinite, nothing, nothing, search, memory, memory, zero, zero, jnp.bool_(False))
    state = jax.lax.while_loop(lambda state: ~state.finished & (state.iterations < max_iterations), step, state)
    return Minimum(state.point.reshape(start.shape), state.value, state.iterations, state.finished)


def _product_with_inverse_hessian(
    moves: jax.Array, changes: jax.Array, stored: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Returns the approximate inverse Hessian times the gradient [p], by the two loops over the memory.

    Not by the compact form with its two triangular systems: LAPACK's threads would wake up for each of them.

    Args:
      moves: [m, p], of which the last `stored` count.
      changes: [m, p], likewise.
      stored: scalar.
      gradient: [p].
    """
    known = jnp.arange(len(moves)) >= len(moves) - stored
    products = jnp.sum(moves * changes, axis=1)
    inverses = jnp.where(known, 1 / jnp.where(known, products, 1), 0)

    def newest_first(vector: jax.Array, pair: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        move, change, inverse = pair
        share = inverse * (move @ vector)
        return vector - share * change, share

    def oldest_first(vector: jax.Array, pair: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        move, change, inverse, share = pair
        return vector + (share - inverse * (change @ vector)) * move, None

    vector, shares = jax.lax.scan(newest_first, gradient, (moves, changes, inverses), reverse=True)
    square = changes[-1] @ changes[-1]
    scale = jnp.where(stored > 0, products[-1] / jnp.where(stored > 0, square, 1), 1)
    return jax.lax.scan(oldest_first, scale * vector, (moves, changes, inverses, shares))[0]


def _begun(value: jax.Array, slope: jax.Array, step: jax.Array) -> _Search:
    start = _End(jnp.zeros_like(value), value, slope)
    no = jnp.zeros(value.shape, bool)
    width = jnp.full_like(value, _LONGEST)
    return _Search(start, start, start, no, no, 0 * step, 5 * step, width, 2 * width, step, jnp.int32(0))


def _advanced(search: _Search, tried: _End) -> tuple[_Search, jax.Array]:
    """Returns the search with the next step to try, and whether `tried` is accepted (then the step stays its own)."""
    start, best, other, bracketed, second_stage, low, high, width, width_before, step, evaluations = search
    required = _DECREASE * start.slope
    bound = start.value + step * required
    second_stage = second_stage | ((tried.value <= bound) & (tried.slope >= 0))
    accepted = (
        ((tried.value <= bound) & (jnp.abs(tried.slope) <= -_CURVATURE * start.slope))
        | (bracketed & ((step <= low) | (step >= high)))  # rounding is in the way
        | (bracketed & (high - low <= _WIDTH * high))
        | ((step == _LONGEST) & (tried.value <= bound) & (tried.slope <= required))
        | ((step == 0) & ((tried.value > bound) | (tried.slope >= required)))
    )

    # In the first stage the function less the required decrease takes its place, if `tried` is lower, but not enough.
    modified = ~second_stage & (tried.value <= best.value) & (tried.value > bound)
    slant = jnp.where(modified, required, 0)

    def tilted(end: _End, by: jax.Array) -> _End:
        return _End(end.step, end.value - by * end.step, end.slope - by)

    best, other, tried = tilted(best, slant), tilted(other, slant), tilted(tried, slant)
    best, other, following, bracketed = _narrowed(best, other, tried, bracketed, low, high)
    best, other = tilted(best, -slant), tilted(other, -slant)

    distance = jnp.abs(other.step - best.step)
    wide = bracketed & (distance >= 0.66 * width_before)
    following = jnp.where(wide, best.step + 0.5 * (other.step - best.step), following)
    width_before = jnp.where(bracketed, width, width_before)
    width = jnp.where(bracketed, distance, width)
    low = jnp.where(bracketed, jnp.minimum(best.step, other.step), following + 1.1 * (following - best.step))
    high = jnp.where(bracketed, jnp.maximum(best.step, other.step), following + 4 * (following - best.step))
    following = jnp.clip(following, 0, _LONGEST)
    stuck = bracketed & ((following <= low) | (following >= high) | (high - low <= _WIDTH * high))
    following = jnp.where(stuck, best.step, following)
    step = jnp.where(accepted, step, following)
    evaluations = evaluations + 1
    return (
        _Search(start, best, other, bracketed, second_stage, low, high, width, width_before, step, evaluations),
        accepted,
    )


def _narrowed(
    best: _End, other: _End, tried: _End, bracketed: jax.Array, low: jax.Array, high: jax.Array
) -> tuple[_End, _End, jax.Array, jax.Array]:
    """Returns the new ends of the interval, the next step to try, and whether a minimum is between the ends now."""
    t = tried.step
    higher = tried.value > best.value
    turned = ~higher & (tried.slope * jnp.sign(best.slope) < 0)
    flatter = ~higher & ~turned & (jnp.abs(tried.slope) < jnp.abs(best.slope))
    after = t > best.step

    # The cubic through the values and slopes of `tried` and of one of the ends.
    steeper = ~(higher | turned | flatter)
    cubic, beyond = _cubic(tried, _chosen(steeper, other, best))
    secant = t + tried.slope / (tried.slope - best.slope) * (best.step - t)
    closer = jnp.abs(cubic - t) < jnp.abs(secant - t)

    # 1. Higher than the best: the minimum lies between. The cubic, or midway to the quadratic, if that is closer.
    slope = (best.value - tried.value) / (t - best.step) + best.slope
    quadratic = best.step + best.slope / slope / 2 * (t - best.step)
    near = jnp.abs(cubic - best.step) <= jnp.abs(quadratic - best.step)
    if_higher = jnp.where(near, cubic, cubic + (quadratic - cubic) / 2)

    # 2. Lower, and the slope has turned: between as well. Of cubic and secant the one that is farther from `tried`.
    if_turned = jnp.where(closer | (cubic == secant), secant, cubic)

    # 3. Lower and flatter: the cubic counts if its minimum is beyond. Within two thirds of the interval, if any.
    farthest = jnp.where(after, high, low)
    cubic_beyond = jnp.where(beyond, cubic, farthest)
    closer = jnp.abs(cubic_beyond - t) < jnp.abs(secant - t)
    chosen = jnp.where(closer == bracketed, cubic_beyond, secant)
    limit = t + 0.66 * (other.step - t)
    inside = jnp.where(after, jnp.minimum(limit, chosen), jnp.maximum(limit, chosen))
    if_flatter = jnp.where(bracketed, inside, jnp.clip(chosen, low, high))

    # 4. Lower and not flatter: as far as allowed, or the cubic of `tried` and the other end.
    if_steeper = jnp.where(bracketed, cubic, farthest)

    lower = jnp.where(turned, if_turned, jnp.where(flatter, if_flatter, if_steeper))
    step = jnp.where(higher, if_higher, lower)
    new_other = _chosen(higher, tried, _chosen(turned, best, other))
    return _chosen(higher, best, tried), new_other, step, bracketed | higher | turned


def _cubic(one: _End, other: _End) -> tuple[jax.Array, jax.Array]:
    """Returns where the cubic of the two values and slopes is smallest, and whether that lies beyond `one`."""
    theta = 3 * (one.value - other.value) / (other.step - one.step) + one.slope + other.slope
    size = jnp.maximum(jnp.maximum(jnp.abs(theta), jnp.abs(one.slope)), jnp.abs(other.slope))
    root = size * jnp.sqrt(jnp.maximum((theta / size) ** 2 - one.slope / size * (other.slope / size), 0))
    root = jnp.where(other.step < one.step, -root, root)
    share = (root - one.slope + theta) / (root - one.slope + root + other.slope)
    return one.step + share * (other.step - one.step), (share < 0) & (root != 0)


def _chosen(condition: jax.Array, yes: _End, no: _End) -> _End:
    return _End(*(jnp.where(condition, a, b) for a, b in zip(yes, no, strict=True)))
