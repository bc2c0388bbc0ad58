"""How well a score's order of the sources agrees with the order that fine-tuning gives."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import stats

from transferjax._validate import fail


def weighted_kendall(scores: np.ndarray, performance: np.ndarray) -> float:
    """Weighted Kendall's tau between scores and fine-tuned performance: exchanges among the best count most.

    A pair of sources weighs `1/(1+r) + 1/(1+q)`, `r` and `q` being their ranks (0 for the best). The value is the mean
    of two such correlations, one with the ranks by score, one with the ranks by performance. Ties are counted as in
    Kendall's tau-b. This is SciPy's `weightedtau` with its defaults, as in the published evaluation.

    Args:
      scores: float [s], bigger is better.
      performance: float [s], of the same sources; bigger is better.

    Returns:
      -1..1; 1 if both order the sources alike, -1 if one order is the reverse of the other. NaN where there is no order
      to compare: all scores, or all performances, are equal.

    Raises:
      InputError: not one dimension, different lengths, fewer than two sources, or values that are not finite.

    References:
      Vigna, 2015. A weighted correlation index for rankings with ties. https://arxiv.org/abs/1404.3325
    """
    scores, performance = np.asarray(scores, np.float64), np.asarray(performance, np.float64)
    if scores.ndim != 1 or scores.shape != performance.shape:
        raise fail(
            "performance", f"shape {performance.shape} beside scores of {scores.shape}", "Give one value per source."
        )
    if len(scores) < 2:
        raise fail("scores", f"{len(scores)} source(s)", "A rank correlation needs at least two.")
    for name, values in (("scores", scores), ("performance", performance)):
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise fail(name, f"{values[place]} at position {place}", "Leave that source out of both.")
    return float(stats.weightedtau(scores, performance).statistic)


def tau_table(scores: pd.DataFrame, performance: pd.DataFrame, *, inverted: Collection[str] = ()) -> pd.DataFrame:
    """Weighted Kendall's tau of every metric on every target.

    Sources that have no performance on a target are left out there, and so is the target itself as a source: it is not
    a candidate.

    Args:
      scores: columns `source, target, metric, score`, one row per triple.
      performance: columns `source, target` and one more, the fine-tuned performance; bigger is better.
      inverted: metrics whose small scores are to rank first.

    Returns:
      Columns `target, metric` (str), `weighted_tau` (float64, as `weighted_kendall` returns it, NaN included) and
      `inverted` (bool); a row per target and metric that share at least one source with a performance, in their order
      in `scores`.

    Raises:
      InputError: a triple or a pair occurs twice, `performance` has not just one more column, or what
        `weighted_kendall` raises.

    References:
      Juodelyte et al., 2024. https://arxiv.org/abs/2412.20172
    """
    for argument, table, keys in (
        ("scores", scores, ["source", "target", "metric"]),
        ("performance", performance, ["source", "target"]),
    ):
        twice = table[keys][table.duplicated(keys)]
        if len(twice):
            raise fail(argument, f"{', '.join(twice.iloc[0])} occurs more than once", "Give one row for each.")
    values = [column for column in performance.columns if column not in ("source", "target")]
    if len(values) != 1:
        raise fail("performance", f"columns {', '.join(performance.columns)}", "Give source, target and one more.")
    pairs = scores[scores["source"] != scores["target"]].merge(performance, on=["source", "target"])
    rows = []
    for (target, metric), group in pairs.groupby(["target", "metric"], sort=False):
        sign = -1.0 if metric in inverted else 1.0
        tau = weighted_kendall(sign * group["score"].to_numpy(), group[values[0]].to_numpy())
        rows.append((target, metric, tau, metric in inverted))
    return pd.DataFrame(rows, columns=["target", "metric", "weighted_tau", "inverted"])
