"""README.md and contact_sheet.png of the demo data."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import gridspec
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from experiments.demo_tasks import patches, sources

TEMPLATE = Path(__file__).with_name("readme_template.md")
EXAMPLES = 10


def counts_table(tasks: Sequence[sources.Task]) -> str:
    """Returns a Markdown table: a line for each task with its classes and the examples of each class in each split."""
    lines = [
        "| task | classes | train, each class | val, each class | test, each class | images |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task in tasks:
        cells = []
        for split in patches.SPLITS:
            counts = np.bincount(task.labels[split].ravel(), minlength=len(task.class_names))
            low, high = counts.min(), counts.max()
            cells.append(str(low) if low == high else f"{low} to {high}")
        total = sum(len(images) for images in task.images.values())
        names = ", ".join(task.class_names)
        lines.append(f"| `{task.name}` | {len(task.class_names)}: {names} | {' | '.join(cells)} | {total} |")
    return "\n".join(lines)


def readme(tasks: Sequence[sources.Task]) -> str:
    """Returns the text of the folder's README.md: the template with the table of counts in it."""
    return TEMPLATE.read_text(encoding="utf-8").replace("{counts}", counts_table(tasks))


def strip(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns images [n, 28, 28] side by side, two pixels apart, with [low, high] stretched to [0, 1]."""
    stretched = np.clip((images.astype(float) - low) / max(high - low, 1), 0, 1)
    return np.pad(stretched, ((0, 0), (1, 1), (1, 1)), constant_values=1).transpose(1, 0, 2).reshape(30, -1)


def contact_sheet(tasks: Sequence[sources.Task]) -> bytes:
    """Returns a grey PNG with training examples of every class of every task.

    Greys are stretched task by task, since fluorescence is dark; the files hold them as they are.
    """
    half = sum(len(task.class_names) + 1 for task in tasks) / 2
    columns: list[list[sources.Task]] = [[], []]
    for task in tasks:
        used = sum(len(other.class_names) + 1 for other in columns[0])
        columns[int(used + len(task.class_names) + 1 > half + 2)].append(task)
    rows = max(sum(len(task.class_names) + 1 for task in column) for column in columns)
    figure = Figure(figsize=(13, 0.5 * rows), dpi=100)
    FigureCanvasAgg(figure)
    grid = gridspec.GridSpec(
        rows, 2, figure, left=0.125, right=0.995, top=0.995, bottom=0.005, wspace=0.24, hspace=0.03
    )
    for column, column_tasks in enumerate(columns):
        row = 0
        for task in column_tasks:
            low, high = np.percentile(task.images["train"], (0.5, 98))
            for label, name in enumerate(task.class_names):
                if label == 0:
                    title = figure.add_subplot(grid[row, column])
                    title.axis("off")
                    title.text(0, 0.15, task.name, fontsize=12, fontweight="bold", transform=title.transAxes)
                    row += 1
                axes = figure.add_subplot(grid[row, column])
                members = task.images["train"][task.labels["train"].ravel() == label][:EXAMPLES]
                axes.imshow(strip(members, low, high), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.axis("off")
                axes.text(-0.012, 0.5, name, fontsize=9, ha="right", va="center", transform=axes.transAxes)
                row += 1
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as picture:
        picture.convert("L").quantize(32).save(packed, format="PNG", optimize=True)
    return packed.getvalue()
