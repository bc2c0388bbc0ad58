"""How long the augmentation of a batch takes, next to torchvision's v2 transforms on as many threads.

Ours and torchvision's take turns, each in a process of its own, and start from the same bytes; both end with normalised
floats. The measure is torchvision with parameters for each image, since that is what ours does and what training
scripts do: in one process, and in a DataLoader with a worker for each core. In one thread it tells the work: where the
machine has other work too, compare the processor's seconds, since threads that wait for each other look slow by the
clock. A whole batch with the same parameters is measured too, but is another augmentation.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.benchmarks.gradients import in_process
from transferjax.data.augment import PAPER, SMALL, Recipe, augment

PEER = Path(__file__).parent / "torch_augmentations.py"
WAYS = ("single", "images", "loader", "together")
MEASURES = ("images", "loader")  # ours has to be at least as fast as these


class Cell(NamedTuple):
    """So many images of a height and width, augmented to a size."""

    extent: int
    size: int
    batch: int
    recipe: str


RECIPES: dict[str, Recipe] = {"paper": PAPER, "small": SMALL}
CELLS = (Cell(256, 224, 128, "paper"), Cell(224, 224, 128, "paper"), Cell(28, 28, 128, "small"))


def pictures(cell: Cell) -> np.ndarray:
    """Returns made-up images uint8 [b, extent, extent, 3]: blots, and noise on them."""
    rng = np.random.default_rng(0)
    tiles = -(-cell.extent // 16)
    blots = rng.integers(0, 200, (cell.batch, tiles, tiles, 3)).repeat(16, axis=1).repeat(16, axis=2)
    shape = (cell.batch, cell.extent, cell.extent, 3)
    return (blots[:, : cell.extent, : cell.extent] + rng.integers(0, 56, shape)).astype(np.uint8)


def run(*, rounds: int, seconds: float, torch_python: str | None, cells: Sequence[Cell] = CELLS) -> pd.DataFrame:
    """Measures and prints.

    Args:
      rounds: in how many processes each number is measured.
      seconds: after how long a process begins no further call.
      torch_python: interpreter that has torch and torchvision, or None to leave them out.
      cells: what is augmented.

    Returns:
      A row for each cell: medians over the rounds in milliseconds for a batch, their ranges, and ratios to ours.
    """
    threads = os.cpu_count() or 1
    rows = []
    for cell in tqdm(cells, desc="cells", disable=None):
        found: dict[str, list[dict[str, Any]]] = {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npy"
            np.save(path, pictures(cell))
            for _ in range(rounds):
                found.setdefault("ours", []).append(_ours(cell, path, seconds))
                for way in WAYS if torch_python else ():
                    measured = _theirs(torch_python or "", way, cell, path, seconds, threads)
                    found.setdefault(way, []).append(measured)
        rows.append(_summary(cell, found))
    table = pd.DataFrame(rows)
    print(f"{threads} cores, jax {jax.__version__} on {jax.devices()[0].device_kind}. Milliseconds for a batch:")
    print(table.set_index(["extent", "size", "batch", "recipe"]).T.to_string(float_format="{:.3g}".format))
    for row in rows if torch_python else ():
        ratio = min(row[f"{way}/ours"] for way in MEASURES)
        met = "met" if ratio >= 1 else "NOT met"
        work = f"{row['single/ours, cpu']:.2f} times fewer seconds of the processor"
        sizes = f"{row['extent']} to {row['size']} pixels"
        print(f"{sizes}: {ratio:.2f} times torchvision's throughput, asked 1: {met}; {work}")
    return table


def _summary(cell: Cell, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    row: dict[str, Any] = cell._asdict()
    for who in ("ours", *WAYS):
        times = [1e3 * measured["seconds"] for measured in found.get(who, [])]
        row[who] = float(np.median(times)) if times else math.nan
        row[f"{who} range"] = f"{min(times):.3g}-{max(times):.3g}" if times else "-"
    for who in ("ours", "single"):
        spent = [1e3 * measured["cpu"] for measured in found.get(who, [])]
        row[f"{who}, cpu"] = float(np.median(spent)) if spent else math.nan
    row["ours, images/s"] = 1e3 * cell.batch / row["ours"]
    row["single/ours, cpu"] = row["single, cpu"] / row["ours, cpu"]
    return row | {f"{way}/ours": row[way] / row["ours"] for way in WAYS}


def _ours(cell: Cell, path: Path, seconds: float) -> dict[str, Any]:
    module = "experiments.benchmarks.augmentations"
    return in_process([sys.executable, "-m", module, str(seconds), str(path), str(cell.size), cell.recipe])[0]


def _theirs(python: str, way: str, cell: Cell, path: Path, seconds: float, threads: int) -> dict[str, Any]:
    recipe = json.dumps({**dataclasses.asdict(RECIPES[cell.recipe]), "size": cell.size})
    return in_process([python, str(PEER), str(seconds), str(path), recipe, str(threads), way])[0]


def main(seconds: float, path: str, size: int, recipe: str) -> None:
    """Measures ours, in this process, and prints it."""
    images, key = np.load(path), jax.random.key(0)
    times: list[float] = []
    start = time.perf_counter()
    jax.block_until_ready(augment(images, key, size=size, recipe=RECIPES[recipe]))
    first = time.perf_counter() - start
    start, spent = time.perf_counter(), time.process_time()
    while len(times) < 3 or (len(times) < 200 and time.perf_counter() - start < seconds):
        key = jax.random.fold_in(key, 1)
        began = time.perf_counter()
        jax.block_until_ready(augment(images, key, size=size, recipe=RECIPES[recipe]))
        times.append(time.perf_counter() - began)
    spent = (time.process_time() - spent) / len(times)
    result = {"seconds": float(np.median(times)), "cpu": spent, "calls": len(times), "first": first}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
