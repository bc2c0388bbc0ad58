"""How well do scores predict fine-tuned performance, and how sure is that?

From the repository:

    python -m experiments.evaluate_scores
    python -m experiments.evaluate_scores --scores=ranking.csv --ground_truth=auc.csv

Without files: the paper's scores and fine-tuned AUCs, both scenarios, with controls that look at no data of the target
and the noise ceiling. Writes measures.csv, mean_tau.csv, nemenyi.csv, mean_tau.png, critical_difference.png and
summary.md for each. Score files have columns source, target, metric, score (such as ranking.csv); the ground truth has
source, target and one more, the performance, bigger being better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from experiments import _cli
from transferjax import combine, published
from transferjax._files import atomic_write, writable_folder
from transferjax._validate import fail, positive
from transferjax.evaluation import agreement, ceiling, omnibus, resampling, static
from transferjax.evaluation.rank_correlation import tau_table
from transferjax.report import evaluation_plots

_SCORES = flags.DEFINE_list("scores", [], "CSV files of scores. Default: the published ones.")
_TRUTH = flags.DEFINE_string("ground_truth", None, "CSV file of fine-tuned performance, together with --scores.")
_RESAMPLES = flags.DEFINE_integer("num_resamples", 200, "Draws of sources and targets for the intervals.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")
WORKDIR = flags.DEFINE_string("workdir", "./runs/evaluate_scores", "Where the results go.")

BIG = ("imagenet", "radimagenet", "medmnist")
ELSEWHERE, BIG_FIRST = "mean_rank_elsewhere", "big_sets_first"
FILES = ("measures.csv", "mean_tau.csv", "nemenyi.csv", "mean_tau.png", "critical_difference.png", "summary.md")


def published_scores(scenario: str) -> tuple[pd.DataFrame, published.PublishedStudy]:
    """Returns the published scores with the combined one and the controls, and the study."""
    study = published.load(scenario)
    combined = combine.combine_table(study.scores, scenario=scenario, target_in_ratio_range=True)
    tables = [combined, study.scores, static.mean_rank_elsewhere(study.test_auc)]
    if scenario == "source_dataset":
        big = combined["source"].isin(BIG).astype(float)
        tables.append(combined.assign(metric=BIG_FIRST, score=big))
    scores = pd.concat(tables, ignore_index=True)
    return scores[scores["target"].isin(combined["target"])], study


def read(path: str, columns: list[str], argument: str, number: str | None) -> pd.DataFrame:
    """Returns a CSV's columns, checked; `number` is the one that holds numbers, None for the one left over."""
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise fail(argument, f"{path} cannot be read ({error})", "Give a CSV file with a header.") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise fail(argument, f"{path} has no column {', '.join(missing)}", f"It needs {', '.join(columns)}.")
    others = [name for name in table.columns if name not in columns]
    if number is None:
        if len(others) != 1:
            raise fail(argument, f"{path} has columns {', '.join(table.columns)}", "Give source, target and one more.")
        number = others[0]
        columns = [*columns, number]
    values = pd.to_numeric(table[number], errors="coerce")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise fail(argument, f"{path}: {number} is {table[number].iloc[row]} in row {row + 2}", "Leave that row out.")
    keys = {name: table[name].astype(str) for name in columns if name != number}
    return table.assign(**keys, **{number: values})[columns]


def evaluate(
    name: str,
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    folder: Path,
    *,
    inverted: tuple[str, ...] = (),
    controls: tuple[str, ...] = (),
    ceilings: pd.DataFrame | None = None,
) -> str:
    """Writes all tables and pictures of one ground truth; returns the summary in Markdown."""
    taus = tau_table(scores, truth, inverted=inverted)
    if taus.empty:
        raise fail("scores", "no source and target of them has a performance", "Check the names in both files.")
    column = next(c for c in truth.columns if c not in ("source", "target"))
    pairs = scores[scores["source"] != scores["target"]].merge(truth, on=["source", "target"])
    rows = []
    for (target, metric), group in pairs.groupby(["target", "metric"], sort=False):
        sign = -1.0 if metric in inverted else 1.0
        values = agreement.agreement(sign * group["score"].to_numpy(), group[column].to_numpy())
        rows.append({"target": target, "metric": metric, "sources": len(group), **values})
    measures = pd.DataFrame(rows)
    rng = np.random.default_rng(_SEED.value)
    intervals = resampling.mean_tau_intervals(
        scores, truth, rng, inverted=inverted, num_resamples=_RESAMPLES.value
    ).sort_values("mean", ascending=False)
    mean_ceiling = None
    if ceilings is not None:
        ceilings = ceilings[ceilings["target"].isin(taus["target"])]
        mean_ceiling = float(ceilings["ceiling"].mean())
    lines = [f"# {name}: {taus['target'].nunique()} targets, {pairs['source'].nunique()} sources", ""]
    lines += ["Mean over the targets of weighted Kendall's tau, with 95 % intervals over sources and targets:", ""]
    lines += ["| metric | mean weighted tau | 95 % | spearman | regret@1 | recall@3 |", "|---|---|---|---|---|---|"]
    means = measures.groupby("metric")[list(agreement.MEASURES)].mean()
    for row in intervals.itertuples():
        mark = " (control)" if row.metric in controls else " (inverted)" if row.metric in inverted else ""
        other = means.loc[str(row.metric)]
        lines.append(
            f"| {row.metric}{mark} | {row.mean:.3f} | {row.lower:.2f} to {row.upper:.2f} | {other['spearman']:.3f} "
            f"| {other['regret@1']:.4f} | {other['recall@3']:.2f} |"
        )
    wide = taus.pivot(index="target", columns="metric", values="weighted_tau")
    if wide.shape[1] >= 3 and len(wide) >= 2:
        test = omnibus.friedman(wide.to_numpy())
        pvalues, critical = omnibus.nemenyi(wide.to_numpy())
        nemenyi = pd.DataFrame(pvalues, index=wide.columns, columns=wide.columns).rename_axis(None, axis=1)
        ranks = pd.Series(test.mean_ranks, index=wide.columns)
        write(nemenyi.reset_index(), folder / "nemenyi.csv")
        evaluation_plots.plot_critical_difference(ranks, critical, folder / "critical_difference.png")
        lines += ["", f"Friedman's test over all {wide.shape[1]}: chi2 = {test.statistic:.3f}, p = {test.pvalue:.4f}; "]
        lines[-1] += f"Nemenyi's critical difference of mean ranks: {critical:.2f}."
    if ceilings is not None:
        shown = ", ".join(f"{row.target} {row.ceiling:.2f}" for row in ceilings.itertuples())
        lines += ["", f"Noise ceiling (tau between two selections of the fine-tuned run): {shown}; "]
        lines[-1] += f"mean {mean_ceiling:.2f}."
    if not controls:
        lines += ["", "No control among these metrics: whether any of them beats one that sees no data is not known."]
    write(measures, folder / "measures.csv")
    write(intervals, folder / "mean_tau.csv")
    evaluation_plots.plot_mean_tau(intervals, folder / "mean_tau.png", controls=controls, ceiling=mean_ceiling)
    text = "\n".join(lines) + "\n"
    with atomic_write(folder / "summary.md") as temporary:
        temporary.write_text(text)
    return text


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes a CSV."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def main(_argv: list[str]) -> None:
    """Evaluates, prints the summaries, says where everything is."""
    positive("num_resamples", _RESAMPLES.value)
    if bool(_SCORES.value) != bool(_TRUTH.value):
        raise fail(
            "--scores, --ground_truth", "only one of them is given", "Give both, or none for the published ones."
        )
    workdir = writable_folder("workdir", WORKDIR.value)
    if _SCORES.value:
        columns = ["source", "target", "metric", "score"]
        tables = [read(path, columns, "--scores", "score") for path in _SCORES.value]
        truth = read(str(_TRUTH.value), ["source", "target"], "--ground_truth", None)
        scores = pd.concat(tables, ignore_index=True)
        present = tuple(name for name in (*static.NAMES, ELSEWHERE) if name in set(scores["metric"]))
        print(evaluate("Scores", scores, truth, writable_folder("workdir", workdir, files=FILES), controls=present))
    else:
        runs = published.finetuning_runs()
        for scenario in published.SCENARIOS:
            scores, study = published_scores(scenario)
            ceilings = ceiling.noise_ceiling(runs[runs["scenario"] == scenario])
            subsets = {scenario: scores}
            if scenario == "source_dataset":
                single = scores[~scores["source"].isin(BIG) & (scores["metric"] != BIG_FIRST)]
                subsets["source_dataset_twelve_single_sets"] = single
            for name, part in subsets.items():
                folder = writable_folder("workdir", workdir / name, files=FILES)
                whole = ceilings if name == scenario else None
                controls = tuple(c for c in (ELSEWHERE, BIG_FIRST) if c in set(part["metric"]))
                print(
                    evaluate(
                        name,
                        part,
                        study.test_auc,
                        folder,
                        inverted=study.inverted,
                        controls=controls,
                        ceilings=whole,
                    )
                )
    print(f"Tables, pictures and summaries are in {workdir}.")


if __name__ == "__main__":
    _cli.run(main)
