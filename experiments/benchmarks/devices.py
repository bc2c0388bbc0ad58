"""Whether a network's features and gradients on this machine's accelerator are those of its CPU.

Both are extracted in one process, from the same random weights and 36 made-up images of three classes, of 64 pixels
(224 for the transformer). Shown is the largest difference over the largest value. Where a ReLU or a maximum is at its
kink, rounding decides which way a gradient goes, and norms differ by more than rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from transferjax import models
from transferjax.extraction import extract
from transferjax.types import TargetDataset, TransferPair

_IMAGES, _CLASSES = 36, 3


def run(architectures: Sequence[str]) -> pd.DataFrame:
    """Measures and prints.

    Args:
      architectures: as in `models.get`.

    Returns:
      A row for each.
    """
    cpu, here = jax.devices("cpu")[0], jax.devices()[0]
    rows = []
    for name in tqdm(architectures, desc="architectures", disable=None):
        ours = _arrays(_extracted(name))
        with jax.default_device(cpu):
            reference = _arrays(_extracted(name))
        apart = {what: _apart(ours[what], reference[what]) for what in reference}
        rows.append({"architecture": name, **apart})
    table = pd.DataFrame(rows)
    print(f"jax {jax.__version__}: {here.device_kind} beside this machine's CPU, differences over the largest value.")
    if here.platform == "cpu":
        print("There is no accelerator: the same was computed twice.")
    print(table.to_string(index=False, float_format="{:.1e}".format))
    return table


def _extracted(name: str) -> TransferPair:
    size = 224 if name.startswith("vit") else 64
    rng = np.random.default_rng(0)
    labels = (np.arange(_IMAGES) % _CLASSES).astype(np.int32)
    offsets = 0.3 * rng.standard_normal((_CLASSES, 1, 1, 3))[labels]
    images = np.clip(128 + 40 * (rng.standard_normal((_IMAGES, size, size, 3)) + offsets), 0, 255).astype(np.uint8)
    target = TargetDataset(name="made up", images=images, labels=labels, class_names=("a", "b", "c"))
    return extract(models.random_source(name, name, num_classes=10, seed=0), target, gradients="example")


def _arrays(pair: TransferPair) -> dict[str, np.ndarray]:
    assert pair.gradients is not None
    assert pair.example_gradients is not None
    return {
        "features": np.asarray(pair.features),
        "logits": np.asarray(pair.logits),
        "norms of batches": np.asarray(pair.gradients.batch_norms),
        "norms of examples": np.asarray(pair.example_gradients.norms),
    }


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())
