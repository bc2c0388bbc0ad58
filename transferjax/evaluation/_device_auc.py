"""AUC and accuracy on the device, for validation inside a compiled training loop.

Equal to `classification.evaluate` on the host. All is counted in whole numbers, and the few fractions are added in a
fixed order, so that a member of a population gets the same digits as alone: early stopping compares them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transferjax._validate import fail, one_of
from transferjax.types import Task

_MOST_EXAMPLES = 2**23  # sums of that many bytes fit int32, and counts up to it are exact in float32


def device_auc(
    probabilities: jax.Array, labels: jax.Array, *, task: Task | None = None, mask: jax.Array | None = None
) -> jax.Array:
    """Area under the ROC curve as MedMNIST defines it; may be used inside `jax.jit` and `jax.vmap`.

    Equal scores count half, as in scikit-learn. Classes and labels without both kinds of examples are skipped. O(n log
    n) per column; it holds a few int32 arrays of the size of `probabilities`.

    Args:
      probabilities: float [n, c], n at most 2²³; half precision is widened. Only their order within a column counts.
      labels: int [n], negative where missing; for a multi-label task int [n, c] of 0, 1 and -1 where missing. What is
        missing is left out.
      task: `"multiclass"`: mean over the classes of one against the rest. `"binary"`: the last of one or two columns.
        `"multilabel"`: mean over the labels. If None, what the shapes say; two columns and labels [n] are binary.
      mask: bool [n], False for examples that do not count, such as those that fill a batch up.

    Returns:
      Float scalar 0..1, bigger is better; NaN if it is defined for no class, if a probability that counts is NaN, or if
      a label that counts is too large. Of float32 probabilities float32, within 1e-6 of the host's.

    Raises:
      InputError: while tracing: shapes or dtypes do not fit.

    References:
      Yang et al., 2023. MedMNIST v2. https://doi.org/10.1038/s41597-022-01721-8
    """
    columns = _columns(probabilities, labels, task, mask)
    positives, negatives = columns.positive.sum(0), columns.negative.sum(0)
    wins = jax.vmap(_wins, in_axes=1)(_order(columns.scores), columns.positive, columns.negative)
    pairs_twice = 2 * jnp.maximum(positives, 1).astype(wins.dtype) * jnp.maximum(negatives, 1).astype(wins.dtype)
    areas = jnp.minimum(wins / pairs_twice, 1)  # the last digit may be rounded up
    return jnp.where(columns.usable, _mean(areas, (positives > 0) & (negatives > 0)), jnp.nan)


def device_accuracy(
    probabilities: jax.Array, labels: jax.Array, *, task: Task | None = None, mask: jax.Array | None = None
) -> jax.Array:
    """Share of right answers as MedMNIST defines it; may be used inside `jax.jit` and `jax.vmap`.

    Args:
      probabilities: float [n, c] in 0..1, n at most 2²³.
      labels: as for `device_auc`.
      task: as for `device_auc`. `"multiclass"`: the class of the largest probability, the first of equal ones.
        `"binary"`, `"multilabel"`: whether a probability is above .5; the mean over a multi-label
        task's labels.
      mask: as for `device_auc`.

    Returns:
      Float scalar 0..1, bigger is better; NaN if there is no example, and where `device_auc` is for bad values.

    Raises:
      InputError: while tracing: shapes or dtypes do not fit.

    References:
      Yang et al., 2023. MedMNIST v2. https://doi.org/10.1038/s41597-022-01721-8
    """
    columns = _columns(probabilities, labels, task, mask)
    if _task_of(probabilities.shape, labels.shape, task) == "multiclass":
        best = jnp.argmax(columns.scores, axis=1, keepdims=True)
        right = jnp.take_along_axis(columns.positive, best, axis=1)
        counted = (columns.positive | columns.negative)[:, :1]  # alike in all columns, or the result is NaN
    else:
        counted = columns.positive | columns.negative
        right = counted & ((columns.scores > 0.5) == columns.positive)
    counts = counted.sum(0)
    dtype = columns.scores.dtype
    shares = right.sum(0).astype(dtype) / jnp.maximum(counts, 1).astype(dtype)
    return jnp.where(columns.usable, _mean(shares, counts > 0), jnp.nan)


def check_arrays(probabilities: jax.Array | np.ndarray, labels: jax.Array | np.ndarray, task: Task | None) -> Task:
    """Returns the task after a look at shapes and dtypes, without one at values.

    Args:
      probabilities: float [n, c].
      labels: int [n], or [n, c] of a multi-label task.
      task: what it is said to be, or None.

    Raises:
      InputError: they do not fit together.
    """
    if probabilities.ndim != 2 or 0 in probabilities.shape or not jnp.issubdtype(probabilities.dtype, jnp.floating):
        found = f"shape {probabilities.shape}, {probabilities.dtype}"
        raise fail("probabilities", found, "Give floats of shape [n, c], with at least one example.")
    task = _task_of(probabilities.shape, labels.shape, task)
    n, c = probabilities.shape
    shape = (n, c) if task == "multilabel" else (n,)
    if labels.shape != shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        found = f"shape {labels.shape}, {labels.dtype}"
        raise fail("labels", found, f"Give whole numbers of shape {list(shape)} for the task {task!r}.")
    if (task == "binary" and c > 2) or (task == "multiclass" and c < 2):
        columns = "one or two columns" if task == "binary" else "a column for each of two or more classes"
        raise fail("probabilities", f"{c} columns for the task {task!r}", f"Give {columns}, or another task.")
    return task


class _Columns(NamedTuple):
    """A question of yes or no per column.

    Attributes:
      scores: float [n, q].
      positive: bool [n, q], where the answer is yes.
      negative: bool [n, q], where it is no; neither where it is missing or does not count.
      usable: bool scalar, whether all values that count are good.
    """

    scores: jax.Array
    positive: jax.Array
    negative: jax.Array
    usable: jax.Array


def _columns(probabilities: jax.Array, labels: jax.Array, task: Task | None, mask: jax.Array | None) -> _Columns:
    probabilities, labels = jnp.asarray(probabilities), jnp.asarray(labels)
    task = check_arrays(probabilities, labels, task)
    n, c = probabilities.shape
    if n > _MOST_EXAMPLES:
        raise fail("probabilities", f"{n} examples", f"On the device at most {_MOST_EXAMPLES}; judge them on the host.")
    if mask is not None and (mask.shape != (n,) or mask.dtype != bool):
        raise fail("mask", f"shape {mask.shape}, {mask.dtype}", f"Give bool of shape [{n}].")
    scores = probabilities.astype(jnp.promote_types(probabilities.dtype, jnp.float32))
    labels = labels[:, None] if labels.ndim == 1 else labels
    known = labels >= 0
    if mask is not None:
        known &= mask[:, None]
    if task == "binary":
        scores = scores[:, -1:]
    yes = labels == (jnp.arange(c) if task == "multiclass" else 1)
    too_large = labels >= (c if task == "multiclass" else 2)
    usable = ~(known & (too_large | jnp.isnan(scores))).any()
    # Without the NaNs the counts are each member's own: XLA divides by shared ones with another last digit.
    known &= ~jnp.isnan(scores)
    return _Columns(scores, known & yes, known & ~yes, usable)


def _task_of(scores: tuple[int, ...], labels: tuple[int, ...], task: Task | None) -> Task:
    if task is not None:
        one_of("task", task, ["multiclass", "binary", "multilabel"])
        return task
    if len(labels) == 2:
        return "multilabel"
    return "binary" if scores[1] <= 2 else "multiclass"


def _order(scores: jax.Array) -> jax.Array:
    """Whole numbers in the order of the floats, for some devices take all floats below 1e-38 as equal."""
    dtype = jnp.int64 if scores.dtype == jnp.float64 else jnp.int32
    bits = lax.bitcast_convert_type(scores, dtype)
    keys = jnp.where(bits < 0, bits ^ jnp.iinfo(dtype).max, bits)  # of negative floats the larger bits are the smaller
    return jnp.where(keys == -1, 0, keys)  # -0 is 0


def _wins(keys: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Twice the number of pairs in which the positive has the larger key, equal keys counting half; of one column.

    For each positive the negatives below, and those not above, are looked up among the sorted negatives. Their number
    is exact, but the sum over the positives may pass int32: so its three bytes are summed apart, and exactly.
    """
    beyond = jnp.iinfo(keys.dtype).max  # a NaN's key, above that of infinity
    sorted_negatives = jnp.sort(jnp.where(negative, keys, beyond))
    below = jnp.searchsorted(sorted_negatives, keys, side="left")
    not_above = jnp.searchsorted(sorted_negatives, keys, side="right")
    counts = jnp.where(positive, below + not_above, 0)  # at most 2(2²³ - 1): three bytes
    low, middle, high = (jnp.sum((counts >> shift) & 255) for shift in (0, 8, 16))
    dtype = jnp.float64 if keys.dtype == jnp.int64 else jnp.float32
    return high.astype(dtype) * 65536 + middle.astype(dtype) * 256 + low.astype(dtype)


def _mean(values: jax.Array, defined: jax.Array) -> jax.Array:
    """Mean of the defined values [q], NaN if there are none; halves are added, for a sum's order is XLA's choice."""
    count = defined.sum().astype(values.dtype)
    values = jnp.where(defined, values, 0)
    while (size := len(values)) > 1:
        half = size // 2
        values = jnp.concatenate([values[:half] + values[half : 2 * half], values[2 * half :]])
    return jnp.where(count > 0, values[0] / jnp.maximum(count, 1), jnp.nan)
