"""The demo benchmark: sources are pretrained, fine-tuned on every medical demo task, scored, and the scores judged.

From the repository:

    python -m experiments.run_demo_benchmark
    python -m experiments.run_demo_benchmark --targets=nuclei,retina --workdir=runs/part
    python -m experiments.run_demo_benchmark --noreuse

For each target the sources are the single-task networks of the other demo tasks, a network trained on the union of
these tasks, and an untrained one. Each is fine-tuned with a small grid of settings and several seeds on a few images
per class; the AUC of a pair is the mean over seeds of that of the run of the best validation AUC. The same images give
all metrics' scores. Writes auc.csv, scores.csv, runs.csv.gz, and evaluation/.

The package has sources, runs and scores, and the first command takes them from there: it trains and scores only what is
of other data, recipes or sources; a change of a metric it does not see. The last one makes everything anew, the
single-task networks too. What is done in the folder is not done again: an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import flags
from tqdm import tqdm

from experiments import _cli, evaluate_scores
from experiments._progress import Epochs
from transferjax import data, metrics, models, published
from transferjax._files import atomic_write, sha256, writable_folder
from transferjax._validate import one_of
from transferjax.evaluation import ceiling, static
from transferjax.models._demo import FOLDER as PACKAGED
from transferjax.ranking import rank_sources
from transferjax.training import (
    PRETRAINING,
    FineTuning,
    Pretraining,
    Settings,
    Splits,
    Where,
    populations,
    pretrain,
    records,
)
from transferjax.training.prepare import hash_of
from transferjax.training.pretrain import facts
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
# The paper's for its union, in fewer epochs, and without augmentation as above.
PAPER = PRETRAINING["leave_target_out"]
UNION_RECIPE = dataclasses.replace(
    PAPER, recipe=dataclasses.replace(PAPER.recipe, epochs=30, batch_size=64, augmentation="none")
)

_TARGETS = flags.DEFINE_list("targets", list(MEDICAL), f"From: {', '.join(MEDICAL)}.")
_REUSE = flags.DEFINE_bool("reuse", True, "Take sources, runs and scores from the package where it has the same.")
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
        keys = sorted(tables[-1]["key"])
        packaged = set(keys) <= set(packaged_runs()["key"])
        scores.append(packaged_scores(target) if packaged else scored(target, splits, sources, keys, workdir))
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
    whole = _splits(target)
    return dataclasses.replace(whole, train=data.subsample(whole.train, TRAIN_PER_CLASS, rng=np.random.default_rng(0)))


def sources_for(target: str, folder: Path) -> list[SourceModel]:
    """Returns the candidates for a target; those that are not there yet are trained and written."""
    singles = [name for name in data.demo_names() if name != target]
    sources = [made(name, folder, recipe="single", how=PRETRAINING["single"], splits=_splits(name)) for name in singles]
    parts = Splits(**{name: union_of(singles, name) for name in data.SPLITS})
    union = made(f"{UNION}_without_{target}", folder, recipe="leave_target_out", how=UNION_RECIPE, splits=parts)
    return [*sources, dataclasses.replace(union, name=UNION), models.load(CONTROL)]


def made(name: str, folder: Path, *, recipe: str, how: Pretraining, splits: Splits) -> SourceModel:
    """Returns a source: the package's, or the folder's, or trained and written there, in half precision.

    Args:
      name: of its file, without the suffix.
      folder: of sources, and of sources.json, which tells what they were made of.
      recipe: name of it.
      how: it is trained.
      splits: what it is trained on.
    """
    control = models.load(CONTROL)  # of the architecture of all
    wanted = {"architecture": control.architecture, "options": dict(control.options), **facts(recipe, how, splits)}
    if _REUSE.value and wanted.items() <= packaged_sources().get(name, {}).items():
        return models.load(PACKAGED / f"{name}.safetensors")
    path, entries = writable_folder("workdir", folder) / f"{name}.safetensors", folder / "sources.json"
    there = json.loads(entries.read_text()) if entries.exists() else {}
    if there.get(name) != wanted or not path.exists():
        checkpoints = folder / f"{name}_checkpoints"
        with Epochs(name, how.recipe) as epochs:
            found, _ = pretrain(
                control.architecture,
                splits,
                how=how,
                options=control.options,
                where=Where(folder=checkpoints),
                watch=epochs.watch,
            )
        models.save(path, found, dtype=np.float16)
        with atomic_write(entries) as temporary:
            temporary.write_text(json.dumps(there | {name: wanted}, indent=1) + "\n")
        shutil.rmtree(checkpoints, ignore_errors=True)
    return models.load(path)


def packaged_sources() -> dict[str, Any]:
    """Returns what the package's sources were made of, by the names of their files."""
    singles, unions = (json.loads((PACKAGED / name).read_text()) for name in ("manifest.json", "unions.json"))
    return {**singles, **unions}


def _splits(task: str) -> Splits:
    return Splits(**{name: data.load(task, split=name) for name in data.SPLITS})


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
    target_hash = hash_of(splits)
    keys = {
        (source.name, settings): records.key_of(source, target_hash, RECIPE, settings)
        for source in sources
        for settings in SETTINGS
    }
    known = packaged_runs()
    table = _joined(records.read(path), known)
    missing = [source for source in sources if not {keys[source.name, one] for one in SETTINGS} <= set(table["key"])]
    where = Where(folder=workdir / "checkpoints" / target, keep=False)
    if missing:
        with Epochs(f"runs on {target}", RECIPE) as epochs:
            for runs in populations(missing, splits, SETTINGS, recipe=RECIPE, where=where, watch=epochs.watch):
                of_runs = [keys[run.source, run.settings] for run in runs]
                rows = records.rows_of(runs, target=target, scenario=SCENARIO, recipe=RECIPE, keys=of_runs)
                records.append(path, rows)
    table = _joined(records.read(path), known)
    return table[table["key"].isin(keys.values())]


def packaged_runs() -> pd.DataFrame:
    """Returns the package's runs; none if they are not to be used."""
    runs = published.load_demo().runs
    return runs if _REUSE.value else runs[:0]


def _joined(own: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Returns own runs, and known ones besides."""
    others = known[~known["key"].isin(own["key"])]
    return pd.concat([part for part in (own, others) if len(part)] or [own], ignore_index=True)


def scored(target: str, splits: Splits, sources: list[SourceModel], keys: Sequence[str], workdir: Path) -> pd.DataFrame:
    """Returns the scores of all metrics that the sources and the target allow; written, to be read the next time.

    Args:
      target: its name.
      splits: of it; the training images are scored.
      sources: the candidates.
      keys: of their runs: other ones, other scores.
      workdir: where scores and features go.
    """
    names = [*metrics.OVER_CANDIDATES, *metrics.names()]
    of = sha256(*(text.encode() for text in (*keys, *names)))[:8]
    path = writable_folder("workdir", workdir / "scores") / f"{target}-{of}.csv"
    if path.exists():
        return pd.read_csv(path)
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


def packaged_scores(target: str) -> pd.DataFrame:
    """Returns the package's scores of the same sources on the same images, by the metrics as they were then."""
    table = published.load_demo().scores
    return table[table["target"] == target]


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
