"""Curves for TensorBoard, written by tensorboardX, and runs for MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transferjax._validate import fail
from transferjax.training.finetune import Run
from transferjax.training.population import HISTORY
from transferjax.training.recipes import FineTuning, Settings
from transferjax.training.records import parameters, run_name

_SECTIONS = dict(zip(HISTORY, ("loss/train", "loss/val", "auc/val", "accuracy/val"), strict=True))


class EventFiles:
    """An event file for each member of a population, for TensorBoard; in a folder for each run.

    After an interruption epochs since the last checkpoint are run again, to the same numbers: TensorBoard is told to
    forget the first ones.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Sequence[Settings], recipe: FineTuning) -> None:
        """Opens no file yet.

        Args:
          folder: of which each run gets a sub-folder.
          settings: of the members.
          recipe: see there.
        """
        self._folders = [Path(folder) / run_name(chosen, recipe) for chosen in settings]
        self._writers: list[Any] = []

    def on_epoch(self, epoch: int, history: np.ndarray, running: np.ndarray) -> None:
        """Writes what `population.train` tells after each epoch."""
        from tensorboardX import SummaryWriter

        if not self._writers:
            self._writers = [
                SummaryWriter(str(folder), purge_step=epoch, flush_secs=30) if runs else None
                for folder, runs in zip(self._folders, running, strict=True)
            ]
        for place in np.flatnonzero(running):
            for row, name in enumerate(HISTORY):
                self._writers[place].add_scalar(_SECTIONS[name], float(history[row, place]), epoch)

    def close(self) -> None:
        """Flushes and closes them."""
        for writer in filter(None, self._writers):
            writer.close()
        self._writers = []


def log_to_mlflow(runs: Sequence[Run], recipe: FineTuning, *, experiment: str, location: str | None = None) -> None:
    """Logs finished runs with parameters, curves and results.

    Args:
      runs: by one recipe.
      recipe: see there.
      experiment: its name, such as the pair's.
      location: MLflow's tracking URI; None for its own default.

    Raises:
      InputError: MLflow is not installed.
    """
    try:
        import mlflow
    except ImportError as error:
        raise fail("mlflow", "is not installed", "Run: pip install 'transferjax[mlflow]'.") from error
    if location is not None:
        mlflow.set_tracking_uri(location)
    mlflow.set_experiment(experiment)
    for run in runs:
        with mlflow.start_run(run_name=run_name(run.settings, recipe)):
            mlflow.log_params({"source": run.source, **parameters(run.settings, recipe)})
            for epoch, values in enumerate(run.history):
                finite = {name: float(v) for name, v in zip(HISTORY, values, strict=True) if np.isfinite(v)}
                mlflow.log_metrics(finite, step=epoch)
            results = {
                name: getattr(run, name)
                for name in ("val_loss", "val_auc", "val_accuracy", "test_loss", "test_auc", "test_accuracy")
            }
            mlflow.log_metrics({f"best_{name}": v for name, v in results.items() if np.isfinite(v)})
            mlflow.set_tag("status", run.status)
