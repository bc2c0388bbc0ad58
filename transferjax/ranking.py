"""The main job: which of these sources should be fine-tuned for this target?"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import jax
import numpy as np
import pandas as pd
from absl import logging
from tqdm import tqdm

from transferjax import combine, data, metrics, models
from transferjax._validate import InputError, fail, one_of
from transferjax.evaluation import static
from transferjax.extraction import Gradients, extract
from transferjax.metrics.bootstrap import MIN_RESAMPLES, Interval, check_labels, probability_beats, probability_best
from transferjax.types import SCORE_COLUMNS, ScoreTable, SourceModel, TargetDataset

DEFAULT_METRICS = ("feature_quality", "gradient_ratio", "leep", "logme", "knn")
EXAMPLE_METRICS = (
    "gradient_ratio_mean",
    "gradient_ratio_median",
    "gradient_snr",
    "gradient_alignment",
    "gradient_alignment_contrast",
)
COMBINED = "combined"
_PACKAGES = ("transferjax", "jax", "jaxlib", "flax", "numpy", "scipy")


def rank_sources(
    sources: Iterable[str | os.PathLike[str] | SourceModel],
    target: str | os.PathLike[str] | TargetDataset,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    scenario: str = "source_dataset",
    method: str = "product",
    max_examples_per_class: int | None = 100,
    image_size: int | None = None,
    seed: int = 0,
    bootstrap: int = 0,
    gradients: str = "batch",
    cache_dir: str | os.PathLike[str] | None = None,
) -> ScoreTable:
    """Scores each source for the target and ranks them.

    Args:
      sources: at least two; names and files as `transferjax.models.load` takes them, or sources.
      target: a name, a file, a folder as `transferjax.data.load` takes them (its training split), or a data set.
      metrics: see `transferjax.metrics.names()`; and `ncti`, `ncti_published`, which are computed over all sources from
        their three terms. With `feature_quality` and `gradient_ratio` among them, the first
        metric of the result is `combined`, the paper's score; without, the first of them leads.
      scenario: `"source_dataset"`: one architecture, several data sets it was trained on. `"architecture"`: several
        architectures trained on natural images, for a medical target; there both parts of the combined score are
        inverted, as published.
      method: how the two parts are combined, see `transferjax.combine.combine`.
      max_examples_per_class: of the target, at least 6; None for all. Of a multi-label target, as many are drawn with
        each label, without it, and without any, see `transferjax.data.subsample`; labels that fewer than 6 examples
        have, or have not, are left out and listed in `details["target"]`.
      image_size: make the target's images this high and wide; None to take them as they are, all of one size.
      seed: of the draw of examples and of stochastic metrics, from 0 to 2**32 - 1.
      bootstrap: how many resamples of the target's examples tell how sure each score is, at least 20 (see
        `transferjax.metrics.bootstrap`); 0 for none. The static controls have no interval.
      gradients: `"batch"` for the norms of batches' gradients, if a metric needs them; `"example"` for what is known of
        the examples' gradients too. Then the metrics made of that are scored besides those asked for
        (`EXAMPLE_METRICS`, those that the target allows).
      cache_dir: where features and gradients are kept for the next time; None for nowhere.

    Returns:
      A row for each source and metric, the static controls last; in `details` versions, seeds, hashes, timings and how
      clear the lead is. With resamples the rows have 95 % intervals, and `details["uncertainty"]` has P(source is best)
      and P(a beats b) by the leading metric. They are about the draw of the examples alone: with other sources in the
      list the combined score would be another.

    Raises:
      InputError: anything that cannot be used; the message says what and what to do.
    """
    one_of("scenario", scenario, combine.SCENARIOS)
    one_of("method", method, combine.METHODS)
    one_of("gradients", gradients, ["batch", "example"])
    if max_examples_per_class is not None and max_examples_per_class < data.MIN_PER_CLASS:
        raise fail("max_examples_per_class", f"{max_examples_per_class}", f"Take at least {data.MIN_PER_CLASS}.")
    if not 0 <= seed < 2**32:
        raise fail("seed", f"{seed}", "Take a whole number from 0 to 2**32 - 1.")
    if bootstrap and bootstrap < MIN_RESAMPLES:
        raise fail("bootstrap", f"{bootstrap}", f"Take 0 for no intervals, or at least {MIN_RESAMPLES} resamples.")
    for argument, value in (("metrics", metrics), ("sources", sources)):
        if isinstance(value, str):
            raise fail(argument, f"{value!r} is one string", f"Give a list: [{value!r}].")
    if not metrics:
        raise fail("metrics", "none given", "Name at least one.")
    chosen = _parts(metrics)
    by_example = [name for name in chosen if "example_gradients" in _metric(name).inputs]
    if by_example and gradients != "example":
        raise fail("gradients", f"{gradients!r} is not enough for {', '.join(by_example)}", "Choose 'example'.")
    loaded = _load(sources)
    dataset, left_out = data.leave_out_rare_labels(data.load(target, image_size=image_size))
    dataset = data.in_memory(data.subsample(dataset, max_examples_per_class, rng=np.random.default_rng(seed)))
    if gradients == "example":
        several = dataset.labels.ndim == 2
        allowed = [name for name in EXAMPLE_METRICS if not (several and _metric(name).multilabel == "refused")]
        chosen = list(dict.fromkeys([*chosen, *allowed]))
    if dataset.groups is not None and (groups := len(np.unique(dataset.groups))) < len(dataset):
        logging.warning(
            "%s: %d images of %d groups. Metrics that judge an image by others, such as knn and feature_quality, see "
            "those of its own group too and come out too good.",
            dataset.name, len(dataset), groups,
        )  # fmt: skip
    needed = any({"gradients", "example_gradients"} & set(_metric(name).inputs) for name in chosen)
    _check_metrics(chosen, dataset.labels, bootstrap=bool(bootstrap))

    scores: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, Interval]] = {}  # metric → source → interval
    seconds: dict[str, dict[str, float]] = {}
    subsampled: dict[str, int] = {}
    for source in tqdm(loaded, desc=f"sources for {dataset.name}", unit="source", disable=None):
        start = time.perf_counter()
        try:
            pair = extract(
                source, dataset, gradients=cast(Gradients, gradients) if needed else None, cache_dir=cache_dir
            )
        except InputError as error:
            raise InputError(f"source {source.name}: {error}") from error
        extracted = time.perf_counter()
        if bootstrap:
            found = _bootstrap(pair, chosen, jax.random.key(seed), bootstrap)
            scores[source.name] = {name: interval.score for name, interval in found.items()}
            for name, interval in found.items():
                intervals.setdefault(name, {})[source.name] = interval
        else:
            scores[source.name] = _score(pair, chosen, jax.random.key(seed))
        _finite(scores[source.name], source.name)
        scores[source.name] |= static.controls(source)
        seconds[source.name] = {"extraction": extracted - start, "metrics": time.perf_counter() - extracted}
    for name in chosen:
        limit = _metric(name).max_examples
        if limit is not None and len(dataset) > limit:
            subsampled[name] = limit

    table = pd.DataFrame.from_dict(scores, orient="index")
    for name in dict.fromkeys(metrics):
        if name in _OVER_CANDIDATES:
            terms = _OVER_CANDIDATES[name]
            way = functools.partial(combine.combine_ncti, published=name.endswith("_published"))
            values = pd.Series(way(*(table[term].to_numpy() for term in terms)), index=table.index)
            table.insert(list(table.columns).index(terms[0]), name, values)
            if bootstrap:
                intervals[name] = _combined_intervals(table[name], intervals, terms, way)
    lead = None
    if set(combine.INGREDIENTS) <= set(chosen):
        parts = [table[name].to_numpy() for name in combine.INGREDIENTS]  # in the order that `combine` takes them
        if method == "log" and (parts[1] <= 0).any():
            zero = ", ".join(table.index[parts[1] <= 0])
            raise fail("method", f"'log' has no value for a gradient_ratio of 0 ({zero})", "Choose another method.")
        table.insert(0, COMBINED, combine.combine(*parts, scenario=scenario, method=method))
        lead = _lead(list(table.index), parts, scenario=scenario, method=method)
        if bootstrap:
            way = functools.partial(combine.combine, scenario=scenario, method=method)
            floor = np.finfo(np.float64).tiny if method == "log" else -np.inf  # 0 has no logarithm: it comes last
            intervals[COMBINED] = _combined_intervals(table[COMBINED], intervals, combine.INGREDIENTS, way, floor)
    details = {
        "scenario": scenario,
        "method": method,
        "seed": seed,
        "max_examples_per_class": max_examples_per_class,
        "target": {
            "name": dataset.name,
            "examples": len(dataset),
            "task": dataset.task,
            "class_names": list(dataset.class_names),
            "labels_left_out": {name: {"with": has, "without": lacks} for name, (has, lacks) in left_out.items()},
            "image_size": list(dataset.images.shape[1:3]),
            "groups": None if dataset.groups is None else len(np.unique(dataset.groups)),
            "hash": data.content_hash(dataset),
        },
        "sources": {source.name: _facts(source) for source in loaded},
        "metrics_on_a_subsample": subsampled,
        "lead": lead,
        "uncertainty": _uncertainty(str(table.columns[0]), intervals) if bootstrap else None,
        "seconds": seconds,
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "backend": jax.default_backend(),
    }
    return ScoreTable(rows=_tidy(table, dataset.name, intervals), details=details)


# `metrics` is an argument above, as users know it, and hides the module there.
_metric = metrics.get
_score = metrics.score
_bootstrap = metrics.bootstrap
_OVER_CANDIDATES = metrics.OVER_CANDIDATES


def _parts(names: Iterable[str]) -> list[str]:
    """Returns the metrics to compute: as asked for, but the parts in the place of what is made of them."""
    return list(dict.fromkeys(part for name in names for part in _OVER_CANDIDATES.get(name, (name,))))


def _check_metrics(names: list[str], labels: np.ndarray, *, bootstrap: bool) -> None:
    """Raises `InputError` if a metric refuses labels [n] or [n, c], before any source is run."""
    refused: dict[str, InputError] = {}
    for name in names:
        try:
            if bootstrap:
                check_labels(_metric(name), labels)
            else:
                _metric(name).check_labels(labels)
        except InputError as error:
            refused[name] = error
    if refused:
        first, *others = refused
        raise InputError(f"{refused[first]}{' The same holds for: ' + ', '.join(others) + '.' if others else ''}")


def _finite(scores: dict[str, float], source: str) -> None:
    for metric, score in scores.items():
        if not np.isfinite(score):
            remedy = "Leave the metric or the source out, and please report this."
            raise fail(f"source {source}", f"its {metric} is {score}", remedy)


def _load(sources: Iterable[str | os.PathLike[str] | SourceModel]) -> list[SourceModel]:
    """Loads all sources before any work is done, so that a mistake in the last one does not cost an hour."""
    loaded = [models.load(source) for source in sources]
    names = [source.name for source in loaded]
    for name in names:
        same = [source.origin for source in loaded if source.name == name]
        if len(same) > 1:
            raise fail(
                "sources", f"{len(same)} are called {name!r} ({', '.join(same)})", "Rename the files or leave one out."
            )
    if len(loaded) < 2:
        raise fail("sources", f"{len(loaded)} given", "A ranking needs at least two.")
    return loaded


def _tidy(table: pd.DataFrame, target: str, intervals: dict[str, dict[str, Interval]]) -> pd.DataFrame:
    """Sources × metrics to one row each, in the order of the metrics and, within each, of the ranks."""
    parts = []
    for metric in table.columns:
        scores = table[metric].dropna()
        rows = pd.DataFrame({"source": scores.index, "target": target, "metric": metric, "score": scores.to_numpy()})
        rows["rank"] = rows["score"].rank(ascending=False, method="min").astype(int)
        known = intervals.get(str(metric), {})
        for bound in ("lower", "upper"):
            rows[bound] = [getattr(known[name], bound) if name in known else np.nan for name in scores.index]
        parts.append(rows.sort_values(["rank", "source"]))
    return pd.concat(parts, ignore_index=True)[list(SCORE_COLUMNS)]


def _combined_intervals(
    scores: pd.Series,
    intervals: dict[str, dict[str, Interval]],
    names: Sequence[str],
    way: Callable[..., np.ndarray],
    floor: float = -np.inf,
) -> dict[str, Interval]:
    """Combines the parts of all sources in each resample.

    The parts' resamples are centred on their scores already, so the combined ones are taken as they come; an interval
    is widened where it would leave its score out. Parts of different schemes are drawn independently of each other.

    Args:
      scores: source → the combined score.
      intervals: metric → source → interval.
      names: of the parts, in the order that `way` takes them.
      way: combines the parts, each [s], to [s].
      floor: smaller values of a part are raised to it.
    """
    parts = [np.stack([intervals[name][source].resamples for source in scores.index], axis=1) for name in names]
    parts = [np.maximum(part, floor) for part in parts]
    combined = np.stack([way(*resample) for resample in zip(*parts, strict=True)])
    lower, upper = np.quantile(combined, (0.025, 0.975), axis=0)
    values = scores.to_numpy()
    lower, upper = np.minimum(lower, values), np.maximum(upper, values)
    scheme = intervals[names[0]][str(scores.index[0])].scheme
    return {
        str(source): Interval(float(values[i]), float(lower[i]), float(upper[i]), combined[:, i], scheme)
        for i, source in enumerate(scores.index)
    }


def _uncertainty(metric: str, intervals: dict[str, dict[str, Interval]]) -> dict[str, Any]:
    """How often each source is the best, and better than each other, by one metric."""
    names = list(intervals[metric])
    resamples = np.stack([intervals[metric][name].resamples for name in names], axis=1)
    best, beats = probability_best(resamples), probability_beats(resamples)
    made = (COMBINED, *_OVER_CANDIDATES)
    order = np.argsort(-best, kind="stable")
    return {
        "num_resamples": len(resamples),
        "level": 0.95,
        "metric": metric,
        "schemes": {name: next(iter(known.values())).scheme for name, known in intervals.items() if name not in made},
        "probability_best": {names[i]: float(best[i]) for i in order},
        "probability_beats": {names[i]: {names[j]: float(beats[i, j]) for j in order if j != i} for i in order},
    }


def _lead(names: list[str], parts: list[np.ndarray], *, scenario: str, method: str) -> dict[str, Any]:
    """How far ahead the best source is, and whether it stays first when the question is put a little differently.

    The combined score depends on how the parts are combined and on which other candidates are in the list. Both are the
    user's choice, so a lead that hangs on either is not one to build on; whoever then comes first is a rival.
    """

    def first(kept: np.ndarray, way: str) -> list[str]:
        values = combine.combine(*(part[kept] for part in parts), scenario=scenario, method=way)
        return sorted(names[i] for i in kept[values == values.max()])

    everyone = np.arange(len(names))
    values = combine.combine(*parts, scenario=scenario, method=method)
    order = np.argsort(-values, kind="stable")
    best = names[order[0]]
    by_method = {}
    for way in combine.METHODS:
        try:
            by_method[way] = first(everyone, way)
        except InputError:  # `log` is not defined where a gradient ratio is 0
            continue
    others = [i for i in everyone if names[i] != best] if len(names) > 2 else []
    without = [first(everyone[everyone != i], method) for i in others]
    rivals = {name for winners in [*by_method.values(), *without] for name in winners} - {best}
    return {
        "best": best,
        "second": names[order[1]],
        "gap": float(values[order[0]] - values[order[1]]),
        "first_by_method": by_method,
        "left_out": len(others),
        "stays_first_when_one_is_left_out": sum(winners == [best] for winners in without),
        "rivals": [names[i] for i in order if names[i] in rivals],
    }


def _facts(source: SourceModel) -> dict[str, Any]:
    return {
        "architecture": source.architecture,
        "options": dict(source.options),
        "origin": source.origin,
        "weights_hash": source.weights_hash,
        "num_train_examples": source.num_train_examples,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"
