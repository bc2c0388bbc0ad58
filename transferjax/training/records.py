"""A pair's table of runs: a Parquet file that is whole or as it was, one row for each run, failed ones too."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax
import pandas as pd

from transferjax._files import atomic_write, sha256
from transferjax._validate import fail
from transferjax._version import __version__
from transferjax.training.finetune import Run
from transferjax.training.recipes import FineTuning, Settings
from transferjax.types import SourceModel

PUBLISHED = (
    "scenario", "source", "target", "batch_size", "learning_rate", "momentum", "weight_decay", "last_epoch",
    "val_loss", "val_auc", "val_acc", "test_loss", "test_auc", "test_acc",
)  # fmt: skip
"""The columns of `transferjax.published.finetuning_runs`, with the same meaning."""
_TYPES = {
    **dict.fromkeys(("scenario", "source", "target", "status", "mode", "recipe", "key", "versions", "device"), "str"),
    **dict.fromkeys(("batch_size", "seed", "data_seed"), "int64"),
    **dict.fromkeys(("last_epoch", "best_epoch"), "Int64"),
}
COLUMNS = (
    *PUBLISHED,
    "seed",
    "data_seed",
    "mode",
    "status",
    "best_epoch",
    "seconds",
    "recipe",
    "key",
    "versions",
    "device",
)
_PACKAGES = (jax, jaxlib, flax, optax, np)


def key_of(source: SourceModel, target_hash: str, recipe: FineTuning, settings: Settings) -> str:
    """Returns what a run is known by: equal for what gives equal results.

    Args:
      source: where it starts.
      target_hash: of the target's splits.
      recipe: see there.
      settings: of the run.
    """
    normalization = dataclasses.asdict(source.normalization)
    facts = [source.architecture, dict(source.options), source.weights_hash, normalization, target_hash]
    text = json.dumps([*facts, dataclasses.asdict(recipe), dataclasses.asdict(settings)], sort_keys=True)
    return sha256(text.encode())


def rows_of(
    runs: Sequence[Run], *, target: str, scenario: str, recipe: FineTuning, keys: Sequence[str]
) -> pd.DataFrame:
    """Returns runs as rows: the published columns, and what else is known.

    As in the published table, what follows `last_epoch` is missing of a failed run, and that itself.

    Args:
      runs: of one target, by one recipe.
      target: its name.
      scenario: `"source_dataset"`, `"architecture"`, or what else the runs are made for.
      recipe: see there.
      keys: of each run, by `key_of`.
    """
    versions = {"transferjax": __version__, **{package.__name__: package.__version__ for package in _PACKAGES}}
    rows = []
    for run, key in zip(runs, keys, strict=True):
        failed = run.status == "failed"
        rows.append({
            "scenario": scenario,
            "source": run.source,
            "target": target,
            "batch_size": recipe.batch_size,
            "learning_rate": run.settings.learning_rate,
            "momentum": run.settings.momentum,
            "weight_decay": run.settings.weight_decay,
            "last_epoch": None if failed else run.last_epoch,
            "val_loss": run.val_loss,
            "val_auc": run.val_auc,
            "val_acc": run.val_accuracy,
            "test_loss": run.test_loss,
            "test_auc": run.test_auc,
            "test_acc": run.test_accuracy,
            "seed": run.settings.seed,
            "data_seed": recipe.data_seed,
            "mode": recipe.mode,
            "status": run.status,
            "best_epoch": None if failed else run.best_epoch,
            "seconds": run.seconds,
            "recipe": json.dumps(dataclasses.asdict(recipe), sort_keys=True),
            "key": key,
            "versions": json.dumps(versions),
            "device": jax.devices()[0].device_kind,
        })  # fmt: skip
    return _typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns the runs in a table; none if there is no such file.

    Raises:
      InputError: it cannot be read, or is no such table.
    """
    if not Path(path).exists():
        return _typed(pd.DataFrame(columns=list(COLUMNS)))
    try:
        found = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise fail(str(path), f"cannot be read ({error})", "Move it away.") from error
    if missing := [name for name in COLUMNS if name not in found.columns]:
        raise fail(str(path), f"is no table of runs: without {', '.join(missing)}", "Move it away.")
    return _typed(found[list(COLUMNS)])


def append(path: str | os.PathLike[str], rows: pd.DataFrame) -> pd.DataFrame:
    """Adds runs to a table, and returns it; a run that is there already is replaced.

    Raises:
      InputError: the file cannot be read or written; it stays as it was.
    """
    before = read(path)
    before = before[~before["key"].isin(rows["key"])]
    table = rows if before.empty else pd.concat([before, rows], ignore_index=True)
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)
    return table


def best(table: pd.DataFrame, by: str = "val_auc") -> pd.Series | None:
    """Returns the run of the best validation AUC, or of the lowest `val_loss`; None if all have failed.

    The published study takes a pair's run of the lowest validation loss.
    """
    good = table[table["status"] != "failed"]
    if good.empty:
        return None
    values = good[by].to_numpy()
    return good.iloc[int(values.argmax() if by == "val_auc" else values.argmin())]


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the settings with means over their seeds, the best by validation first.

    Returns:
      Columns: those of a setting, `seeds` (how many did not fail), `failed`, mean `val_auc` and `test_auc`, and
      `test_sd` (sample standard deviation). A setting that failed with any seed comes after all others.
    """
    columns = ["mode", "batch_size", "learning_rate", "momentum", "weight_decay"]
    grouped = table.assign(failed=table["status"] == "failed").groupby(columns, sort=False)
    found = grouped.agg(
        seeds=("test_auc", "count"),
        failed=("failed", "sum"),
        val_auc=("val_auc", "mean"),
        test_auc=("test_auc", "mean"),
        test_sd=("test_auc", "std"),
    ).reset_index()
    return found.sort_values(["failed", "val_auc"], ascending=[True, False], kind="stable", ignore_index=True)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    floats = {name: "float64" for name in COLUMNS if name not in _TYPES}
    return table.astype({**floats, **_TYPES})


def run_name(settings: Settings, recipe: FineTuning) -> str:
    """Returns what event files and trackers call a run."""
    return (
        f"{recipe.mode}-bs{recipe.batch_size}-lr{settings.learning_rate:g}-m{settings.momentum:g}-wd{settings.weight_decay:g}"
        f"-seed{settings.seed}"
    )


def parameters(settings: Settings, recipe: FineTuning) -> dict[str, Any]:
    """Returns all that a run was given, for a tracker."""
    return {**dataclasses.asdict(recipe), **dataclasses.asdict(settings)}
