"""The three splits that training needs of a target."""

from __future__ import annotations

import numpy as np

from experiments import _target
from transferjax import data
from transferjax.data.folds import train_val_test
from transferjax.training import Splits


def load_splits(target: str | None = None, *, seed: int, scored: bool | None = None) -> Splits:
    """Returns all splits; those that the target does not come with are taken out of its training split, and told.

    Args:
      target: None for that of the flags.
      seed: of what is taken.
      scored: as for `data.load`.
    """
    there = _target.splits(target)
    found = {name: data.in_memory(_target.load_target(name, target=target, scored=scored)) for name in there}
    missing = [name for name in ("val", "test") if name not in found]
    if missing:
        train = found["train"]
        parts = train_val_test(
            train.labels,
            val_share=0.1 if "val" in missing else 0,
            test_share=0.2 if "test" in missing else 0,
            groups=train.groups,
            rng=np.random.default_rng(seed),
        )
        found |= {name: train.take(getattr(parts, name)) for name in missing}
        found["train"] = train.take(parts.train)
        taken = ", ".join(f"{len(found[name])} for {name}" for name in missing)
        print(f"{train.name} comes without {' and '.join(missing)}: {taken} were taken, --split_seed={seed}.")
    return Splits(train=found["train"], val=found["val"], test=found["test"])
