"""The demo benchmark: sources are pretrained, fine-tuned on every medical demo task, scored, and the scores judged.

From the repository:

    python -m experiments.run_demo_benchmark
    python -m experiments.run_demo_benchmark --targets=nuclei,retina --workdir=runs/part

For each target the sources are the single-task networks of the other demo tasks, a network trained on the union of
these tasks, and an untrained one. Each is fine-tuned with a small grid of settings and several seeds on a few images
per class; the AUC of a pair is the mean over seeds of that of the run of the best validation AUC. The same images give
all metrics' scores. Writes auc.csv, scores.csv, runs.csv.gz, and evaluation/. What is done is not done again: an
interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags
from tqdm import tqdm

from experiments import _cli, evaluate_scores
from transferjax import data, metrics, models
from transferjax._files import atomic_write, writable_folder
from transferjax._validate import one_of
from transferjax.data import content_hash
from transferjax.evaluation import ceiling, static
from transferjax.ranking import rank_sources
from transferjax.training import records
from transferjax.training.export import fine_tuned_source
from transferjax.training.finetune import Where, populations
from transferjax.training.population import OnEpoch
from transferjax.training.prepare import Splits
from transferjax.training.recipes import FineTuning, Settings
from transferjax.types import SourceModel, TargetDataset

MEDICAL = ("histology", "mri_plane", "mri_tissue", "nuclei", "retina")
UNION, CONTROL = "union", "random"
SCENARIO = "demo"
# Few images, so that it matters where a network comes from; no augmentation, since most classes are what is at the
# centre of the patch.
TRAIN_PER_CLASS = 25
RECIPE = FineTuning(epochs=40, patience=15, batch_size=32, augmentation="none")
SETTINGS = tuple(
    Settings(learning_rate=rate, momentum=0.9, weight_decay=1e-4, seed=seed)
    for rate in (0.01, 0.1)
    for seed in range(3)
)
# The paper's for the union, in fewer epochs.
UNION_RECIPE = FineTuning(
    epochs=30, patience=20, monitor="loss", batch_size=64, dropout=0.0, augmentation="none", schedule="step"
)
UNION_SETTINGS = Settings(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)

_TARGETS = flags.DEFINE_list("targets", list(MEDICAL), f"From: {', '.join(MEDICAL)}.")
flags.set_default(evaluate_scores.WORKDIR, "runs/demo_benchmark")


def main(_argv: list[str]) -> None:
    """Trains, fine-tunes, scores, evaluates, prints."""
    start = time.perf_counter()
    targets = [one_of("targets", target, MEDICAL) for target in _TARGETS.value]
    workdir = writable_folder("workdir", evaluate_scores.WORKDIR.value, files=("auc.csv", "scores.csv", "runs.csv.gz"))
    tables, scores = [], []
    for target in tqdm(targets, desc="targets", unit="target", disable=None):
        splits = splits_of(target)
        sources = sources_for(target, workdir / "sources")
        tables.append(fine_tuned(target, splits, sources, workdir))
        scores.append(scored(target, splits, sources, workdir))
    runs = pd.concat(tables, ignore_index=True)
    table = pd.concat(scores, ignore_index=True)
    auc = auc_table(runs)
    _write(runs, workdir / "runs.csv.gz")
    _write(auc, workdir / "auc.csv")
    _write(table, workdir / "scores.csv")
    print(_shown(auc))
    evaluation = writable_folder("workdir", workdir / "evaluation", files=evaluate_scores.FILES)
    truth = auc[["source", "target", "test_auc"]]
    elsewhere = static.mean_rank_elsewhere(truth)
    known = table[["source", "target", "metric", "score"]].dropna()
    controls = (*static.NAMES, *elsewhere["metric"].unique())
    print(
        evaluate_scores.evaluate(
            "Demo benchmark",
            pd.concat([known, elsewhere], ignore_index=True),
            truth,
            evaluation,
            controls=controls,
            ceilings=ceiling.noise_ceiling(runs),
        )
    )
    print(
        f"Wrote auc.csv, scores.csv, runs.csv.gz and evaluation/ to {workdir} in {time.perf_counter() - start:.0f} s."
    )


def splits_of(target: str) -> Splits:
    """Returns the target's splits, a few training images per class drawn from the first."""
    train, val, test = (data.load(target, split=name) for name in data.SPLITS)
    return Splits(train=data.subsample(train, TRAIN_PER_CLASS, rng=np.random.default_rng(0)), val=val, test=test)


def sources_for(target: str, folder: Path) -> list[SourceModel]:
    """Returns the candidates for a target; trains the union of the other tasks if that has not been done."""
    singles = [name for name in models.demo_names() if name not in (target, CONTROL)]
    path = writable_folder("workdir", folder) / f"{UNION}_without_{target}.safetensors"
    if not path.exists():
        tasks = [task for task in data.demo_names() if task != target]
        parts = Splits(**{name: union_of(tasks, name) for name in data.SPLITS})
        blank = models.load(CONTROL)
        where = Where(folder=folder / f"{path.stem}_checkpoints", keep=False)
        with _Epochs(f"union without {target}", UNION_RECIPE) as epochs:
            ((run,),) = populations(
                blank, parts, [UNION_SETTINGS], recipe=UNION_RECIPE, where=where, watch=epochs.watch
            )
        found = fine_tuned_source(blank, run, parts.train.class_names)
        count = len(parts.train)
        found = dataclasses.replace(found, head="sigmoid", num_train_examples=count, origin=f"union without {target}")
        models.save(path, found)
    union = dataclasses.replace(models.load(path), name=UNION)
    return [*(models.load(name) for name in singles), union, models.load(CONTROL)]


def union_of(tasks: list[str], split: str) -> TargetDataset:
    """Returns the tasks' images as one multi-label data set, whose labels are all classes of all of them."""
    parts = [data.load(task, split=split) for task in tasks]
    names = [f"{part.name}: {name}" for part in parts for name in part.class_names]
    labels = np.zeros((sum(map(len, parts)), len(names)), np.int8)
    row = column = 0
    for part in parts:
        labels[np.arange(row, row + len(part)), column + part.labels] = 1
        row, column = row + len(part), column + part.num_classes
    images = np.concatenate([np.asarray(part.images) for part in parts])
    return TargetDataset(name=UNION, images=images, labels=labels, class_names=tuple(names), task="multilabel")


def fine_tuned(target: str, splits: Splits, sources: list[SourceModel], workdir: Path) -> pd.DataFrame:
    """Returns the runs of a target, those that were not there computed and written first."""
    path = writable_folder("workdir", workdir / "runs") / f"{target}.parquet"
    hashes = ",".join(content_hash(part) for part in (splits.train, splits.val, splits.test))
    keys = {
        (source.name, settings): records.key_of(source, hashes, RECIPE, settings)
        for source in sources
        for settings in SETTINGS
    }
    table = records.read(path)
    missing = [source for source in sources if not {keys[source.name, one] for one in SETTINGS} <= set(table["key"])]
    where = Where(folder=workdir / "checkpoints" / target, keep=False)
    if missing:
        with _Epochs(f"runs on {target}", RECIPE) as epochs:
            for runs in populations(missing, splits, SETTINGS, recipe=RECIPE, where=where, watch=epochs.watch):
                of_runs = [keys[run.source, run.settings] for run in runs]
                rows = records.rows_of(runs, target=target, scenario=SCENARIO, recipe=RECIPE, keys=of_runs)
                table = records.append(path, rows)
    return table[table["key"].isin(keys.values())]


class _Epochs:
    """A progress bar over the epochs of each population."""

    def __init__(self, name: str, recipe: FineTuning) -> None:
        self._bar = tqdm(total=recipe.epochs, desc=name, unit="epoch", disable=None, leave=False)

    def __enter__(self) -> _Epochs:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def watch(self, members: Sequence[tuple[SourceModel, Settings]]) -> OnEpoch:
        self._bar.reset()
        self._bar.set_postfix(runs=len(members))
        return self._on_epoch

    def _on_epoch(self, epoch: int, history: np.ndarray, running: np.ndarray) -> None:
        del history
        self._bar.update(epoch + 1 - self._bar.n)
        self._bar.set_postfix(running=int(running.sum()))


def scored(target: str, splits: Splits, sources: list[SourceModel], workdir: Path) -> pd.DataFrame:
    """Returns the scores of all metrics that the sources and the target allow; written, to be read the next time."""
    path = writable_folder("workdir", workdir / "scores") / f"{target}.csv"
    if path.exists():
        return pd.read_csv(path)
    names = [*metrics.OVER_CANDIDATES, *metrics.names()]
    table = rank_sources(
        sources,
        splits.train,
        metrics=names,
        max_examples_per_class=None,
        gradients="example",
        cache_dir=workdir / "cache",
    )
    found = table.rows.assign(target=target)
    _write(found, path)
    return pd.read_csv(path)


def auc_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns, for each pair, mean and standard deviation over seeds of the chosen runs' test AUC."""
    good = runs[runs["status"] != "failed"]
    chosen = good.loc[good.groupby(["target", "source", "seed"])["val_auc"].idxmax()]
    of_pair = chosen.groupby(["target", "source"])["test_auc"].agg(["mean", "std", "size"]).reset_index()
    return of_pair.rename(columns={"mean": "test_auc", "std": "std_over_seeds", "size": "seeds"})


def _shown(auc: pd.DataFrame) -> str:
    cells = [f"{row.test_auc:.3f} ± {row.std_over_seeds:.3f}" for row in auc.itertuples()]
    wide = auc.assign(cell=cells).pivot(index="source", columns="target", values="cell")
    return (
        "Test AUC after fine-tuning, mean and standard deviation over seeds:\n\n" + wide.fillna("").to_string() + "\n"
    )


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


if __name__ == "__main__":
    _cli.run(main)
