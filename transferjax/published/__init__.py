"""The paper's ground truth: its scores, and what fine-tuning every source on every target really gave.

README.md beside this file tells where each number comes from.

References:
  Juodelyte et al., 2024. On dataset transferability in medical image classification. https://arxiv.org/abs/2412.20172
"""

from __future__ import annotations

import dataclasses
import importlib.resources

import pandas as pd

from transferjax._validate import one_of

SCENARIOS = ("source_dataset", "architecture")

COMPARED = ("logme", "parc", "sfda", "ncti", "leep", "nleep", "combined")
"""The methods that the paper's Friedman test compares."""

_INVERTED: dict[str, tuple[str, ...]] = {
    "source_dataset": (),
    "architecture": ("feature_quality", "gradient_ratio", "leep", "ncti", "nleep", "parc"),
}

_RUN_TYPES: dict[str, str] = {
    "scenario": "str",
    "source": "str",
    "target": "str",
    "batch_size": "int64",
    **dict.fromkeys(("learning_rate", "momentum", "weight_decay", "last_epoch"), "float64"),
    **dict.fromkeys(("val_loss", "val_auc", "val_acc", "test_loss", "test_auc", "test_acc"), "float64"),
}
_DEMO_RUN_TYPES = {
    **_RUN_TYPES,
    "seed": "int64",
    "data_seed": "int64",
    "mode": "str",
    "status": "str",
    "best_epoch": "float64",
    "seconds": "float64",
    **dict.fromkeys(("recipe", "key", "versions", "device"), "str"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedStudy:
    """One of the paper's two scenarios.

    Attributes:
      scenario: `"source_dataset"` (which data set to start from) or `"architecture"` (which network).
      scores: columns `source, target, metric` (str), `score` (float64, as published: not scaled, not inverted), one row
        per triple. A target's own set may be among its sources.
      test_auc: columns `source, target` (str), `test_auc` (float64, 0..1), one row per pair, never a set with itself.
      inverted: the metrics for which the paper ranks small scores first in this scenario.
    """

    scenario: str
    scores: pd.DataFrame
    test_auc: pd.DataFrame
    inverted: tuple[str, ...]


def load(scenario: str) -> PublishedStudy:
    """Returns the published scores and fine-tuned performance of one scenario.

    Args:
      scenario: `"source_dataset"`: 15 sources, 11 targets with scores, 12 with AUC; `"architecture"`: 9 networks, 11
        targets.

    Raises:
      InputError: the scenario is unknown.
    """
    one_of("scenario", scenario, SCENARIOS)
    keys = {"source": "str", "target": "str"}
    return PublishedStudy(
        scenario=scenario,
        scores=_read(f"{scenario}_scores.csv", {**keys, "metric": "str", "score": "float64"}),
        test_auc=_read(f"{scenario}_test_auc.csv", {**keys, "test_auc": "float64"}),
        inverted=_INVERTED[scenario],
    )


def finetuning_runs() -> pd.DataFrame:
    """Returns all 28,205 fine-tuning runs of both scenarios, in their published order.

    Returns:
      Columns `scenario, source, target` (str), `batch_size` (int64), `learning_rate, momentum, weight_decay` (float64),
      `last_epoch` (Int64), `val_loss, val_auc, val_acc, test_loss, test_auc, test_acc` (float64). Where the run failed,
      `last_epoch` and everything after it is missing. The run of a pair is the one of lowest validation loss.
    """
    return _read("finetuning_runs.csv.gz", _RUN_TYPES).astype({"last_epoch": "Int64"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoStudy:
    """What fine-tuning the demo sources on the medical demo tasks gave, by `experiments/run_demo_benchmark.py`.

    Attributes:
      test_auc: columns `source, target` (str), `test_auc` (float64, 0..1: mean over seeds of the run of the best
        validation AUC), `std_over_seeds` (float64), `seeds` (int64).
      scores: columns `source, target, metric` (str), `score` (float64), of the images that were trained on.
      runs: all fine-tuning runs, the columns of `transferjax.training.records.COLUMNS`.
    """

    test_auc: pd.DataFrame
    scores: pd.DataFrame
    runs: pd.DataFrame


def load_demo() -> DemoStudy:
    """Returns the measured AUCs, the runs and the scores of the demo benchmark."""
    keys = {"source": "str", "target": "str"}
    auc = {**keys, "test_auc": "float64", "std_over_seeds": "float64", "seeds": "int64"}
    return DemoStudy(
        test_auc=_read("demo_test_auc.csv", auc),
        scores=_read("demo_scores.csv", {**keys, "metric": "str", "score": "float64"}),
        runs=_read("demo_runs.csv.gz", _DEMO_RUN_TYPES).astype({"last_epoch": "Int64", "best_epoch": "Int64"}),
    )


def _read(name: str, types: dict[str, str]) -> pd.DataFrame:
    with importlib.resources.as_file(importlib.resources.files(__name__) / name) as path:
        # As text first: how many digits pandas' own float parser keeps depends on its version.
        return pd.read_csv(path, dtype="str", usecols=list(types)).astype(types)
