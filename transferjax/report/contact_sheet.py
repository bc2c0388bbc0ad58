"""A picture of a few examples of every class."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from transferjax._files import atomic_write
from transferjax.types import TargetDataset

_MOST_ROWS = 60
_PIXELS = 160
_DOTS = 100  # per inch; every image is .8 inch wide


def plot_contact_sheet(
    dataset: TargetDataset, path: str | os.PathLike[str], *, columns: int = 10, rng: np.random.Generator
) -> int:
    """Draws a row for each class, or label, of images drawn at random.

    Args:
      dataset: whose images are shown as they are.
      path: of the PNG.
      columns: images of each class.
      rng: where the draw comes from.

    Returns:
      How many classes are shown: the first 60.
    """
    names = dataset.class_names[:_MOST_ROWS]
    figure = Figure(figsize=(0.8 * columns + 2.1, 0.85 * len(names) + 0.5), dpi=_DOTS)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(names), columns, squeeze=False)
    for label, name in enumerate(names):
        has = dataset.labels == label if dataset.labels.ndim == 1 else dataset.labels[:, label] == 1
        members = rng.permutation(np.flatnonzero(has))[:columns]
        images = [_thumbnail(dataset.images[int(member)]) for member in members]
        for column, axis in enumerate(axes[label]):
            axis.set_axis_off()
            if column < len(members):
                axis.imshow(images[column], interpolation="nearest", vmin=0, vmax=255)
        axes[label, 0].text(
            -0.08,
            0.5,
            _short(name),
            transform=axes[label, 0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
            parse_math=False,
        )
    title = f"{dataset.name}: {len(dataset):,} images of {dataset.images.shape[1]} x {dataset.images.shape[2]}"
    figure.suptitle(title, parse_math=False)
    figure.subplots_adjust(left=2.0 / figure.get_figwidth(), right=0.995, bottom=0.005, wspace=0.04, hspace=0.04)
    figure.subplots_adjust(top=1 - 0.45 / figure.get_figheight())
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
    return len(names)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Returns the image no larger than it is drawn."""
    small = Image.fromarray(image)
    small.thumbnail((_PIXELS, _PIXELS))
    return np.asarray(small)


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
