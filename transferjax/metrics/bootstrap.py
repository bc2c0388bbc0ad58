"""How sure a score is: it is computed again on resamples of the examples."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from transferjax._linalg import CHUNK_ELEMENTS, chunk_size
from transferjax._threads import threads_for
from transferjax._validate import fail
from transferjax.metrics._base import Metric, Resampling, get
from transferjax.metrics._view import OF_FEATURES_ALONE, View
from transferjax.types import ExampleGradientStats, GradientStats, TransferPair

MIN_RESAMPLES = 20  # below, the 2.5 % quantile is hardly more than the smallest value
_QUANTILES = (0.025, 0.975)


class Interval(NamedTuple):
    """A score and its uncertainty.

    Attributes:
      score: on all examples, as `metrics.score` gives it.
      lower: of the 95 % interval.
      upper: likewise.
      resamples: float64 [r], the scores of the resamples, moved so that their mean is `score` and kept to the metric's
        range. Entry i of two sources of one target is of the same examples.
      scheme: how examples were drawn, see `Metric.resampling`.
    """

    score: float
    lower: float
    upper: float
    resamples: np.ndarray
    scheme: Resampling


def bootstrap(
    pair: TransferPair, names: Iterable[str], rng: jax.Array, num_resamples: int = 200
) -> dict[str, Interval]:
    """Scores a pair and estimates how much each score owes to the draw of the target's examples.

    Each metric says how its examples are drawn (`Metric.resampling`):

    - `"bootstrap"`: with replacement; each class keeps its size.
    - `"half"`: half of each class without replacement, for metrics that duplicates bias: a nearest neighbour that is
      the example's own copy is always right. The mean of m out of n examples deviates from the mean of all with
      variance σ²/m·(1-m/n), which for halves is σ²/n: that of the mean of all about the truth. So deviations are taken
      as they are, without a factor. A class keeps at least two examples (one, if it has one); such small classes add
      less to the interval than they should.
    - `"batches"`: the batches of the gradient norms, with replacement. There are about seven: a rough estimate.

    The mean of the resamples is not the score: a half has fewer examples to learn from, a resample with replacement has
    fewer different ones. Only deviations from their mean are used: with θ* the resamples' scores, the interval is score
    + the 2.5 % and 97.5 % quantiles of θ* - mean θ*, kept to the metric's range.

    A multi-label target is resampled without regard to classes; a label that lacks one of its values in a resample is
    left out of that resample's mean. A metric with `max_examples` draws its subsample once, as for the score, and the
    resamples from that.

    The draws depend on `rng`, the labels and the scheme alone: they are the same for all sources of one target and all
    metrics of one scheme, so that differences between sources are compared on the same examples.

    Args:
      pair: see `transferjax.types.make_pair`.
      names: of the metrics.
      rng: a JAX key; the scores are those of `metrics.score` with the same key. Stochastic metrics get another key in
        each resample, so that their own noise is part of the interval.
      num_resamples: r, at least 20. The drawn indices take 4·r·n bytes.

    Returns:
      Metric → `Interval`, in the order asked for.

    Raises:
      InputError: what `metrics.score` raises; too few resamples; no class of which half could be left out; labels that
        are missing (-1), for a metric that scores each label by itself: the examples where a label is known would be
        of another number in each resample.

    References:
      Efron, Tibshirani, 1993. An introduction to the bootstrap. Shao, Wu, 1989. A general theory for jackknife
      variance estimation (deleting d of n). https://doi.org/10.1214/aos/1176347263
    """
    if num_resamples < MIN_RESAMPLES:
        remedy = f"A 95 % interval needs at least {MIN_RESAMPLES}."
        raise fail("num_resamples", f"{num_resamples}", remedy)
    chosen = {name: get(name) for name in names}
    for metric in chosen.values():
        metric.check(pair)
        check_labels(metric, np.asarray(pair.labels))
    with threads_for(*np.shape(pair.features)):
        return _bootstrapped(pair, chosen, rng, num_resamples)


def _bootstrapped(
    pair: TransferPair, chosen: Mapping[str, Metric], rng: jax.Array, num_resamples: int
) -> dict[str, Interval]:
    view = View(pair)
    scores = {name: metric(view, rng) for name, metric in chosen.items()}
    del view  # and the matrices that the metrics shared
    keys = jax.random.split(rng, num_resamples)
    found: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        # metrics of one scheme that see the same examples are one program
        groups: dict[tuple[Resampling, str], list[Metric]] = {}
        for metric in chosen.values():
            subsampled = metric.max_examples is not None and len(pair.labels) > metric.max_examples
            alone = metric.name if subsampled or not metric.jittable else ""
            groups.setdefault((metric.resampling, alone), []).append(metric)
        for (scheme, _), group in groups.items():
            seen = group[0].seen(View(pair), jax.random.fold_in(rng, _hash(group[0].name))).pair
            rows = draw(scheme, seen, rng, num_resamples)
            compute = _compiled if group[0].jittable else _on_host
            found |= compute(group, seen, scheme, rows, keys)
    return {name: _interval(metric, scores[name], found[name]) for name, metric in chosen.items()}


def draw(scheme: Resampling, pair: TransferPair, rng: jax.Array, num_resamples: int) -> np.ndarray:
    """Returns the resamples' examples (batches, for `"batches"`): int32 [r, m]; see `bootstrap` for the schemes."""
    seed = np.asarray(jax.random.key_data(rng)).ravel()
    generator = np.random.default_rng([*seed.tolist(), _hash(scheme)])
    if scheme == "batches":
        gradients, examples = pair.gradients, pair.example_gradients
        known = None if examples is None else examples.signal_to_noise
        known = known if gradients is None else gradients.batch_norms
        count = 0 if known is None else len(known)
        return generator.integers(count, size=(num_resamples, count), dtype=np.int32)
    labels = np.asarray(pair.labels)
    strata = np.zeros(len(labels), np.int32) if pair.multilabel else labels
    parts, odd = [], 0
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum).astype(np.int32)
        if scheme == "bootstrap":
            parts.append(members[generator.integers(len(members), size=(num_resamples, len(members)))])
            continue
        half = (len(members) + odd) // 2  # of classes of odd size, every other one is rounded up
        odd ^= len(members) % 2
        keep = max(min(2, len(members)), half)
        orders = generator.permuted(np.tile(members, (num_resamples, 1)), axis=1)
        parts.append(orders[:, :keep])
    rows = np.concatenate(parts, axis=1)
    if scheme == "half" and rows.shape[1] == len(labels):
        raise fail("labels", "no class has three examples, so no half can be drawn", "Take more examples.")
    return rows


def probability_best(resamples: np.ndarray) -> np.ndarray:
    """Returns how often each source is the best: float64 [s], summing to 1; equal ones share.

    Args:
      resamples: float [r, s], paired: row i holds the scores of all sources on the same examples.
    """
    best = resamples == resamples.max(axis=1, keepdims=True)
    return (best / best.sum(axis=1, keepdims=True)).mean(axis=0)


def probability_beats(resamples: np.ndarray) -> np.ndarray:
    """Returns P(a beats b), float64 [s, s] at [a, b]; equality counts half, so that [a, b] + [b, a] is 1.

    Args:
      resamples: float [r, s], paired as for `probability_best`.
    """
    ours, theirs = resamples[:, :, None], resamples[:, None, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=0)


def check_labels(metric: Metric, labels: np.ndarray) -> None:
    """Raises `InputError` if there can be no intervals of a metric for labels [n] or [n, c]."""
    metric.check_labels(labels)
    by_label = "labels" in metric.inputs and metric.multilabel in ("per_label", "columns")
    if labels.ndim == 2 and by_label and bool((labels < 0).any()):
        found = "labels are missing (-1), and the metric scores each label on the examples where it is known"
        raise fail(f"bootstrap of {metric.name}", found, "Leave it out, or the examples with missing labels.")


def _interval(metric: Metric, score: float, values: np.ndarray) -> Interval:
    if not np.isfinite(values).all():
        found = f"{(~np.isfinite(values)).sum()} of {len(values)} resamples have no finite score"
        raise fail(f"bootstrap of {metric.name}", found, "Take more examples, or leave it out.")
    resamples = np.clip(score + (values - values.mean()), *metric.range)
    lower, upper = np.quantile(resamples, _QUANTILES)
    return Interval(score, float(lower), float(upper), resamples, metric.resampling)


def _hash(name: str) -> int:
    return zlib.crc32(name.encode())


def _resample(pair: TransferPair, scheme: Resampling, rows: jax.Array | np.ndarray) -> TransferPair:
    if scheme != "batches":
        return pair.take(rows)
    gradients, examples = pair.gradients, pair.example_gradients
    if gradients is not None:
        gradients = GradientStats(batch_norms=gradients.batch_norms[rows])
    if examples is not None:
        alignment = None if examples.alignment is None else examples.alignment[rows]
        examples = ExampleGradientStats(
            norms=examples.norms, signal_to_noise=examples.signal_to_noise[rows], alignment=alignment
        )
    return dataclasses.replace(pair, gradients=gradients, example_gradients=examples)


def _on_host(
    group: list[Metric], pair: TransferPair, scheme: Resampling, rows: np.ndarray, keys: jax.Array
) -> dict[str, np.ndarray]:
    """One resample after the other, for metrics that cannot be traced as a whole."""
    (metric,) = group
    values = []
    bar = tqdm(rows, desc=f"resamples of {metric.name}", unit="resample", disable=None, leave=False)
    for key, chosen in zip(keys, bar, strict=True):
        view = View(_resample(pair, scheme, chosen))
        key = jax.random.fold_in(key, _hash(metric.name))
        if _takes_one_label(metric, pair):
            values.append(metric.over_labels(view, key))
        else:
            values.append(float(metric.traced(view, key)))
    return {metric.name: np.asarray(values)}


def _compiled(
    group: list[Metric], pair: TransferPair, scheme: Resampling, rows: np.ndarray, keys: jax.Array
) -> dict[str, np.ndarray]:
    """All metrics of the group in one program."""
    wanted = {name for metric in group for name in metric.inputs}
    pair = dataclasses.replace(
        pair,
        logits=pair.logits if "logits" in wanted else None,
        gradients=pair.gradients if "gradients" in wanted else None,
        example_gradients=pair.example_gradients if "example_gradients" in wanted else None,
    )
    r, m = rows.shape
    d, k = pair.features.shape[1], 0 if pair.logits is None else pair.logits.shape[1]
    # of a resample: its examples and their like a few times, its spectra, a chunk of its distances
    elements = 4 * m * (d + k) + 4 * min(m, d) ** 2 + min(m * m, CHUNK_ELEMENTS) if scheme != "batches" else 4 * m
    chunks = -(-r // chunk_size(r, elements))
    size = -(-r // chunks)
    filled = np.resize(np.arange(r), chunks * size)  # a last chunk of another size would be compiled for itself
    names = tuple(metric.name for metric in group)
    values = _resampled(pair, jnp.asarray(rows[filled]), keys[filled], names=names, scheme=scheme, size=size)
    return {name: np.asarray(array, np.float64)[:r] for name, array in zip(names, values, strict=True)}


@functools.partial(jax.jit, static_argnames=("names", "scheme", "size"))
def _resampled(
    pair: TransferPair, rows: jax.Array, keys: jax.Array, *, names: tuple[str, ...], scheme: Resampling, size: int
) -> tuple[jax.Array, ...]:
    """Returns the metrics' scores of all resamples, each [r], `size` resamples at a time."""

    def scores(entry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        chosen, key = entry
        view = View(_resample(pair, scheme, chosen))
        return tuple(_value(get(name), view, jax.random.fold_in(key, _hash(name))) for name in names)

    return jax.lax.map(scores, (rows, keys), batch_size=size)


def _takes_one_label(metric: Metric, pair: TransferPair) -> bool:
    return pair.multilabel and "labels" in metric.inputs and metric.multilabel != "sets"


def _value(metric: Metric, view: View, key: jax.Array) -> jax.Array:
    """Returns the score, inside a trace, where no label is missing."""
    pair = view.pair
    if not _takes_one_label(metric, pair):
        return metric.traced(view, key)
    columns = metric.multilabel == "columns"  # then nothing that is shared depends on the labels
    shared: dict[str, Any] = {
        name: getattr(view, name) for name in metric.shares if columns or name in OF_FEATURES_ALONE
    }

    def of_label(column: jax.Array) -> tuple[jax.Array, jax.Array]:
        labels, num_classes = (column[:, None], 1) if columns else (column, 2)
        part = View(dataclasses.replace(pair, labels=labels, num_classes=num_classes, max_class_size=len(labels)))
        part.__dict__.update(shared)
        return metric.traced(part, key), jnp.any(column == 0) & jnp.any(column == 1)

    values, both = jax.lax.map(of_label, pair.labels.T)
    return jnp.sum(jnp.where(both, values, 0)) / jnp.sum(both)
