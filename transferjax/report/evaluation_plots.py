"""Pictures of how well metrics predict fine-tuned performance. Drawn without a display."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from transferjax._files import atomic_write

_METRIC, _CONTROL, _CEILING = "#1b6ca8", "#c46a1b", "#777777"


def plot_mean_tau(
    intervals: pd.DataFrame, path: str | os.PathLike[str], *, controls: tuple[str, ...], ceiling: float | None
) -> None:
    """Writes a PNG: mean weighted tau of each metric with its interval, best on top.

    Args:
      intervals: as `transferjax.evaluation.resampling.mean_tau_intervals` gives them.
      path: of the PNG.
      controls: the metrics that look at no data of the target, drawn in another colour.
      ceiling: the mean noise ceiling, drawn as a line; None for none.
    """
    table = intervals.sort_values("mean")
    figure = Figure(figsize=(7, 1.5 + 0.33 * len(table)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colors = [_CONTROL if name in controls else _METRIC for name in table["metric"]]
    places = np.arange(len(table))
    axis.hlines(places, table["lower"], table["upper"], color=colors, linewidth=2)
    axis.scatter(table["mean"], places, color=colors, zorder=3)
    for place, mean in zip(places, table["mean"], strict=True):
        axis.annotate(f"{mean:.3f}", (mean, place), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7)
    axis.set_yticks(places, table["metric"].tolist())
    axis.set_ylim(-0.6, len(table) - 0.3)
    axis.axvline(0, color="#cccccc", linewidth=1, zorder=0)
    if ceiling is not None:
        axis.axvline(ceiling, color=_CEILING, linestyle="--", linewidth=1, zorder=0)
        axis.annotate(
            f"noise ceiling {ceiling:.2f}", (ceiling, 0), xytext=(-4, 0), textcoords="offset points", rotation=90,
            ha="right", va="bottom", fontsize=7, color=_CEILING,
        )  # fmt: skip
    axis.set_xlabel("mean weighted Kendall's tau over targets (95 % interval; orange: controls)")
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def plot_critical_difference(ranks: pd.Series, critical: float, path: str | os.PathLike[str]) -> None:
    """Writes a PNG: mean rank of each method; bars join those that Nemenyi's test cannot tell apart.

    Args:
      ranks: method → mean rank, 1 is the best.
      critical: the critical difference.
      path: of the PNG.
    """
    ranks = ranks.sort_values()
    values = ranks.to_numpy()
    groups = [(i, int(np.flatnonzero(values - values[i] <= critical)[-1])) for i in range(len(values))]
    groups = [g for g in groups if g[1] > g[0] and not any(o[0] <= g[0] and o[1] >= g[1] and o != g for o in groups)]
    figure = Figure(figsize=(7, 1.4 + 0.3 * len(ranks) + 0.15 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.scatter(values, np.arange(len(values)), color=_METRIC, zorder=3)
    for place, (name, value) in enumerate(ranks.items()):
        axis.annotate(
            f"{name}  {value:.2f}", (value, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8
        )
    for level, (first, last) in enumerate(groups):
        axis.hlines(-1 - 0.6 * level, values[first], values[last], color="black", linewidth=3)
    axis.set_ylim(len(values) - 0.4, -1.6 - 0.6 * len(groups))
    axis.set_xlim(min(values) - 0.3, max(values) + 1.6)
    axis.set_yticks([])
    axis.set_xlabel(f"mean rank (1 is the best); bars join methods closer than the critical difference {critical:.2f}")
    axis.spines[["top", "right", "left"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
