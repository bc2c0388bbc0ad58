"""How far a mean weighted tau can be trusted, given that targets and sources could have been others."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import stats

from transferjax._validate import positive
from transferjax.evaluation.rank_correlation import tau_table


def mean_tau_intervals(
    scores: pd.DataFrame,
    performance: pd.DataFrame,
    rng: np.random.Generator,
    *,
    inverted: Collection[str] = (),
    num_resamples: int = 200,
) -> pd.DataFrame:
    """95 % intervals of each metric's mean weighted tau over targets, from resampling sources and targets.

    Each resample takes a random half of the sources, without replacement, since a source drawn twice would be a tie
    with itself; a half's deviation has about the variance of the full set's sampling error. It is centred on the full
    set's tau of each target, since fewer sources bias tau; then targets are drawn with replacement. All metrics see the
    same draws.

    Args:
      scores: as `tau_table` takes them.
      performance: likewise.
      rng: NumPy's generator.
      inverted: metrics whose small scores are to rank first.
      num_resamples: how many.

    Returns:
      Columns `metric, mean, lower, upper`, in the order of `scores`. Undefined taus are left out of the means.
    """
    positive("num_resamples", num_resamples)
    full = _wide(tau_table(scores, performance, inverted=inverted))
    column = next(name for name in performance.columns if name not in ("source", "target"))
    pairs = scores[scores["source"] != scores["target"]].merge(performance, on=["source", "target"])
    sources = np.array(sorted(pairs["source"].unique()))
    cells = []  # row and column in `full`, and of the sources of that target their places, scores and performance
    for (target, metric), group in pairs.groupby(["target", "metric"], sort=False):
        place = full.index.get_loc(target), full.columns.get_loc(metric)
        signed = (-1 if metric in inverted else 1) * group["score"].to_numpy(np.float64)
        places = np.searchsorted(sources, group["source"].to_numpy())
        cells.append((place, places, signed, group[column].to_numpy(np.float64)))
    taus = np.full((num_resamples, *full.shape), np.nan)
    for draw in range(num_resamples):
        kept = np.zeros(len(sources), bool)
        kept[rng.permutation(len(sources))[: max(2, -(-len(sources) // 2))]] = True
        for place, places, signed, truth in cells:
            chosen = kept[places]
            if chosen.sum() >= 2:
                taus[(draw, *place)] = stats.weightedtau(signed[chosen], truth[chosen]).statistic
    taus = full.to_numpy() + taus - _mean(taus, 0)
    drawn = rng.integers(0, len(full), (num_resamples, len(full)))
    means = _mean(np.take_along_axis(taus, drawn[:, :, None], axis=1), 1)
    limits = np.full((2, full.shape[1]), np.nan)
    defined = np.isfinite(means).any(axis=0)
    limits[:, defined] = np.nanquantile(means[:, defined], [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {"metric": full.columns, "mean": full.mean().to_numpy(), "lower": limits[0], "upper": limits[1]}
    )


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is defined; NaN where nothing is."""
    counts = np.isfinite(values).sum(axis=axis)
    return np.where(counts > 0, np.nansum(values, axis=axis) / np.maximum(counts, 1), np.nan)


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """Targets × metrics, in their order of appearance."""
    wide = table.pivot(index="target", columns="metric", values="weighted_tau")
    return wide.loc[table["target"].unique(), table["metric"].unique()]
