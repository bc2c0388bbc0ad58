"""Grids of settings: the paper's, a small one, and what a user writes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from transferjax._validate import fail
from transferjax.training.recipes import Settings

_NAMES = {
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "momentum": "momentum",
    "wd": "weight_decay",
    "weight_decay": "weight_decay",
    "batch_size": "batch_size",
}
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    # Per pair 120 runs with the two batch sizes that the paper chose by the size of the target.
    "paper": {
        "learning_rate": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "momentum": (0.0, 0.9),
        "weight_decay": (0.0, 1e-6, 1e-5, 1e-4, 1e-3),
    },
    "small": {"learning_rate": (1e-3, 1e-2, 1e-1), "momentum": (0.9,), "weight_decay": (0.0, 1e-3)},
}
_LARGE, _SMALL = 100_000, 5_000


def paper_batch_sizes(num_train: int) -> tuple[int, int]:
    """Returns two batch sizes by the number of training images, as the published runs mostly have them.

    Those of most targets are 128 and 256. Small ones (`breastmnist`, `pneumoniamnist`) have 32 and 64, and the largest
    in memory (`chestmnist`) 256 and 512; `retinamnist` and `octmnist` have 64 and 128, which no rule by size gives.

    Args:
      num_train: of the target.
    """
    if num_train < _SMALL:
        return 32, 64
    return (128, 256) if num_train < _LARGE else (256, 512)


def parse(text: str, *, seeds: Sequence[int] = (0,)) -> tuple[tuple[int, ...] | None, list[Settings]]:
    """Returns the runs of a grid.

    Args:
      text: `"paper"`, `"small"`, or values as `"lr=0.1,0.01;wd=0,1e-4"`. Names are lr, momentum, wd and batch_size;
        what is not named has the defaults of `Settings`.
      seeds: each setting is run with each seed.

    Returns:
      The batch sizes, None if the grid names none, and the settings, in the order of the grid, seeds last.

    Raises:
      InputError: a name or a value that is none.
    """
    values = dict(GRIDS[text]) if text in GRIDS else _written(text)
    sizes = values.pop("batch_size", None)
    if "learning_rate" not in values:
        raise fail("grid", f"{text!r} has no learning rate", "Write e.g. lr=0.1,0.01;wd=0,1e-4, or small or paper.")
    names = list(values)
    members = [
        Settings(**dict(zip(names, chosen, strict=True)), seed=seed)
        for chosen in itertools.product(*values.values())
        for seed in seeds
    ]
    if len(set(members)) < len(members):
        raise fail("grid", f"{text!r} with seeds {list(seeds)} has a run twice", "Leave out what is there twice.")
    return None if sizes is None else tuple(int(size) for size in sizes), members


def _written(text: str) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, listed = part.partition("=")
        key = _NAMES.get(name.strip())
        if not equals or key is None:
            raise fail("grid", f"{part!r} is unknown", "Write paper, small, or e.g. lr=0.1,0.01;wd=0,1e-4.")
        try:
            found[key] = tuple(float(value) for value in listed.split(","))
        except ValueError as error:
            raise fail("grid", f"{part!r} has what is no number", "Write e.g. lr=0.1,0.01.") from error
        if key == "batch_size" and any(value < 1 or value != int(value) for value in found[key]):
            raise fail("grid", f"{part!r}", "Batch sizes are whole numbers of at least 1.")
    return found
