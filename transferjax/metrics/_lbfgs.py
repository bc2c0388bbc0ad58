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


class _Memory(NamedTuple):
    """The last steps, of which a quadratic model is made."""

    moves: jax.Array  # [MEMORY, p], of the point
    changes: jax.Array  # [MEMORY, p], of the gradient
    place: jax.Array  # where the next one goes, and the oldest is
    stored: jax.Array  # how many of them count, the last ones


class _State(NamedTuple):
    """Between two evaluations: the point reached, value and gradient there, and the direction that is searched."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    direction: jax.Array
    search: _Search
    memory: _Memory
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
        given_up = ~accepted & (search.evaluations >= _MAX_EVALUATIONS)

        move, change = trial - state.point, gradient - state.gradient
        product, before = move @ change, state.search.start
        useful = accepted & (product > -jnp.finfo(product.dtype).eps * state.search.step * before.slope)
        memory = _remembered(state.memory, move, change, useful)
        memory = memory._replace(stored=jnp.where(given_up, 0, memory.stored))  # then begin anew

        scale = jnp.maximum(jnp.maximum(jnp.abs(before.value), jnp.abs(value)), 1)
        small = ~first & (before.value - value <= tolerance * scale)
        level = (jnp.max(jnp.abs(gradient)) <= tolerance) | ~jnp.isfinite(value)
        finished = jnp.where(accepted, small | level, given_up & (state.memory.stored == 0))
        point, value, gradient = (
            jnp.where(accepted, new, old)
            for new, old in ((trial, state.point), (value, state.value), (gradient, state.gradient))
        )

        def turned() -> tuple[jax.Array, _Search]:
            """Returns the next direction and the start of the search along it."""
            direction = -_product_with_inverse_hessian(memory, gradient)
            slope = gradient @ direction
            length = jnp.where(first, jnp.minimum(1 / jnp.sqrt(-slope), _LONGEST), 1)
            return direction, _begun(value, slope, length)

        # the memory stays outside: what a branch returns is copied
        direction, search = jax.lax.cond(accepted | given_up, turned, lambda: (state.direction, search))
        iterations = state.iterations + (accepted & ~first)
        return _State(point, value, gradient, direction, search, memory, iterations, finished)

    flat, zero = start.ravel(), jnp.int32(0)
    nothing, rows = jnp.zeros_like(flat), jnp.zeros((MEMORY, len(flat)), flat.dtype)
    infinite, none = jnp.full((), jnp.inf, flat.dtype), jnp.zeros((), flat.dtype)
    search = _begun(infinite, none, none)
    memory = _Memory(rows, rows, zero, zero)
    state = _State(flat, infinite, nothing, nothing, search, memory, zero, jnp.bool_(False))
    state = jax.lax.while_loop(lambda state: ~state.finished & (state.iterations < max_iterations), step, state)
    return Minimum(state.point.reshape(start.shape), state.value, state.iterations, state.finished)


def _remembered(memory: _Memory, move: jax.Array, change: jax.Array, useful: jax.Array) -> _Memory:
    """Returns the memory with another pair, in the place of the oldest; as it was, if that is not useful."""
    place = memory.place

    def put(rows: jax.Array, row: jax.Array) -> jax.Array:
        return rows.at[place].set(jnp.where(useful, row, rows[place]))

    stored = jnp.minimum(memory.stored + useful, MEMORY)
    return _Memory(put(memory.moves, move), put(memory.changes, change), (place + useful) % MEMORY, stored)


def _product_with_inverse_hessian(memory: _Memory, gradient: jax.Array) -> jax.Array:
    """Returns the approximate inverse Hessian times the gradient [p].

    What the two loops over the memory do to vectors is done to their coefficients, for which the products of all pairs
    of vectors are enough: the memory is read twice instead of once for each of its vectors. The loops are the two
    triangular systems of the compact form; not by LAPACK, whose threads would wake up for each of them.
    """
    moves, changes, place, stored = memory
    m = len(moves)
    of_moves, of_changes = (jnp.matmul(rows, changes.T, precision="highest") for rows in (moves, changes))
    moves_gradient, changes_gradient = (jnp.matmul(rows, gradient, precision="highest") for rows in (moves, changes))
    order = (place + jnp.arange(m)) % m  # oldest first
    known = jnp.arange(m) >= m - stored
    both = known[:, None] & known
    of_moves = jnp.where(both, of_moves[order][:, order], jnp.eye(m, dtype=gradient.dtype))
    of_changes = jnp.where(both, of_changes[order][:, order], 0)
    moves_gradient = jnp.where(known, moves_gradient[order], 0)
    changes_gradient = jnp.where(known, changes_gradient[order], 0)

    curvatures = jnp.diagonal(of_moves)
    scale = jnp.where(stored > 0, curvatures[-1] / jnp.where(stored > 0, of_changes[-1, -1], 1), 1)
    shares = jnp.zeros(m, gradient.dtype)
    for i in reversed(range(m)):  # shares[j] is 0 for j <= i
        shares = shares.at[i].set((moves_gradient[i] - jnp.sum(of_moves[i] * shares)) / curvatures[i])
    target = curvatures * shares - scale * (changes_gradient - jnp.sum(of_changes * shares, axis=1))
    steps = jnp.zeros(m, gradient.dtype)
    for i in range(m):
        steps = steps.at[i].set((target[i] - jnp.sum(of_moves[:, i] * steps)) / curvatures[i])
    steps, shares = (jnp.zeros(m, gradient.dtype).at[order].set(found) for found in (steps, shares))
    return scale * gradient + steps @ moves - (scale * shares) @ changes


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
