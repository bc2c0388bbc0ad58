"""The paper's tables: how well each metric orders the sources of each target, in both scenarios.

Command: python -m experiments.reproduce_paper --workdir=./runs/reproduce_paper

Prints weighted Kendall's tau of every metric on every target, means, mean ranks and Friedman's test, and writes
weighted_tau.csv (scenario, target, metric, weighted_tau, inverted; empty where tau is undefined). Needs no network.

References:
  Juodelyte et al., 2024. On dataset transferability in medical image classification. https://arxiv.org/abs/2412.20172
"""

from __future__ import annotations

import pandas as pd
from absl import flags

from experiments import _cli
from transferjax import _files, combine, published
from transferjax.evaluation import omnibus, rank_correlation

_WORKDIR = flags.DEFINE_string("workdir", "./runs/reproduce_paper", "Where weighted_tau.csv goes.")


def published_tau(study: published.PublishedStudy) -> pd.DataFrame:
    """Returns rows `scenario, target, metric, weighted_tau, inverted` of one scenario, the combined score included."""
    combined = combine.combine_table(study.scores, scenario=study.scenario, target_in_ratio_range=True)
    scores = pd.concat([study.scores, combined], ignore_index=True)
    table = rank_correlation.tau_table(scores, study.test_auc, inverted=study.inverted)
    table.insert(0, "scenario", study.scenario)
    return table


def summary(table: pd.DataFrame) -> str:
    """Returns what one scenario's rows say: a conclusion, a table of metrics × targets, and Friedman's test."""
    wide = table.pivot(index="metric", columns="target", values="weighted_tau")[table["target"].unique()]
    test = omnibus.friedman(wide.loc[list(published.COMPARED)].to_numpy().T)
    ranks = pd.Series(test.mean_ranks, index=published.COMPARED)
    scenario, targets = table["scenario"].iloc[0], wide.shape[1]
    wide = wide.assign(mean=wide.mean(axis=1), rank=ranks).sort_values("mean", ascending=False)
    marks = dict(table.groupby("metric")["inverted"].first().map({True: " (inverted)", False: ""}))
    shown = wide.rename(index=lambda name: name + marks[name], columns=lambda name: name.removesuffix("mnist"))
    shown = shown.rename_axis(index=None, columns=None)
    (first, second), means = wide.index[:2], wide["mean"]
    return f"""
Scenario {scenario}: {first} has the highest mean weighted tau, {means[first]:.3f} over {targets} targets, \
before {second} with {means[second]:.3f}.

{shown.to_string(float_format="{:.3f}".format, na_rep="-")}

Friedman's test that the {len(ranks)} methods with a rank do not differ: \
chi2 = {test.statistic:.6f}, p = {test.pvalue:.6f}."""


def main(argv: list[str]) -> None:
    """Prints both scenarios and writes the table."""
    del argv
    folder = _files.writable_folder("--workdir", _WORKDIR.value)
    tables = [published_tau(published.load(scenario)) for scenario in published.SCENARIOS]
    for table in tables:
        print(summary(table))
    path = folder / "weighted_tau.csv"
    with _files.atomic_write(path) as temporary:
        pd.concat(tables, ignore_index=True).to_csv(temporary, index=False, lineterminator="\n")
    print(f"""
Columns: weighted Kendall's tau between scores and test AUC after fine-tuning (1: same order of the sources, 0: no
relation; -: undefined, all scores are equal), its mean over the targets where it is defined, and the mean rank among
the methods that Friedman's test compares (1 is the best; undefined ranks last). Inverted: small scores rank first.
Written to {path}""")


if __name__ == "__main__":
    _cli.run(main)
