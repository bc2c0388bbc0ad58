"""How long from a cold start to the first features of each architecture, compiling included, and at the second start.

Each start is a process of its own, timed from outside: Python, imports, random weights, compiling, and features of 32
images of 64 pixels (224 for the transformer). The first has an empty folder for compiled programs, the second that of
the first, as scripts of this project have it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from transferjax import models
from transferjax._validate import InputError
from transferjax.extraction import extract
from transferjax.types import TargetDataset


def run(architectures: Sequence[str]) -> pd.DataFrame:
    """Measures and prints.

    Args:
      architectures: as in `models.get`.

    Returns:
      A row for each.
    """
    rows = []
    for name in tqdm(architectures, desc="architectures", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (_start(name, folder) for _ in range(2))
        rows.append({
            "architecture": name,
            "cold s": cold["seconds"],
            "warm s": warm["seconds"],
            "ratio": cold["seconds"] / warm["seconds"],
            "cold, of it extracting": cold["extracting"],
            "warm, of it extracting": warm["extracting"],
        })  # fmt: skip
    table = pd.DataFrame(rows)
    print(f"{os.cpu_count()} cores, jax {jax.__version__} on {jax.devices()[0].device_kind}.")
    print(table.to_string(index=False, float_format="{:.1f}".format))
    return table


def _start(name: str, folder: str) -> dict[str, float]:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": folder}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    start = time.perf_counter()
    command = [sys.executable, "-m", "experiments.benchmarks.starts", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise InputError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def main(name: str) -> None:
    """Extracts the first features of an untrained network."""
    size = 224 if name.startswith("vit") else 64
    source = models.random_source(name, name, num_classes=1000, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (32, size, size, 3)).astype(np.uint8)
    labels = np.arange(32, dtype=np.int32) % 2
    target = TargetDataset(name="made up", images=images, labels=labels, class_names=("a", "b"), task="binary")
    start = time.perf_counter()
    jax.block_until_ready(extract(source, target, gradients=None).features)
    print(json.dumps({"extracting": time.perf_counter() - start}))


if __name__ == "__main__":
    main(sys.argv[1])
