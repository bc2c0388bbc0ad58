"""A progress bar over the epochs of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from transferjax.training import FineTuning, Settings
from transferjax.training.population import HISTORY, OnEpoch
from transferjax.types import SourceModel

_AUC = HISTORY.index("val_auc")


class Epochs:
    """Shows how far a population has come; give its `watch` to `populations`, in a `with` block."""

    def __init__(self, name: str, recipe: FineTuning) -> None:
        """Shows nothing done yet.

        Args:
          name: of what is trained.
          recipe: of which the bar has the epochs.
        """
        self._bar = tqdm(total=recipe.epochs, desc=name, unit="epoch", disable=None, leave=False)

    def __enter__(self) -> Epochs:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the bar."""
        self.close()

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()

    def watch(self, members: Sequence[tuple[SourceModel, Settings]]) -> OnEpoch:
        """Begins with a population."""
        self._bar.reset()
        self._bar.set_postfix(runs=len(members))
        return self._on_epoch

    def _on_epoch(self, epoch: int, history: np.ndarray, running: np.ndarray) -> None:
        self._bar.update(epoch + 1 - self._bar.n)
        aucs = history[_AUC][np.isfinite(history[_AUC])]
        self._bar.set_postfix(running=int(running.sum()), val_auc=f"{aucs.max():.4f}" if len(aucs) else "-")
