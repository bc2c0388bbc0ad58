"""Every metric against its peer in `peers`: time, memory and value, at several sizes of made-up data.

Each metric and size has a process of its own, in which the two take turns, so that no one's memory or compiled programs
are in another's numbers. What is measured:

- warm: the shortest of up to 20 calls of `transferjax.metrics.score` for this metric alone, with all that other
  metrics would share; the peer likewise. Both take one more call before that.
- the peer twice in each round: as it runs by itself, with its libraries' default threads; and with one thread of BLAS,
  which some peers gain from where there are few cores. The ratio asked for is to the first, as their users run them.
- compiling: the first call less the warm one, without a compilation cache on disk: tracing, XLA, and the first touch of
  memory.
- memory: the largest resident memory of the process during a warm call (Linux counts it) less that before the first
  call, when the features are already on the device. So compiled programs are in it (not what the compiler used and
  freed), the features are not; "with features" adds them, as a multiple of the features, where these are 50 MB or more.
- together: all metrics that have a peer, one preset of each, in one call of `score`, which computes what they share
  once; against the sum of the peers, each of which works for itself as its users do.
"""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]
from tqdm import tqdm

from experiments.benchmarks.measuring import MANY_EXAMPLES, Size, measure, measure_shared
from experiments.benchmarks.peers import PEERS, Peer
from transferjax import metrics

LEFT_OUT = {
    name: "of statistics of gradients that it is given: nothing to compare"
    for name in metrics.names()
    if {"gradients", "example_gradients"} & set(metrics.get(name).inputs)
}
PAIRWISE = ("knn",)  # compare all pairs of examples, without taking a subsample
# What was asked for: metrics no slower than their peers; all together faster by a factor; memory within a multiple.
AT_LEAST_AS_FAST = ("nleep", "sfda", "ncti", "logme", "h_score", "parc", "feature_quality")
TOGETHER = {"small": 5.0, "medium": 3.0}
MEMORY_FACTOR = 1.5
ALL = "all together"
NAN = float("nan")
Row = dict[str, Any]
_PEER_SECONDS = ("peer_seconds", "single_seconds")


class Job(NamedTuple):
    """What becomes a row: the metrics of a peer, a metric without one, or all together."""

    row: str
    names: tuple[str, ...]
    peer: Peer | None
    note: str = ""


def jobs(size: Size, names: tuple[str, ...]) -> list[Job]:
    """Returns what to measure of the metrics asked for."""
    many = size.n > MANY_EXAMPLES
    left = [name for name in names if not (many and name in PAIRWISE)]
    found = []
    for row, peer in PEERS.items():
        if set(peer.metrics) <= set(left):
            found.append(Job(row, peer.metrics, None if many else peer))
            left = [name for name in left if name not in peer.metrics]
    for name in left:
        base = name.removesuffix("_published")
        shared = [row for row, peer in PEERS.items() if base in peer.metrics]
        found.append(Job(name, (name,), None, f"{shared[0]}'s peer" if shared else "has no peer"))
    chosen = together(job.row for job in found)
    everything = Job(ALL, tuple(name for row in chosen for name in PEERS[row].metrics), None)
    return sorted(found) + [everything] * (len(chosen) > 1)


def together(rows: Iterable[str]) -> list[str]:
    """Returns the rows that count for "all together": those with a peer, one preset of each metric."""
    return [row for row in rows if row in PEERS and not row.endswith(("_published", "_loo"))]


def run(sizes: Mapping[str, Size], names: tuple[str, ...], *, seconds: float, isolate: bool) -> pd.DataFrame:
    """Measures and prints, size by size.

    Args:
      sizes: by name.
      names: of metrics.
      seconds: for the rounds of each metric and size, see `measure`.
      isolate: whether each has a process of its own; without, compiling and memory mean little.

    Returns:
      The rows of the tables.
    """
    print(surroundings())
    skipped = [f"{name} ({why})" for name, why in LEFT_OUT.items() if name in names]
    names = tuple(name for name in names if name not in LEFT_OUT)
    if skipped:
        print(f"Left out: {', '.join(skipped)}.")
    call = in_process if isolate else lambda fn, *arguments: fn(*arguments)
    tables = []
    for title, size in sizes.items():
        print(f"\n{title}: n={size.n}, d={size.d}, c={size.c}", flush=True)
        print(shown_shared(size, call(measure_shared, size)), flush=True)
        rows = []
        for job in tqdm(jobs(size, names), desc=title, unit="row", disable=None):
            rows.append(row_of(job, size, call(measure, size, job.names, job.peer, seconds)))
            if size.n > MANY_EXAMPLES:  # takes an hour: what is known so far is not lost if it is interrupted
                row = completed(rows)[-1]
                tqdm.write(f"{job.row}: {row['seconds']:.1f} s, {row['memory_factor']:.2f} x the features' memory")
        rows = completed(rows)
        print("\n".join(["", shown(rows), *conclusions(title, rows)]), flush=True)
        tables.append(pd.DataFrame(rows).assign(size=title))
    return pd.concat(tables, ignore_index=True)


def in_process(fn: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Returns what `fn` returns in a process of its own; if that was killed, `problem` says so."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_without_cache, fn, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool:
            return {"problem": "its process was killed, perhaps for want of memory"}


def _without_cache(fn: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling would be reading
    return fn(*arguments)


def row_of(job: Job, size: Size, found: Mapping[str, Any]) -> Row:
    """Returns a row of the table from what was measured."""
    notes = [job.note, found.get("problem", "")]
    values, peer_values = found.get("values", {}), found.get("peer_values", {})
    for name, other in peer_values.items():
        gap = abs(values[name] - other) / max(abs(values[name]), abs(other), 1e-12)
        if job.peer and not gap <= job.peer.tolerance:
            notes.append(f"values differ by {gap:.1%}")
    if found.get("examples", size.n) < size.n:
        notes.append(f"{found['examples']} of the examples")
    row: Row = {"row": job.row, **size._asdict()}
    row |= {key: found.get(key, NAN) for key in ("seconds", *_PEER_SECONDS, "compiling", "memory", "peer_memory")}
    row["value"] = "" if job.row == ALL else " ".join(f"{value:.4g}" for value in values.values())
    row["peer_value"] = " ".join(f"{value:.4g}" for value in peer_values.values())
    row["note"] = "; ".join(filter(None, notes))
    return row


def completed(rows: list[Row]) -> list[Row]:
    """Returns the rows with ratios; presets get their base's peer, and all together the sum of the peers."""
    by_name = {row["row"]: row for row in rows}
    full = []
    for row in rows:
        name = row["row"]
        base = name.removesuffix("_published")
        times = {key: row[key] for key in _PEER_SECONDS}
        if name not in PEERS and base in PEERS and base in by_name and PEERS[base].metrics == (base,):
            times = {key: by_name[base][key] for key in times}
        if name == ALL:
            times = {key: sum(by_name[other][key] for other in together(by_name)) for key in times}
        size = 4.0 * row["n"] * row["d"]
        factor = 1 + row["memory"] / size if size >= 5e7 else NAN
        ratios = {"ratio": times["peer_seconds"] / row["seconds"]}
        ratios["single_ratio"] = times["single_seconds"] / row["seconds"]
        full.append(row | times | ratios | {"memory_factor": factor})
    return full


def shown(rows: list[Row]) -> str:
    """Returns the table as text."""
    columns = {
        "row": ("", "{}", 1.0),
        "seconds": ("warm s", "{:.4f}", 1.0),
        "peer_seconds": ("peer s", "{:.4f}", 1.0),
        "ratio": ("peer/ours", "{:.1f}", 1.0),
        "single_seconds": ("peer s, 1 thread", "{:.4f}", 1.0),
        "single_ratio": ("/ours", "{:.1f}", 1.0),
        "compiling": ("compiling s", "{:.1f}", 1.0),
        "memory": ("memory MB", "{:.0f}", 1e6),
        "peer_memory": ("peer MB", "{:.0f}", 1e6),
        "memory_factor": ("with features", "{:.2f} x", 1.0),
        "value": ("value", "{}", 1.0),
        "peer_value": ("peer's", "{}", 1.0),
        "note": ("", "{}", 1.0),
    }

    def cell(value: Any, form: str, unit: float) -> str:
        if isinstance(value, str):
            return value
        return "-" if math.isnan(value) else form.format(value / unit)

    table = pd.DataFrame(
        {key: [cell(row[key], form, unit) for row in rows] for key, (_, form, unit) in columns.items()}
    )
    for key in ("row", "note"):
        table[key] = table[key].str.ljust(table[key].str.len().max())
    return table.to_string(index=False, header=[head for head, _, _ in columns.values()])


def conclusions(title: str, rows: list[Row]) -> list[str]:
    """Returns, in lines, what the rows say to what was asked for."""
    by_name = {row["row"]: row for row in rows}
    lines = []
    if title == "small":
        ratios = {name: by_name[name]["ratio"] for name in AT_LEAST_AS_FAST if name in by_name}
        slower = [name for name, ratio in ratios.items() if not ratio >= 1]
        told = ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items())
        lines.append(f"Asked: at least as fast as the peer, alone. Peer's time over ours: {told or 'none measured'}.")
        lines.append(f"  NOT met by {', '.join(slower)}." if slower else "  Met by all of these.")
        told = ", ".join(f"{name} {by_name[name]['single_ratio']:.1f}" for name in ratios)
        lines.append(f"  With one thread for the peer: {told or 'none measured'}.")
        if missing := [name for name in AT_LEAST_AS_FAST if name not in by_name]:
            lines.append(f"  Not measured: {', '.join(missing)}.")
    if ALL in by_name:
        whole, chosen = by_name[ALL], together(by_name)
        alone = sum(by_name[name]["seconds"] for name in chosen)
        lines.append(f"All together ({', '.join(chosen)}):")
        lines.append(f"  {whole['seconds']:.3f} s in one call, {alone:.3f} s one by one.")
        lines.append(f"  The peers {whole['peer_seconds']:.3f} s, {whole['single_seconds']:.3f} s with one thread.")
        asked = TOGETHER.get(title)
        if asked and not math.isnan(whole["ratio"]):
            met = "met" if whole["ratio"] >= asked else "NOT met"
            lines.append(f"  Asked: {asked:g} times as fast as the peers. It is {whole['ratio']:.1f} times: {met}.")
            lines.append(f"  With one thread for the peers it is {whole['single_ratio']:.1f} times.")
    if title == "large":
        factors = {row["row"]: row["memory_factor"] for row in rows if row["row"] != ALL}
        over = [name for name, factor in factors.items() if not factor <= MEMORY_FACTOR]
        worst = max(factors, key=lambda name: factors[name])
        lines.append(f"Asked: features and what is taken beside them within {MEMORY_FACTOR:g} times the features.")
        told = f"NOT met by {', '.join(over)}" if over else "met by all measured"
        lines.append(f"  Most: {worst}, {factors[worst]:.2f} times; {told}.")
    return lines


def shown_shared(size: Size, found: Mapping[str, Any]) -> str:
    """Returns predicted and measured costs of what metrics share, as text."""
    if "problem" in found:
        return f"What metrics share was not measured: {found['problem']}."
    told = [
        f"Shared: scatter {found['scatter']:.3f} s. Predicted: {found['flops'] / found['rate']:.3f} s,",
        f"{found['flops'] / 1e9:.1f} GFLOP at the {found['rate'] / 1e9:.0f} GFLOP/s of a plain float64 product here.",
        f"\n  XLA counts {found['flops_xla'] / 1e9:.1f} GFLOP and {found['bytes_xla'] / 1e9:.2f} GB moved, loops once.",
        f"Memory {found['memory'] / 1e6:.0f} MB; XLA says {found['memory_xla'] / 1e6:.0f} MB",
        f"(the features are {4e-6 * size.n * size.d:.0f} MB).",
        f"\n  Spectrum of a scatter {found['spectrum']:.3f} s.",
    ]
    for ours in ("scatter", "spectrum"):
        if (theirs := found.get(f"numpy_{ours}")) is not None:
            told.append(f"NumPy's {ours}: {theirs:.3f} s, ratio {theirs / found[ours]:.2f}.")
    return " ".join(told)


def surroundings() -> str:
    """Returns what the numbers depend on: machine, versions, threads, settings."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    pools = ", ".join(f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpool_info())
    device = jax.devices()[0]
    found = [
        f"{processor}, {os.cpu_count()} cores; JAX on {device.platform} ({device.device_kind}).",
        f"Python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}.",
        f"Threads of the peers' libraries: {pools}.",
    ]
    prefixes = ("OPENBLAS_", "OMP_", "MKL_", "XLA_FLAGS", "JAX_")
    if settings := sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(prefixes)):
        found.append(f"Settings: {', '.join(settings)}.")
    if "OPENBLAS_CORETYPE" in os.environ:
        found.append("OPENBLAS_CORETYPE is set, which can slow NumPy down: the comparison may be UNFAIR to the peers.")
    return "\n".join(found)
