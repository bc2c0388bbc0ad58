"""Pictures of rankings. Drawn without a display."""

from __future__ import annotations

import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from transferjax._files import atomic_write
from transferjax.evaluation import static
from transferjax.types import ScoreTable

_BEST, _OTHERS, _INTERVAL = "#1b6ca8", "#a9bfd1", "#333333"


def plot_ranking(table: ScoreTable, path: str | os.PathLike[str]) -> None:
    """Writes a PNG: one panel per metric, one bar per source, best source by the first metric on top.

    Where intervals were computed, a line spans each. The static controls are in the table, not in the picture.

    Args:
      table: of one target.
      path: of the PNG.
    """
    wide, rows = table.wide(), table.rows
    metrics = [metric for metric in wide.columns if metric not in static.NAMES]
    sources = [_plain(source) for source in wide.index]
    figure = Figure(figsize=(1.8 + 2.3 * len(metrics), 1.6 + 0.36 * len(sources)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        scores = wide[metric].to_numpy()
        best = scores.argmax()
        colors = [_BEST if i == best else _OTHERS for i in range(len(sources))]
        # without an interval, as the score itself
        bounds = rows[rows["metric"] == metric].set_index("source").loc[wide.index, ["lower", "upper"]]
        lower, upper = (bounds[name].fillna(wide[metric]).to_numpy() for name in bounds)
        low, high = min(lower.min(), scores.min()), max(upper.max(), scores.max())
        # bars start at zero; for scores without a natural zero, dots show the order without claiming a length
        if low >= 0:
            axis.barh(sources, scores, color=colors)
            axis.set_xlim(0, high * 1.35 or 1)
        else:
            span = (high - low) or 1
            axis.hlines(sources, low - 0.1 * span, scores, color=_OTHERS, linewidth=1)
            axis.scatter(scores, sources, color=colors, zorder=3)
            axis.set_xlim(low - 0.1 * span, high + 0.55 * span)
        if bounds.notna().any(axis=None):
            axis.hlines(sources, lower, upper, color=_INTERVAL, linewidth=1.2, zorder=4)
            axis.plot(lower, sources, "|", upper, sources, "|", color=_INTERVAL, markersize=5, zorder=4)
        for source, value, end in zip(sources, scores, upper, strict=True):
            axis.annotate(
                f"{value:.3f}", (end, source), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set_title(metric, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0].invert_yaxis()
    target = _plain(rows["target"].iloc[0])
    lines = "; lines: 95 % intervals" if rows["lower"].notna().any() else ""
    figure.suptitle(
        f"Candidate sources for {target} (further right is better; darkest: best of its metric{lines})", fontsize=11
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def _plain(name: str) -> str:
    """Keeps matplotlib from reading a formula between two dollar signs."""
    return name.replace("$", r"\$")
