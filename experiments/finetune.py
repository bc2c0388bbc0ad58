"""Fine-tunes a source on a target with a grid of settings, and says how good each run is.

From the repository:

    python -m experiments.finetune --source=photos --target=histology --grid=small
    python -m experiments.finetune --source=resnet18:imagenet --target=medmnist:bloodmnist/64 --grid=paper
    python -m experiments.finetune --source=photos --target=retina --grid="lr=0.1,0.01;wd=0,1e-4" --seeds=0,1,2
    python -m experiments.finetune --source=photos --target=retina --mode=probe --grid=small

All settings of a batch size and a seed are one population: they share every batch, and each stops when its own
validation AUC has not got better for `--patience` epochs. The test split is looked at once for each run, at the end, at
its best epoch. A seed decides on the fresh head, dropout, the order of images and their augmentation.

The same command again goes on where it was stopped, or killed, to the same bits; runs that are in the table of a pair
are not made again. Results are in `<workdir>/<source>-on-<target>`: runs.parquet, best.safetensors (the network of the
best validation AUC, a source itself) and tensorboard/.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from experiments import _cli
from experiments._progress import Epochs
from experiments._splits import load_splits
from transferjax import models
from transferjax._files import writable_folder
from transferjax._validate import InputError, fail
from transferjax.training import FineTuning, Settings, Splits, Where, fine_tuned_source, grids, populations, records
from transferjax.training.population import OnEpoch
from transferjax.training.prepare import hash_of
from transferjax.training.recipes import AUGMENTATIONS, MODES, MONITORS, PRECISIONS, usual_augmentation
from transferjax.training.tracking import EventFiles, log_to_mlflow
from transferjax.types import SourceModel, TargetDataset

_SOURCE = flags.DEFINE_string(
    "source", "photos", "Where to start, as for rank_sources: a demo source, resnet18:imagenet ..."
)
_WEIGHTS_DIR = flags.DEFINE_string("weights_dir", None, "Where downloaded weights are. Default: the user's cache.")
_GRID = flags.DEFINE_string("grid", "small", "paper, small, or values as lr=0.1,0.01;momentum=0,0.9;wd=0,1e-4.")
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", None, "Each makes a population. Default: 64; of the grid paper two by the number of images."
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Each makes a population.")
_MODE = flags.DEFINE_enum("mode", "all", MODES, "What is trained: all, the head alone, or a probe on frozen features.")
_EPOCHS = flags.DEFINE_integer("epochs", FineTuning.epochs, "At most.", lower_bound=1)
_PATIENCE = flags.DEFINE_integer("patience", FineTuning.patience, "Epochs without a better value.", lower_bound=1)
_MONITOR = flags.DEFINE_enum("monitor", "auc", MONITORS, "The validation value that stops a run and chooses its epoch.")
_DROPOUT = flags.DEFINE_float("dropout", FineTuning.dropout, "Of the features.")
_AUGMENTATION = flags.DEFINE_enum(
    "augmentation", None, list(AUGMENTATIONS), "Default: mild below 64 pixels, else paper; none for a probe."
)
_PRECISION = flags.DEFINE_enum("precision", "float32", PRECISIONS, "Of activations and products in training.")
_ACCUMULATE = flags.DEFINE_integer("accumulate", 1, "Parts in which a batch is passed through.", lower_bound=1)
_SPLIT_SEED = flags.DEFINE_integer("split_seed", 0, "Of splits that the target does not come with.", lower_bound=0)
_SCENARIO = flags.DEFINE_string("scenario", "source_dataset", "What the table says these runs are made for.")
_MEMORY = flags.DEFINE_float("memory", None, "GiB that a population may take. Default: most of the device's.")
_CHECKPOINTS = flags.DEFINE_float("checkpoint_seconds", 60, "Between checkpoints, at least.", lower_bound=0)
_EVENTS = flags.DEFINE_bool("tensorboard", True, "Write event files.")
_MLFLOW = flags.DEFINE_bool("mlflow", False, "Log runs to MLflow (pip install 'transferjax[mlflow]').")
_MLFLOW_URI = flags.DEFINE_string("mlflow_uri", None, "MLflow's tracking URI. Default: its own.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/finetune", "Where results go.")

_BATCH = 64


def main(_argv: list[str]) -> None:
    """Trains what is not there yet, and prints the table."""
    begun = time.perf_counter()
    source = models.load(_SOURCE.value, folder=_WEIGHTS_DIR.value)
    seeds = _numbers("seeds", _SEEDS.value, least=0)
    sizes, settings = grids.parse(_GRID.value)
    splits = load_splits(seed=_SPLIT_SEED.value)
    pair = re.sub(r"[^\w.-]+", "_", f"{source.name}-on-{splits.train.name}")
    folder = writable_folder("workdir", Path(_WORKDIR.value) / pair, files=("runs.parquet", "best.safetensors"))
    target_hash = hash_of(splits)
    for batch_size in _batch_sizes(sizes, len(splits.train)):
        for seed in seeds:
            recipe = _recipe(splits.train, batch_size, seed)
            chosen = [dataclasses.replace(one, seed=seed) for one in settings]
            _train(source, splits, chosen, recipe, folder, target_hash)
    table = records.read(folder / "runs.parquet")
    print(_text(table))
    print(f"\nWrote runs.parquet to {folder} in {time.perf_counter() - begun:.0f} s.")


def _train(
    source: SourceModel,
    splits: Splits,
    settings: Sequence[Settings],
    recipe: FineTuning,
    folder: Path,
    target_hash: str,
) -> None:
    """Trains the settings that are not in the table, and enters them, population by population."""
    file = folder / "runs.parquet"
    keys = {one: records.key_of(source, target_hash, recipe, one) for one in settings}
    there = set(records.read(file)["key"])
    missing = [one for one in settings if keys[one] not in there]
    if len(missing) < len(settings):
        print(
            f"Batch size {recipe.batch_size}, seed {recipe.data_seed}: {len(settings) - len(missing)} runs are there."
        )
    if not missing:
        return
    memory = None if _MEMORY.value is None else int(_MEMORY.value * 2**30)
    where = Where(folder=folder / "checkpoints", checkpoint_seconds=_CHECKPOINTS.value, memory=memory, keep=False)
    watcher = _Watcher(folder / "tensorboard" if _EVENTS.value else None, recipe)
    try:
        for runs in populations(source, splits, missing, recipe=recipe, where=where, watch=watcher.watch):
            watcher.close()
            rows = records.rows_of(
                runs,
                target=splits.train.name,
                scenario=_SCENARIO.value,
                recipe=recipe,
                keys=[keys[run.settings] for run in runs],
            )
            before = records.best(records.read(file))
            after = records.best(rows)
            if after is not None and (before is None or after["val_auc"] > before["val_auc"]):
                run = next(run for run in runs if keys[run.settings] == after["key"])
                try:
                    models.save(folder / "best.safetensors", fine_tuned_source(source, run, splits.train.class_names))
                except InputError as error:
                    print(f"best.safetensors is not written: {error}")
            if _MLFLOW.value:
                log_to_mlflow(runs, recipe, experiment=folder.name, location=_MLFLOW_URI.value)
            records.append(file, rows)
    finally:
        watcher.close()


class _Watcher:
    """A progress bar and event files for each population."""

    def __init__(self, folder: Path | None, recipe: FineTuning) -> None:
        self._folder, self._recipe = folder, recipe
        self._epochs: Epochs | None = None  # of the population that is trained
        self._show: OnEpoch | None = None
        self._events: EventFiles | None = None

    def watch(self, members: Sequence[tuple[SourceModel, Settings]]) -> OnEpoch:
        recipe = self._recipe
        name = f"{len(members)} runs, batch {recipe.batch_size}, seed {recipe.data_seed}"
        self._epochs = Epochs(name, recipe)
        self._show = self._epochs.watch(members)
        if self._folder is not None:
            self._events = EventFiles(self._folder, [one for _, one in members], recipe)
        return self._on_epoch

    def _on_epoch(self, epoch: int, history: np.ndarray, running: np.ndarray) -> None:
        if self._events is not None:
            self._events.on_epoch(epoch, history, running)
        if self._show is not None:
            self._show(epoch, history, running)

    def close(self) -> None:
        if self._epochs is not None:
            self._epochs.close()
        if self._events is not None:
            self._events.close()


def _recipe(train: TargetDataset, batch_size: int, seed: int) -> FineTuning:
    augmentation = _AUGMENTATION.value or usual_augmentation(*train.images.shape[1:3])
    if _MODE.value == "probe":
        if _AUGMENTATION.value not in (None, "none"):
            raise fail(
                "augmentation", f"{_AUGMENTATION.value!r} with --mode=probe", "Features are computed once: none."
            )
        augmentation = "none"
    return FineTuning(
        mode=_MODE.value,
        epochs=_EPOCHS.value,
        patience=_PATIENCE.value,
        monitor=_MONITOR.value,
        batch_size=batch_size,
        dropout=_DROPOUT.value,
        augmentation=augmentation,
        precision=_PRECISION.value,
        accumulate=_ACCUMULATE.value,
        data_seed=seed,
    )


def _batch_sizes(of_grid: Sequence[int] | None, num_train: int) -> Sequence[int]:
    if _BATCH_SIZES.value is not None:
        return _numbers("batch_sizes", _BATCH_SIZES.value, least=1)
    if of_grid is not None:
        return of_grid
    return grids.paper_batch_sizes(num_train) if _GRID.value == "paper" else (_BATCH,)


def _numbers(flag: str, texts: Sequence[str], *, least: int) -> list[int]:
    if not texts or not all(text.strip().isdecimal() and int(text) >= least for text in texts):
        raise fail(flag, f"{','.join(texts)!r}", f"Give whole numbers of at least {least}, separated by commas.")
    return list(dict.fromkeys(int(text) for text in texts))


def _text(table: pd.DataFrame) -> str:
    """Returns the runs, best first, and what they come to."""
    columns = ["mode", "batch_size", "learning_rate", "momentum", "weight_decay", "seed", "status"]
    shown = table.sort_values("val_auc", ascending=False, na_position="last", kind="stable")
    shown = shown[[*columns, "best_epoch", "last_epoch", "val_auc", "test_auc", "test_acc", "seconds"]]
    formats = dict.fromkeys(("val_auc", "test_auc", "test_acc"), "{:.4f}".format)
    lines = [
        shown.to_string(index=False, formatters={**formats, "seconds": "{:.0f}".format, "learning_rate": "{:g}".format})
    ]
    if (best := records.best(table)) is None:
        return "\n".join([*lines, "", "All runs failed: their losses were not finite. Try smaller learning rates."])
    lines += ["", f"Best by validation AUC: test AUC {best['test_auc']:.4f}, accuracy {best['test_acc']:.4f}."]
    if table["seed"].nunique() > 1:
        first = records.over_seeds(table).iloc[0]
        mean = f"{first['test_auc']:.4f}, standard deviation {first['test_sd']:.4f} over {first['seeds']} seeds"
        lines.append(f"Best setting by mean validation AUC: test AUC {mean}.")
    return "\n".join(lines)


if __name__ == "__main__":
    _cli.run(main)
