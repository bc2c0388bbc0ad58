"""What the suite `metrics` measures: time, memory and values of a metric and of its peer. See there."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from experiments.benchmarks.peer_data import Data
from experiments.benchmarks.peers import Peer
from transferjax import _linalg, metrics
from transferjax._validate import InputError, fail
from transferjax.metrics._view import View
from transferjax.types import TransferPair, make_pair

NUM_SOURCE_CLASSES = 165  # as RadImageNet has
# Above, neither what compares all pairs of examples nor the peers are run: their time and memory grow too fast.
MANY_EXAMPLES = 20_000
# Seconds before each measurement: OpenBLAS's threads go on spinning after their last call, and NumPy's and JAX's are
# not the same, so that each would slow the other down.
_PAUSE = 0.2


class Size(NamedTuple):
    """Of a pair: n examples, d features, c classes."""

    n: int
    d: int
    c: int

    def __str__(self) -> str:
        """Returns e.g. `1100x512x11`."""
        return "x".join(map(str, self))


SIZES = {"small": Size(1100, 512, 11), "medium": Size(10_000, 2048, 100), "large": Size(100_000, 2048, 100)}


def size_of(text: str) -> Size:
    """Returns the size of a name or of numbers such as `60x12x3`."""
    if text in SIZES:
        return SIZES[text]
    numbers = text.split("x")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise fail("sizes", f"{text!r} is unknown", f"Choose from {', '.join(SIZES)}, or give <n>x<d>x<c>.")
    size = Size(*map(int, numbers))
    if size.c < 2 or size.n < 2 * size.c or size.d < 1:
        raise fail("sizes", f"{text!r} is too small", "Two classes at least, and two examples of each.")
    return size


def made_up(size: Size) -> Data:
    """Returns made-up data such as a network gives after ReLU and global average pooling.

    Features are positive and their variances fall off by a power law: at d = 2048, 80 % lie in some 55 principal
    components. The classes overlap, also for a linear model, and the logits depend on what the features depend on. The
    same for every call.
    """
    n, d, c = size
    rng = np.random.default_rng(0)
    hidden = min(512, 4 * d)
    scales = np.arange(1, hidden + 1) ** -0.6
    scales /= np.linalg.norm(scales)
    mix = rng.standard_normal((hidden, d), np.float32)
    head = rng.standard_normal((hidden, NUM_SOURCE_CLASSES), np.float32)
    offsets = rng.standard_normal(d, np.float32)
    centres = rng.standard_normal((c, hidden), np.float32) / np.sqrt(np.arange(1, hidden + 1))
    labels = np.arange(n) % c
    features = np.empty((n, d), np.float32)
    logits = np.empty((n, NUM_SOURCE_CLASSES), np.float32)
    for at in range(0, n, 5000):
        rows = slice(at, at + 5000)
        inner = centres[labels[rows]] + rng.standard_normal((len(labels[rows]), hidden), np.float32)
        inner = (scales * inner).astype(np.float32)
        noise = 0.1 * rng.standard_normal((len(inner), d), np.float32)
        features[rows] = np.log1p(np.exp(2 * (inner @ mix + noise + offsets))) / 2
        logits[rows] = 3 * inner @ head
    return Data(features, labels, logits, c)


def status(key: str) -> float:
    """Returns a line of /proc/self/status in bytes, NaN where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), float("nan"))


def give_back() -> None:
    """Has the C library give back what was freed: the compiler leaves it a few hundred MB that nobody uses any more."""
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def watched(fn: Callable[[], Any], before: float | None = None) -> tuple[Any, float, float]:
    """Returns what `fn` returns, the seconds it took, and how much memory came on top meanwhile, NaN if unknown.

    Args:
      fn: what to run.
      before: resident bytes on top of which; None for those at its start.
    """
    time.sleep(_PAUSE)
    before = status("VmRSS") if before is None else before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    except OSError:
        before = float("nan")
    start = time.perf_counter()
    value = fn()
    return value, time.perf_counter() - start, status("VmHWM") - before


def rows_seen(pair: TransferPair, names: Iterable[str], key: jax.Array) -> TransferPair:
    """Returns what the metrics see of a pair: a stratified subsample, if they take one."""
    with jax.enable_x64(True):
        for name in names:
            pair = metrics.get(name).seen(View(pair), jax.random.fold_in(key, zlib.crc32(name.encode()))).pair
    return pair


def measure(size: Size, names: tuple[str, ...], peer: Peer | None, seconds: float) -> dict[str, Any]:
    """Returns time, memory and values of metrics scored in one call, and of their peer.

    Args:
      size: of the made-up pair.
      names: of the metrics.
      peer: or None.
      seconds: after how long no further round begins; 20 rounds at most, one at least besides the first.
    """
    made = made_up(size)
    pair = make_pair(made.features, made.labels, num_classes=size.c, logits=made.logits)
    del made
    key = jax.random.key(0)
    before = status("VmRSS")
    score = functools.partial(metrics.score, pair, names, key)
    try:
        values, first, _ = watched(score)
    except InputError as error:
        return {"problem": str(error)}
    give_back()
    seen = rows_seen(pair, names, key) if len(names) == 1 else pair
    found: dict[str, Any] = {"values": values, "examples": len(seen.labels)}
    theirs = None
    if peer:
        logits = np.empty((len(seen.labels), 0)) if seen.logits is None else np.asarray(seen.logits)
        theirs = functools.partial(
            peer.values, Data(np.asarray(seen.features), np.asarray(seen.labels), logits, size.c)
        )
    del seen  # what is measured takes its own
    costs: list[tuple[float, ...]] = []
    peer_costs: list[tuple[float, ...]] = []
    single: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        try:
            found["peer_values"] = theirs() if theirs else {}  # nor are its imports and threads' start in its time
        except (ValueError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
            found["problem"], theirs = f"the peer fails: {error}", None
        while not costs or (len(costs) < 20 and time.perf_counter() - start < seconds):
            costs.append(watched(score, before)[1:])
            if theirs:
                peer_costs.append(watched(theirs)[1:])
                with threadpool_limits(limits=1, user_api="blas"):
                    single.append(watched(theirs)[1])
    found["seconds"], _ = map(min, zip(*costs, strict=True))
    _, found["memory"] = map(max, zip(*costs, strict=True))
    found["compiling"] = first - found["seconds"]
    if peer_costs:
        found["peer_seconds"], _ = map(min, zip(*peer_costs, strict=True))
        found["single_seconds"] = min(single)
        _, found["peer_memory"] = map(max, zip(*peer_costs, strict=True))
    return found


def measure_shared(size: Size) -> dict[str, Any]:
    """Returns what metrics share should cost and does cost, and NumPy's times for the same."""
    n, d, c = size
    made = made_up(size)
    with jax.enable_x64(True):
        features, labels = jnp.asarray(made.features), jnp.asarray(made.labels, jnp.int32)
        del made
        if n < d:
            features = _linalg.scatter(features, labels, num_classes=c).points
        host, classes, r = np.asarray(features), np.asarray(labels), features.shape[1]
        compiled = _linalg.compiled_class_scatter.lower(features, labels, num_classes=c).compile()
        costs, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
        square = jnp.asarray(np.random.default_rng(0).standard_normal((r, r)))
        multiply = jax.jit(functools.partial(jnp.matmul, precision="highest"))

        def numpy_scatter() -> np.ndarray:
            wide = host.astype(np.float64)
            means = np.stack([wide[classes == label].mean(axis=0) for label in range(c)])
            wide -= means[classes]
            return wide.T @ wide

        runs: dict[str, Callable[[], Any]] = {
            "scatter": lambda: jax.block_until_ready(compiled(features, labels)),
            "spectrum": lambda: jax.block_until_ready(_linalg.spectrum(within)),
            "product": lambda: jax.block_until_ready(multiply(square, square)),
        }
        before = status("VmRSS")
        peak = watched(runs["scatter"], before)[2]
        within = runs["scatter"]()[2]
        if n <= MANY_EXAMPLES:
            runs["numpy_scatter"] = numpy_scatter
            runs["numpy_spectrum"] = functools.partial(np.linalg.eigh, np.asarray(within))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(4 if n <= MANY_EXAMPLES else 2):
            for name, run in runs.items():
                seconds = watched(run)[1]
                if turn:
                    times[name].append(seconds)
    best = {name: min(found) for name, found in times.items()}
    strips = jax.eval_shape(_linalg.upper_products, jax.ShapeDtypeStruct((1, r), jnp.float64))
    unknown = float("nan")
    return {
        "flops": 2.0 * n * (sum(strip.size for strip in strips) + c * r),  # products and sums of the classes
        "rate": 2.0 * r**3 / best["product"],
        "flops_xla": float(costs.get("flops", unknown)),
        "bytes_xla": float(costs.get("bytes accessed", unknown)),
        "memory": peak,
        "memory_xla": float(memory.temp_size_in_bytes + memory.output_size_in_bytes) if memory else unknown,
        **best,
    }
