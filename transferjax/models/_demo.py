"""The demo sources: thin networks that come with the package."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from transferjax.models._base import Path

FOLDER = FilePath(__file__).parent / "demo"


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    """Returns name → facts of each demo source: task, recipe, seed, test AUC, hash."""
    path = FOLDER / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def demo_names() -> tuple[str, ...]:
    """Returns the names of the demo sources; those trained on a demo task have the task's name."""
    return tuple(manifest())


def random_leaves(shapes: Mapping[Path, tuple[int, ...]], seed: int) -> dict[Path, np.ndarray]:
    """Returns an untrained network: He-normal kernels by the fan-out, identity BatchNorm, zero biases.

    The control among the demo sources. It is drawn when it is loaded, by NumPy's frozen legacy generator, whose stream
    never changes: a file of the same bits would take 1.4 MB and hold nothing.

    Args:
      shapes: path → shape of all variables.
      seed: of the generator.
    """
    generator = np.random.RandomState(seed)  # frozen by NumPy's compatibility policy
    leaves = {}
    for path in sorted(shapes):
        shape = shapes[path]
        if path[-1] == "kernel":
            fan_out = np.prod(shape) / shape[-2]
            leaves[path] = generator.standard_normal(shape) * np.sqrt(2 / fan_out)
        else:
            leaves[path] = np.ones(shape) if path[-1] in ("scale", "var") else np.zeros(shape)
    return {path: leaf.astype(np.float32) for path, leaf in leaves.items()}
