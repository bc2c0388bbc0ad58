"""Gradients of ResNet-18's first two kernels, and the whole cell of the paper, side by side with PyTorch.

Each measurement is a process of its own: ours (`gradient_cases`), and PyTorch's (`torch_peer`) by the interpreter that
`--torch_python` names, in both memory formats. They take turns over several rounds, so that what else the machine does
hits all alike; shown are medians over the rounds, with the range. Of each process it is the median of its warm calls.
With `--long_lived` a round is one process of ours and one of PyTorch's for each format, which measures everything one
after the other: that has its memory from before, which is faster, and its resident memory is that of the largest yet.

- forward: images to features.
- two: the triplet loss's gradient at the two kernels; ours by taps. PyTorch: `autograd.grad` of the same two.
- norms: of each example's share, at both kernels; ours by taps. PyTorch: hooks on the two convolutions, unfold and a
  product.
- vmap: the same by definition, `gradients.example_norms`; PyTorch: torch.func's vmap(grad) over the two.
- plain: ours by automatic differentiation alone, for its memory. PyTorch's column: of all parameters, as the published
  code does.
- vmap_all: torch.func's over all parameters, for small images only.

Operations are counted by hand, convolution by convolution: XLA counts the body of a loop once.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from flax import linen as nn
from tqdm import tqdm

from experiments.benchmarks import gradient_cases
from transferjax._patches import geometry_of
from transferjax._validate import InputError, fail

PEER = Path(__file__).parent / "torch_peer.py"
Row = dict[str, Any]


class Cell(NamedTuple):
    """Images of a size, so many in a batch."""

    size: int
    batch: int


CELLS = (Cell(28, 32), Cell(64, 32), Cell(64, 183), Cell(128, 32), Cell(224, 32))
PEERS = {"forward": "forward", "two": "two", "norms": "hooks", "vmap": "vmap_two", "plain": "all"}
NUM_IMAGES = 1100  # of a whole cell: a hundred of each of eleven classes
FORMATS = ("contiguous", "channels_last")
# Asked for: our time over PyTorch's in channels_last, at most; in the order of the cells.
ASKED = {
    "forward": (1.0, 1.1, 0.9, 1.05, 0.9),
    "two": (1.1, 1.1, 0.9, 0.9, 0.9),
    "norms": (1.1, 1.05, 0.9, 0.85, 0.85),
}


def cells_of(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Returns the cells named `<size>` or `<size>x<batch>`."""
    found = []
    for text in texts:
        parts = text.split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
            raise fail("cells", f"{text!r} is unknown", "Give sizes of images as 64, or with the batch as 64x183.")
        found.append(Cell(int(parts[0]), int(parts[1]) if len(parts) > 1 else 32))
    return tuple(found)


def operations(size: int) -> pd.DataFrame:
    """Returns the convolutions of ResNet-18 with the floating-point operations of one image, counted by hand.

    Columns: forward, 2·P·K·o; backward, the same again for the input's gradient, where one is needed; kernel, the
    product for the gradient of a chosen kernel. Rows in the order of the network.
    """
    source = gradient_cases.network()
    module, rows = source.module.clone(num_classes=0), []
    first, second = (path[:-1] for path in source.first_two_kernels)

    def count(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*args, **kwargs)
        if isinstance(context.module, nn.Conv):
            geometry = geometry_of(context.module, args[0], outputs, context.module.get_variable("params", "kernel"))
            products = 2 * geometry.positions * geometry.patch * geometry.kernel[-1]
            path = context.module.path
            rows.append(
                {
                    "layer": "/".join(path),
                    "forward": products,
                    "backward": products if path != first else 0,  # no gradient goes to the images
                    "kernel": products if path in (first, second) else 0,
                    "norm": 2 * math.prod(geometry.kernel) if path in (first, second) else 0,
                }
            )
        return outputs

    with nn.intercept_methods(count):
        jax.eval_shape(module.apply, source.variables, jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
    return pd.DataFrame(rows).set_index("layer")


def matmul_rate() -> float:
    """Returns the operations per second of a plain float32 product of 2048 x 2048 matrices."""
    a = jax.random.normal(jax.random.key(0), (2048, 2048))
    product = jax.jit(lambda a: a @ a)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(product(a))
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


class Job(NamedTuple):
    """One measurement."""

    cell: Cell
    variant: str


def in_process(command: Sequence[str]) -> list[Row]:
    """Runs measurements and returns what they printed.

    Raises:
      InputError: they failed; with the end of what they said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InputError(f"{' '.join(command)} ended with {done.returncode}: {told}")
    return [json.loads(line) for line in lines]


def ours(jobs: Sequence[Job], seconds: float) -> list[Row]:
    """Returns measurements of ours, made by one process."""
    texts = [f"{variant}:{cell.size}x{cell.batch}" for cell, variant in jobs]
    return in_process([sys.executable, "-m", "experiments.benchmarks.gradient_cases", str(seconds), *texts])


def theirs(python: str, jobs: Sequence[Job], seconds: float, form: str) -> list[Row]:
    """Returns measurements of PyTorch's, made by one process."""
    texts = [f"{PEERS.get(variant, variant)}:{cell.size}x{cell.batch}" for cell, variant in jobs]
    return in_process([python, str(PEER), str(seconds), form, *texts])


def run(
    cells: Sequence[Cell],
    *,
    variants: Sequence[str],
    rounds: int,
    seconds: float,
    torch_python: str | None,
    long_lived: bool = False,
) -> pd.DataFrame:
    """Measures and prints.

    Args:
      cells: sizes and batches.
      variants: of `gradient_cases.VARIANTS`; and `vmap_all`, of PyTorch alone.
      rounds: in how many processes each is measured.
      seconds: after how long a process begins no further call of a measurement.
      torch_python: interpreter that has torch, or None to leave PyTorch out.
      long_lived: whether a process makes all measurements of a round, instead of one.

    Returns:
      A row for each cell and variant.
    """
    rate = matmul_rate()
    print(f"{os.cpu_count()} cores, jax {jax.__version__} on {jax.devices()[0].device_kind}.", end=" ")
    print(f"A float32 product of 2048 x 2048 matrices: {rate / 1e9:.0f} GFLOP/s.", flush=True)
    for size in dict.fromkeys(cell.size for cell in cells):
        told(operations(size), size)
    found: dict[tuple[Job, str], list[Row]] = {}
    jobs = [Job(cell, variant) for cell in cells for variant in variants]
    parts = [jobs] if long_lived else [[job] for job in jobs]
    for part in tqdm(parts * rounds, disable=None):
        own = [job for job in part if job.variant in PEERS]
        measured = {"ours": (own, ours(own, seconds) if own else [])}
        for form in FORMATS if torch_python else ():
            measured[form] = part, theirs(torch_python or "", part, seconds, form)
        for who, (done, rows) in measured.items():
            for job, row in zip(done, rows, strict=True):
                found.setdefault((job, who), []).append(row)
    table = pd.DataFrame([summary(job, found, rate) for job in jobs])
    print("\n" + table.to_string(index=False, float_format="{:.3g}".format))
    for variant, limits in ASKED.items():
        for cell, limit in zip(CELLS, limits, strict=True):
            told_of = table[
                (table["size"] == cell.size) & (table["batch"] == cell.batch) & (table["variant"] == variant)
            ]
            if len(told_of) and not math.isnan(ratio := float(told_of["ours/channels_last"].iloc[0])):
                met = "met" if ratio <= limit else "NOT met"
                print(f"{variant} at {cell.size} pixels, batch {cell.batch}: {ratio:.2f}, asked {limit:g}: {met}")
    return table


def told(counted: pd.DataFrame, size: int) -> None:
    """Prints the operations, and the ratios that were asked for."""
    total = counted.sum()
    print(f"\nOperations of one image of {size} pixels, in millions, convolution by convolution:")
    print((counted / 1e6).round(1).to_string())
    two = (total["forward"] + total["backward"] + total["kernel"]) / total["forward"]
    norms = two + total["norm"] / total["forward"]
    print(
        f"Gradient of the two kernels: {two:.2f} forward passes (asked 2.2). Norms by example: {norms:.2f} (asked 2.5)."
    )


def summary(job: Job, found: dict[tuple[Job, str], list[Row]], rate: float) -> Row:
    """Returns a row: medians and ranges of ours and of PyTorch's in both formats, in milliseconds, and ratios."""
    cell, variant = job
    row: Row = {"size": cell.size, "batch": cell.batch, "variant": variant}
    for who in ("ours", *FORMATS):
        times = [1e3 * one["seconds"] for one in found.get((job, who), [])]
        row[who] = float(np.median(times)) if times else math.nan
        row[f"{who} range"] = f"{min(times):.0f}-{max(times):.0f}" if times else "-"
    row["ours/contiguous"] = row["ours"] / row["contiguous"]
    row["ours/channels_last"] = row["ours"] / row["channels_last"]
    first = found.get((job, "ours"), [{}])[0]
    row["temporaries MB"] = (first.get("temporaries") or math.nan) / 1e6
    row["resident MB"] = first.get("resident", math.nan) / 1e6
    counted = operations(cell.size).sum()
    flops = cell.batch * (counted["forward"] + (counted["backward"] + counted["kernel"]) * (variant != "forward"))
    row["of product rate"] = flops / (row["ours"] / 1e3) / rate if variant in ("forward", "two", "norms") else math.nan
    return row


def run_cell(cells: Sequence[Cell], *, rounds: int, seconds: float, torch_python: str | None) -> pd.DataFrame:
    """Measures a source's whole way from images of these sizes to the default metrics, and prints."""
    rows = []
    for size, _ in cells:
        jobs, times = [Job(Cell(size, NUM_IMAGES), "cell")], dict[str, list[Row]]()
        for _ in range(rounds):
            times.setdefault("ours", []).extend(ours(jobs, seconds))
            for form in FORMATS if torch_python else ():
                times.setdefault(form, []).extend(theirs(torch_python or "", jobs, seconds, form))
        row: Row = {"size": size, "n": NUM_IMAGES}
        for who, measured in times.items():
            row[who] = float(np.median([one["seconds"] for one in measured]))
            row[f"{who}, first"] = float(np.median([one["first"] for one in measured]))
            print(f"{size} pixels, {who}: {measured[0]['values']}")
        for form in FORMATS:
            row[f"{form}/ours"] = row.get(form, math.nan) / row["ours"]
        rows.append(row)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return table
