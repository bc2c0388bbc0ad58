"""How many images a second ResNet-18 is trained with, next to PyTorch; and what a population costs.

`throughput`: a step of fine-tuning all parameters from bytes in memory, without augmentation (the suite `augmentations`
is about that): normalisation, network, dropout, head, SGD with momentum and weight decay. Ours and PyTorch's, in both
memory formats, take turns in processes of their own; shown are medians over the rounds of each process's median step,
of PyTorch in its fastest form. On a GPU both round the factors of products to TF32, as PyTorch's convolutions do there
by themselves. PyTorch runs with its own number of threads and with one: where the machine has other work too, its
threads wait for each other, and take longer than one alone. Compare the processor's time then.

`population`: eight members of the demo sources' ResNet-18 with 16 channels, next to eight single runs one after the
other in one process, whose programs are compiled once too; in processes of their own, compilation included. And the
same members vmapped, which is the way of accelerators (`training.groups`).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments.benchmarks.gradients import FORMATS, Cell, in_process
from transferjax import data, models
from transferjax.models import headless
from transferjax.training import groups, population
from transferjax.training.feed import Feed
from transferjax.training.finetune import Where, fine_tune
from transferjax.training.network import Design, fresh_head
from transferjax.training.prepare import Splits
from transferjax.training.recipes import FineTuning, Settings

PEER = Path(__file__).parent / "torch_training.py"
CELLS = (Cell(28, 128), Cell(64, 128))
ASKED = (1.0, 0.8)  # our images a second over PyTorch's in its fastest form, at least
IMAGES, CLASSES, STEPS = 512, 10, 4
MEMBERS, EPOCHS = 8, 6
WAYS = ("population", "singles", "vmapped")
PEERS = {f"{form}{', one thread' if threads else ''}": (form, threads) for form in FORMATS for threads in (0, 1)}


def run(cells: Sequence[Cell] = CELLS, *, rounds: int, seconds: float, torch_python: str | None) -> pd.DataFrame:
    """Measures throughput and prints it.

    Args:
      cells: sizes and batches.
      rounds: in how many processes each is measured.
      seconds: after how long a process begins no further step.
      torch_python: interpreter that has torch, or None to leave PyTorch out.

    Returns:
      A row for each cell.
    """
    found: dict[tuple[Cell, str], list[dict[str, float]]] = {}
    for cell in tqdm(list(cells) * rounds, desc="throughput", disable=None):
        text = f"{cell.size}x{cell.batch}"
        commands = {"ours": [sys.executable, "-m", "experiments.benchmarks.training", str(seconds), text]}
        for name, (form, threads) in PEERS.items() if torch_python else ():
            commands[name] = [str(torch_python), str(PEER), str(seconds), form, str(threads), text]
        for who, command in commands.items():
            found.setdefault((cell, who), []).append(in_process(command)[0])
    rows = []
    for cell in cells:
        row: dict[str, Any] = {"size": cell.size, "batch": cell.batch}
        medians = {who: _median(found.get((cell, who), []), "seconds") for who in ("ours", *PEERS)}
        peer = min(PEERS, key=lambda who: medians[who])
        row["peer"] = peer if torch_python else "-"
        for column, who in (("ours", "ours"), ("PyTorch", peer)):
            measured = found.get((cell, who), [])
            times = [one["seconds"] for one in measured]
            row[f"{column} images/s"] = cell.batch / medians[who]
            row[f"{column} range"] = f"{cell.batch / max(times):.0f}-{cell.batch / min(times):.0f}" if times else "-"
            row[f"{column} processor ms"] = 1e3 * _median(measured, "processor")
        row["ours/PyTorch"] = row["ours images/s"] / row["PyTorch images/s"]
        rows.append(row)
    table = pd.DataFrame(rows)
    print(f"{os.cpu_count()} cores, jax {jax.__version__} on {jax.devices()[0].device_kind}.")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    for cell, least in zip(CELLS, ASKED, strict=True):
        ratios = table.loc[(table["size"] == cell.size) & (table["batch"] == cell.batch), "ours/PyTorch"].dropna()
        if len(ratios):
            met = "met" if ratios.iloc[0] >= least else "NOT met"
            print(f"At {cell.size} pixels, batch {cell.batch}: {ratios.iloc[0]:.2f}, asked {least:g}: {met}")
    return table


def _median(measured: Sequence[dict[str, float]], clock: str) -> float:
    return float(np.median([one[clock] for one in measured])) if measured else math.nan


def run_population(*, rounds: int) -> pd.DataFrame:
    """Measures a population of eight against eight single runs, compilation included, and prints it."""
    found: dict[str, list[dict[str, float]]] = {}
    for way in tqdm(WAYS * rounds, desc="population", disable=None):
        command = [sys.executable, "-m", "experiments.benchmarks.training", way]
        found.setdefault(way, []).append(in_process(command)[0])

    rows = []
    for way in WAYS:
        row: dict[str, Any] = {"way": way, "members": MEMBERS, "epochs": EPOCHS}
        for clock in ("seconds", "processor"):
            times = [one[clock] for one in found[way]]
            row[clock] = _median(found[way], clock)
            row[f"{clock}, range"] = f"{min(times):.0f}-{max(times):.0f}"
            row[f"{clock}, of singles"] = row[clock] / _median(found["singles"], clock)
        rows.append(row)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    ratio = float(table.loc[table["way"] == "population", "seconds, of singles"].iloc[0])
    print(f"Population over singles: {ratio:.2f}, asked 1: {'met' if ratio <= 1 else 'NOT met'}")
    return table


def measure_steps(cell: Cell, seconds: float) -> dict[str, float]:
    """Returns the seconds of a step, and of the first call of a block of steps, compilation included."""
    source = models.random_source("resnet18", "resnet18", num_classes=CLASSES, seed=0)
    module, variables = headless(source)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, cell.size, cell.size, 3)).astype(np.uint8)
    feed = Feed(images, np.arange(IMAGES) % CLASSES)
    params = {"network": variables["params"], "head": fresh_head(0, 512, CLASSES)}
    settings = Settings(learning_rate=0.01, momentum=0.9, weight_decay=1e-4)
    progress = population.start([(params, variables["batch_stats"], settings)], epochs=1)
    shared = groups.Pass(
        design=Design(module=module, trains_network=True, dropout=0.5, precision="tensorfloat32"),
        frozen=None,
        normalization=source.normalization,
        accumulate=1,
    )
    members = groups.group(groups.way_of_backend(), shared, progress.states, progress.best, progress.hyper)
    steps = min(STEPS, IMAGES // cell.batch)

    def block() -> np.ndarray:
        start = _clocks()
        rows = rng.permutation(IMAGES)[: steps * cell.batch].reshape(steps, cell.batch)
        for part in feed.blocks(rows):
            members.train(part, 0, 1.0, np.array([True]))
        return _clocks() - start

    first, times, begun = block(), list[np.ndarray](), time.perf_counter()
    while not times or (len(times) < 8 and time.perf_counter() - begun < seconds):
        times.append(block() / steps)
    wall, processor = np.median(times, axis=0)
    return {"first": float(first[0]), "seconds": float(wall), "processor": float(processor)}


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def measure_population(way: str) -> dict[str, float]:
    """Returns the seconds of one of `WAYS`, from the data to the results."""
    source = models.load("photos")
    splits = Splits(**{name: data.load("histology", split=name) for name in ("train", "val", "test")})
    recipe = FineTuning(epochs=EPOCHS, patience=EPOCHS, batch_size=64, augmentation="mild")
    settings = [Settings(learning_rate=rate, seed=seed) for rate in (0.001, 0.003, 0.01, 0.03) for seed in (0, 1)]
    start = _clocks()
    if way == "singles":
        for one in settings:
            fine_tune(source, splits, [one], recipe=recipe)
    else:
        where = Where(way="together" if way == "vmapped" else None)
        fine_tune(source, splits, settings, recipe=recipe, where=where)
    wall, processor = _clocks() - start
    return {"seconds": float(wall), "processor": float(processor)}


if __name__ == "__main__":
    if sys.argv[1] in WAYS:
        print(json.dumps(measure_population(sys.argv[1])))
    else:
        pixels, _, count = sys.argv[2].partition("x")
        print(json.dumps(measure_steps(Cell(int(pixels), int(count)), float(sys.argv[1]))))
