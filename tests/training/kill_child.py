"""A process that fine-tunes with checkpoints, to be killed; and what it leaves when it comes to its end.

python -m tests.training.kill_child <folder> single|grid <epochs>
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from flax import traverse_util

from tests.training import tiny
from transferjax._files import atomic_write
from transferjax.training.finetune import Where, fine_tune
from transferjax.training.recipes import FineTuning, Settings

MEMBERS = {
    "single": [Settings(learning_rate=0.01)],
    "grid": [Settings(learning_rate=rate, seed=seed) for rate in (0.001, 0.01, 1e30) for seed in (0, 1)],
}


def main(folder: str, kind: str, epochs: int) -> None:
    patience = epochs if kind == "single" else epochs // 2  # of the grid some stop early, and some fail
    recipe = FineTuning(epochs=epochs, patience=patience, batch_size=8, augmentation="mild")
    where = Where(folder=Path(folder) / "checkpoints", checkpoint_seconds=0)
    found = fine_tune(
        tiny.source(),
        tiny.splits(),
        MEMBERS[kind],
        recipe=recipe,
        where=where,
        on_epoch=lambda epoch, *_: print(epoch, flush=True),
    )
    arrays = {}
    for place, run in enumerate(found):
        values = (run.last_epoch, run.best_epoch, run.val_loss, run.val_auc, run.test_loss, run.test_auc)
        arrays[f"{place}/values"] = np.array([*values, run.test_accuracy])
        arrays[f"{place}/history"] = run.history
        if run.variables is not None:
            leaves = traverse_util.flatten_dict(run.variables, sep="/")
            arrays |= {f"{place}/{name}": leaf for name, leaf in leaves.items()}
    with atomic_write(Path(folder) / "result.npz") as temporary:
        np.savez(temporary, **arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
