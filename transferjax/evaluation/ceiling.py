"""How well any score can do: the ground truth itself depends on which fine-tuning run of a pair is picked."""

from __future__ import annotations

import pandas as pd

from transferjax.evaluation.rank_correlation import tau_table


def noise_ceiling(runs: pd.DataFrame) -> pd.DataFrame:
    """Weighted Kendall's tau between two equally good ways of picking the run of each pair.

    One takes the run of lowest validation loss (the published choice), the other that of highest validation AUC; where
    several runs share that, the mean of their test AUCs. If two honest selections order the sources differently, no
    score can be expected to agree with one of them better than the other does.

    Args:
      runs: columns `source, target, val_loss, val_auc, test_auc`, a row per run, as
        `transferjax.published.finetuning_runs` gives them, of one scenario. Failed runs (no `val_loss`) are left out.

    Returns:
      Columns `target` and `ceiling` (-1..1, bigger is better).
    """
    keys = ["source", "target"]
    runs = runs.dropna(subset=["val_loss", "val_auc", "test_auc"])
    by_loss = runs.loc[runs.groupby(keys)["val_loss"].idxmin(), [*keys, "test_auc"]]
    best = runs[runs["val_auc"] == runs.groupby(keys)["val_auc"].transform("max")]
    by_auc = best.groupby(keys)["test_auc"].mean().rename("score")
    scores = by_auc.reset_index().assign(metric="ceiling")
    table = tau_table(scores, by_loss)
    return table[["target", "weighted_tau"]].rename(columns={"weighted_tau": "ceiling"})
