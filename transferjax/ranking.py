"""The main job: which of these sources should be fine-tuned for this target?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from transferjax import combine, data, metrics, models
from transferjax._validate import InputError, fail, one_of
from transferjax.evaluation import static
from transferjax.extraction import extract
from transferjax.types import SCORE_COLUMNS, ScoreTable, SourceModel, TargetDataset

DEFAULT_METRICS = ("feature_quality", "gradient_ratio", "leep", "logme", "knn")
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
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ScoreTable:
    """Scores each source for the target and ranks them.

    Args:
      sources: at least two; names and files as `transferjax.models.load` takes them, or sources.
      target: a name, a file, a folder as `transferjax.data.load` takes them (its training split), or a data set.
      metrics: see `transferjax.metrics.names()`. With `feature_quality` and `gradient_ratio` among them, the first
        metric of the result is `combined`, the paper's score; without, the first of them leads.
      scenario: `"source_dataset"`: one architecture, several data sets it was trained on. `"architecture"`: several
        architectures trained on natural images, for a medical target; there both parts of the combined score are
        inverted, as published.
      method: how the two parts are combined, see `transferjax.combine.combine`.
      max_examples_per_class: of the target, at least 6; None for all.
      seed: of the draw of examples and of stochastic metrics.
      cache_dir: where features and gradients are kept for the next time; None for nowhere.

    Returns:
      A row for each source and metric, the static controls last; in `details` versions, seeds, hashes, timings and how
      clear the lead is.

    Raises:
      InputError: anything that cannot be used; the message says what and what to do.
    """
    one_of("scenario", scenario, combine.SCENARIOS)
    one_of("method", method, combine.METHODS)
    if max_examples_per_class is not None and max_examples_per_class < data.MIN_PER_CLASS:
        raise fail("max_examples_per_class", f"{max_examples_per_class}", f"Take at least {data.MIN_PER_CLASS}.")
    if not metrics:
        raise fail("metrics", "none given", "Name at least one.")
    chosen = list(dict.fromkeys(metrics))
    needs_gradients = any("gradients" in _metric(name).inputs for name in chosen)
    loaded = _load(sources)
    dataset = data.subsample(data.load(target), max_examples_per_class, rng=np.random.default_rng(seed))

    scores: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    subsampled: dict[str, int] = {}
    for source in tqdm(loaded, desc=f"sources for {dataset.name}", unit="source", disable=None):
        start = time.perf_counter()
        pair = extract(source, dataset, gradients=needs_gradients, cache_dir=cache_dir)
        extracted = time.perf_counter()
        scores[source.name] = _score(pair, chosen, jax.random.key(seed)) | static.controls(source)
        seconds[source.name] = {"extraction": extracted - start, "metrics": time.perf_counter() - extracted}
    for name in chosen:
        limit = _metric(name).max_examples
        if limit is not None and len(dataset) > limit:
            subsampled[name] = limit

    table = pd.DataFrame.from_dict(scores, orient="index")
    lead = None
    if set(combine.INGREDIENTS) <= set(chosen):
        parts = [table[name].to_numpy() for name in combine.INGREDIENTS]  # in the order that `combine` takes them
        table.insert(0, COMBINED, combine.combine(*parts, scenario=scenario, method=method))
        lead = _lead(list(table.index), parts, scenario=scenario, method=method)
    details = {
        "scenario": scenario,
        "method": method,
        "seed": seed,
        "max_examples_per_class": max_examples_per_class,
        "target": {
            "name": dataset.name,
            "examples": len(dataset),
            "class_names": list(dataset.class_names),
            "image_size": list(dataset.images.shape[1:3]),
            "hash": data.content_hash(dataset),
        },
        "sources": {source.name: _facts(source) for source in loaded},
        "metrics_on_a_subsample": subsampled,
        "lead": lead,
        "seconds": seconds,
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "backend": jax.default_backend(),
    }
    return ScoreTable(rows=_tidy(table, dataset.name), details=details)


# `metrics` is an argument above, as users know it, and hides the module there.
_metric = metrics.get
_score = metrics.score


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


def _tidy(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """Sources × metrics to one row each, in the order of the metrics and, within each, of the ranks."""
    parts = []
    for metric in table.columns:
        scores = table[metric].dropna()
        rows = pd.DataFrame({"source": scores.index, "target": target, "metric": metric, "score": scores.to_numpy()})
        rows["rank"] = rows["score"].rank(ascending=False, method="min").astype(int)
        parts.append(rows.sort_values(["rank", "source"]))
    tidy = pd.concat(parts, ignore_index=True)
    return tidy.assign(lower=np.nan, upper=np.nan)[list(SCORE_COLUMNS)]


def _lead(names: list[str], parts: list[np.ndarray], *, scenario: str, method: str) -> dict[str, Any]:
    """How far ahead the best source is, and whether it stays first when the question is put a little differently.

    The combined score depends on how the parts are combined and on which other candidates are in the list. Both are the
    user's choice, so a lead that hangs on either is not one to build on.
    """

    def first(kept: np.ndarray, way: str) -> set[str]:
        values = combine.combine(*(part[kept] for part in parts), scenario=scenario, method=way)
        return {names[i] for i in kept[values == values.max()]}

    everyone = np.arange(len(names))
    values = combine.combine(*parts, scenario=scenario, method=method)
    order = np.argsort(-values, kind="stable")
    best, second = names[order[0]], names[order[1]]
    by_method = {}
    for way in combine.METHODS:
        try:
            by_method[way] = sorted(first(everyone, way))
        except InputError:  # `log` is not defined where a gradient ratio is 0
            continue
    others = [i for i in everyone if names[i] != best] if len(names) > 2 else []
    stays = sum(first(everyone[everyone != i], method) == {best} for i in others)
    return {
        "best": best,
        "second": second,
        "gap": float(values[order[0]] - values[order[1]]),
        "first_by_method": by_method,
        "left_out": len(others),
        "stays_first_when_one_is_left_out": stays,
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
