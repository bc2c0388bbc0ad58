"""Extraction from many image files: images per second, the memory of the process, and how long the device waited.

JPEGs of 256 x 256 pixels are made up once (`--images` of them, in two classes), then a process of its own opens the
folder and extracts the features of an untrained ResNet-18, and with gradients those too. The device is busy while it is
not waiting for images; on CPU, where decoding takes the same cores, what decoding costs shows in images per second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from experiments.benchmarks.measuring import status
from transferjax import data, models
from transferjax._prefetch import Waited
from transferjax._validate import InputError
from transferjax.extraction import extract

_SIZE = 256
_DIFFERENT = 200  # pictures, each with a patch of its own in every file made of it


def run(count: int) -> pd.DataFrame:
    """Makes the files, measures and prints.

    Args:
      count: of the files.

    Returns:
      A row without and one with gradients.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), count)
        for gradients in ("none", "batch"):
            command = [sys.executable, "-m", "experiments.benchmarks.streaming", folder, gradients]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # its progress is shown
            if done.returncode:
                raise InputError(f"{' '.join(command)} ended with {done.returncode}.")
            rows.append({"gradients": gradients, **json.loads(done.stdout.splitlines()[-1])})
    table = pd.DataFrame(rows)
    print(f"{count:,} JPEGs of {_SIZE} x {_SIZE} pixels, resnet18, {os.cpu_count()} cores.")
    print(table.to_string(index=False, float_format="{:.2f}".format))
    for row in rows:
        met = row["peak resident GB"] < 1.5 and row["device busy"] >= 0.8
        print(f"gradients {row['gradients']}: asked below 1.5 GB and busy 0.8: {'met' if met else 'NOT met'}.")
    return table


def make_files(folder: Path, count: int) -> None:
    """Writes JPEGs of smooth noise, half of them in each of the folders `a` and `b`."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (_DIFFERENT, 32, 32, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC) for one in coarse]
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for i in tqdm(range(count), desc="Making files", unit="file", disable=None):
        picture = pictures[i % _DIFFERENT].copy()
        place = tuple(int(at) for at in rng.integers(0, _SIZE - 64, 2))
        picture.paste(pictures[(i // _DIFFERENT) % _DIFFERENT].crop((0, 0, 64, 64)), place)
        picture.save(folder / "ab"[i % 2] / f"{i:06}.jpg", quality=90)


def main(folder: str, gradients: str) -> None:
    """Extracts and prints what it took."""
    start = time.perf_counter()
    source = models.random_source("resnet18", "resnet18", num_classes=1000, seed=0)
    target = data.subsample(data.load(folder), None, rng=np.random.default_rng(0))
    opened = time.perf_counter() - start
    waited = Waited()
    start = time.perf_counter()
    extract(source, target, gradients=None if gradients == "none" else "batch", waited=waited)
    seconds = time.perf_counter() - start
    found = {
        "images": len(target),
        "opening s": opened,
        "extracting s": seconds,
        "images/s": len(target) / seconds,
        "device busy": 1 - waited.seconds / seconds,
        "peak resident GB": status("VmHWM") / 1e9,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
