"""Static controls: what is known of a source without looking at any target."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd

from transferjax.types import SourceModel

NAMES = ("num_parameters", "source_set_size", "imagenet_accuracy")


def controls(source: SourceModel) -> dict[str, float]:
    """Returns the static controls of a source; a metric that does not beat them has told the user nothing.

    Args:
      source: the network.

    Returns:
      `num_parameters`: of what is transferred, i.e. without the head, whose size is that of the source's label set;
      `source_set_size`: training images; `imagenet_accuracy`: top-1, 0..1. Bigger is better, by convention. What is not
      known is left out.
    """
    leaves = jax.tree_util.tree_leaves_with_path(source.variables["params"])
    head = tuple(source.head_path)
    sizes = [np.size(leaf) for path, leaf in leaves if tuple(str(part.key) for part in path)[: len(head)] != head]
    values = {
        "num_parameters": float(sum(sizes)),
        "source_set_size": source.num_train_examples,
        "imagenet_accuracy": source.imagenet_accuracy,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def mean_rank_elsewhere(performance: pd.DataFrame) -> pd.DataFrame:
    """The control that is hardest to beat: how a source did on all other targets.

    Args:
      performance: columns `source, target` and one more, the fine-tuned performance; bigger is better.

    Returns:
      Columns `source, target, metric, score`, the metric being `"mean_rank_elsewhere"`: for each target, the mean over
      the other targets of the source's rank there among all sources (1 for the worst; equal ones share the mean of
      their ranks), so bigger is better.
    """
    column = next(name for name in performance.columns if name not in ("source", "target"))
    ranks = performance.pivot(index="source", columns="target", values=column).rank()
    tables = []
    for target in ranks.columns:
        score = ranks.drop(columns=target).mean(axis=1).dropna()
        tables.append(
            pd.DataFrame(
                {"source": score.index, "target": target, "metric": "mean_rank_elsewhere", "score": score.to_numpy()}
            )
        )
    return pd.concat(tables, ignore_index=True)
