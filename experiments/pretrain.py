"""Pre-trains sources from random weights, and says how good they are on what they were trained for.

From the repository:

    python -m experiments.pretrain --recipe=single
    python -m experiments.pretrain --recipe=single --datasets=medmnist:pathmnist/64,path/to/mine.npz
    python -m experiments.pretrain --recipe=leave_target_out --target=bloodmnist --size=64
    python -m experiments.pretrain --recipe=radimagenet --folder=path/to/radimagenet --architecture=resnet50

`single` makes a source of each data set; without `--datasets` the demo sources, as the package's own were made with
`--output_dir=transferjax/models/demo`. `leave_target_out` takes the union of all MedMNIST sets but the target, which
`experiments/prepare_data.py` has prepared, with as many images of each class; `radimagenet` its 165 classes.

The best epoch by the validation split is kept. The same command again goes on where it was stopped, or killed, to the
same bits; what the manifest has, from the same data by the same recipe, is not trained again. Sources are in
`<output_dir>/<name>.safetensors`, to be named so to rank_sources and finetune; manifest.json tells how they were made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import _cli, _target
from experiments._progress import Epochs
from experiments._splits import load_splits
from transferjax import data, models
from transferjax._files import atomic_write, writable_folder
from transferjax._validate import fail, one_of, reason
from transferjax.data import medmnist_info
from transferjax.data.union import label_space, union
from transferjax.evaluation.classification import evaluate, top_k_accuracy
from transferjax.training import PRETRAINING, Pretraining, Settings, Splits, Where, predict, pretrain
from transferjax.training.pretrain import check_architecture, facts
from transferjax.training.recipes import AUGMENTATIONS, PRECISIONS, usual_augmentation

_RECIPE = flags.DEFINE_enum("recipe", "single", list(PRETRAINING), "What to train on, and how.")
_DATASETS = flags.DEFINE_list(
    "datasets",
    None,
    "Of single: data sets, each written as for --target of rank_sources; `random` is an untrained control. Default: "
    "all demo tasks, and that.",
)
_SIZE = flags.DEFINE_integer("size", None, "Of leave_target_out: 28, 64, 128 or 224 pixels. Default: 28.")
_FOLDER = flags.DEFINE_string("folder", None, "Of radimagenet: where its images and lists are.")
_ARCHITECTURE = flags.DEFINE_string("architecture", "resnet18", "Such as resnet18, resnet50, densenet121.")
_WIDTH = flags.DEFINE_integer(
    "width",
    None,
    "Channels of a ResNet's first stage. Default: 16 for demo tasks, else the published 64.",
    lower_bound=1,
)
_EPOCHS = flags.DEFINE_integer("epochs", None, "At most. Default: the recipe's.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", None, "Default: the recipe's.", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", None, "In the first epoch. Default: the recipe's.")
_AUGMENTATION = flags.DEFINE_enum(
    "augmentation",
    None,
    list(AUGMENTATIONS),
    "Default: none of single; of the others mild below 64 pixels, else paper.",
)
_PRECISION = flags.DEFINE_enum("precision", "float32", PRECISIONS, "Of activations and products in training.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, the order of images and augmentation.", lower_bound=0)
_SPLIT_SEED = flags.DEFINE_integer("split_seed", 0, "Of splits that a data set does not come with.", lower_bound=0)
_CHECKPOINTS = flags.DEFINE_float("checkpoint_seconds", 60, "Between checkpoints, at least.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output_dir", "runs/pretrain", "Where sources and manifest.json go.")

_CONTROL, _CONTROL_CLASSES = "random", 10
_DEMO_WIDTH = 16
_IN_MEMORY = 2**31  # bytes of images: all of MedMNIST at 28 pixels
_ONLY_FOR = {
    "datasets": ("single",),
    "target": ("leave_target_out",),
    "size": ("leave_target_out",),
    "image_size": ("single", "radimagenet"),
    "folder": ("radimagenet",),
    "data_dir": ("single", "leave_target_out"),
    "split_seed": ("single",),
    **dict.fromkeys((flag.name for flag in _target.OF_FILES), ("single",)),
}


class _Job(NamedTuple):
    """A source to be made: its name, the data set as users write it, and how to open that; None for the control."""

    name: str
    task: str
    load: Callable[[], Splits] | None


def main(_argv: list[str]) -> None:
    """Trains what is not there yet; writes each source, and then its entry in the manifest."""
    begun = time.perf_counter()
    jobs = _jobs()
    check_architecture(_ARCHITECTURE.value)
    _settings()
    folder = writable_folder("output_dir", _OUTPUT.value, files=("manifest.json",))
    manifest = _read(folder / "manifest.json")
    for job in jobs:
        splits = job.load() if job.load is not None else None
        wanted, before = _wanted(job, splits), manifest.get(job.name, {})
        if wanted.items() <= before.items() and (folder / before.get("file", "")).exists():
            print(f"{job.name}: already there. {_text(before)}")
            shutil.rmtree(folder / "checkpoints" / job.name, ignore_errors=True)
            continue
        if any(before.get(fact, wanted.get(fact)) != wanted.get(fact) for fact in ("architecture", "options", "task")):
            found = f"{str(folder)!r} has another {job.name}: {before['architecture']} of {before.get('task')}"
            raise fail("output_dir", found, "Choose another folder.")
        checkpoints = folder / "checkpoints" / job.name
        if splits is None:
            entry = wanted | _control(wanted)
        else:
            if before:
                _enter(folder, job.name, None)  # while its file may be another than it says
            entry = wanted | _train(job, splits, wanted["options"], folder, checkpoints)
        _enter(folder, job.name, entry)
        shutil.rmtree(checkpoints, ignore_errors=True)
        print(f"{job.name}: {_text(entry)}", flush=True)
    with contextlib.suppress(OSError):  # if there are others in it
        (folder / "checkpoints").rmdir()
    print(f"Sources and manifest.json are in {folder} ({time.perf_counter() - begun:.0f} s).")


def _jobs() -> list[_Job]:
    recipe = _RECIPE.value
    for flag, only in _ONLY_FOR.items():
        if recipe not in only and not flags.FLAGS[flag].using_default_value:
            found = f"{flags.FLAGS[flag].value!r} with --recipe={recipe}"
            raise fail(flag, found, f"Leave it out: it is for --recipe={' and '.join(only)}.")
    if recipe == "leave_target_out":
        if flags.FLAGS["target"].using_default_value:
            raise fail("target", "is not given", f"Name the set to leave out, of: {', '.join(medmnist_info.INFO)}.")
        target = one_of("target", _target.TARGET.value, list(medmnist_info.INFO))
        size = medmnist_info.checked_size(28 if _SIZE.value is None else _SIZE.value)
        name = f"medmnist-without-{target}-{size}"
        return [_Job(name, name, functools.partial(_union, target, size))]
    if recipe == "radimagenet":
        if _FOLDER.value is None:
            raise fail("folder", "is not given", "Give the folder with RadImageNet's images and lists.")
        task = f"radimagenet:{_FOLDER.value}"
        return [_Job("radimagenet", task, functools.partial(load_splits, task, seed=0, scored=False))]
    tasks = [*data.demo_names(), _CONTROL] if _DATASETS.value is None else list(map(_task, _DATASETS.value))
    if not tasks:
        raise fail("datasets", "none", "Name at least one, or leave the flag out for all demo tasks.")
    if not all(tasks):
        raise fail("datasets", f"{','.join(tasks)!r} has an empty name", "Separate names by single commas.")
    names = [_name(task) for task in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise fail("datasets", f"several are called {twice[0]!r}", "Train them apart, in several folders.")
    loads = [functools.partial(load_splits, task, seed=_SPLIT_SEED.value) for task in tasks]
    return [
        _Job(name, task, None if task == _CONTROL else load)
        for name, task, load in zip(names, tasks, loads, strict=True)
    ]


def _task(text: str) -> str:
    """Returns a data set as the manifest names it: ./mine.npz is mine.npz."""
    path = Path(text).expanduser()
    return str(path) if text and text not in data.demo_names() and path.exists() else text


def _name(task: str) -> str:
    """Returns what the source of a data set is called: medmnist:pathmnist/64 makes pathmnist_64, mine.npz mine."""
    path = Path(task)
    if task not in data.demo_names() and path.exists():
        text = path.stem if path.is_file() else path.resolve().name
    else:
        text = task.rpartition(":")[2]
    return re.sub(r"[^\w.-]+", "_", text)


def _union(target: str, size: int) -> Splits:
    """Returns all MedMNIST sets but the target as one, its images in their files if they are many."""
    from transferjax.data.medmnist import open_medmnist  # here, since TFDS takes a second to import

    found = {}
    for split in data.SPLITS:
        sets = {
            name: open_medmnist(name, size, split=split, data_dir=_target.DATA_DIR.value)
            for name in label_space(target).columns
        }
        found[split] = data.in_memory(union(sets, target=target), limit=_IN_MEMORY)
    return Splits(**found)


def _wanted(job: _Job, splits: Splits | None) -> dict[str, Any]:
    """Returns what the manifest says of a source that is made as the flags say."""
    spec = models.get(_ARCHITECTURE.value)
    demo = job.task in (*data.demo_names(), _CONTROL)
    width = _WIDTH.value or (_DEMO_WIDTH if demo and "width" in spec.options else None)
    entry = {"architecture": spec.name, "options": {"width": width} if width else {}, "seed": _SEED.value}
    if splits is None:
        return entry | {"recipe": "untrained: He-normal kernels", "num_classes": _CONTROL_CLASSES}
    how = _how(splits)
    return entry | facts(_RECIPE.value, how, splits) | {"task": job.task}


def _how(splits: Splits) -> Pretraining:
    """Returns the recipe as the flags change it."""
    how = PRETRAINING[_RECIPE.value].seeded(_SEED.value)
    augmentation = how.recipe.augmentation
    if augmentation != "none":
        augmentation = usual_augmentation(*splits.train.images.shape[1:3])
    recipe = dataclasses.replace(
        how.recipe,
        epochs=_EPOCHS.value or how.recipe.epochs,
        batch_size=_BATCH.value or how.recipe.batch_size,
        augmentation=_AUGMENTATION.value or augmentation,
        precision=_PRECISION.value,
    )
    return Pretraining(recipe=recipe, settings=_settings())


def _settings() -> Settings:
    settings = PRETRAINING[_RECIPE.value].seeded(_SEED.value).settings
    return settings if _RATE.value is None else dataclasses.replace(settings, learning_rate=_RATE.value)


def _train(job: _Job, splits: Splits, options: Mapping[str, int], folder: Path, checkpoints: Path) -> dict[str, Any]:
    """Trains and writes a source; returns what became of it, judged as it is written, in half precision."""
    how = _how(splits)
    where = Where(folder=checkpoints, checkpoint_seconds=_CHECKPOINTS.value)
    with Epochs(job.name, how.recipe) as epochs:
        source, run = pretrain(
            _ARCHITECTURE.value,
            splits,
            how=how,
            options=options,
            name=job.name,
            where=where,
            watch=epochs.watch,
        )
    file = folder / f"{job.name}.safetensors"
    models.save(file, source, dtype=np.float16)
    stored = models.load(file)
    probabilities = predict(stored, splits.test)
    scores = evaluate(probabilities, splits.test.labels, splits.test.task)
    found = {
        "file": file.name,
        "train_examples": len(splits.train),
        "epochs": run.last_epoch + 1,
        "best_epoch": run.best_epoch,
        "train_loss": float(run.history[run.best_epoch, 0]),
        "val_loss": run.val_loss,
        "val_auc": run.val_auc,
        "test_auc": scores.auc,
        "test_accuracy": scores.accuracy,
    }
    if _RECIPE.value == "radimagenet":
        found["test_top_5_accuracy"] = top_k_accuracy(probabilities, splits.test.labels, k=5)
    return found | {"weights_hash": stored.weights_hash}


def _control(entry: dict[str, Any]) -> dict[str, Any]:
    made = models.random_source(
        _CONTROL, entry["architecture"], num_classes=_CONTROL_CLASSES, seed=entry["seed"], **entry["options"]
    )
    return {"weights_hash": made.weights_hash}


def _text(entry: Mapping[str, Any]) -> str:
    if "test_auc" not in entry:
        return "an untrained control, drawn when it is loaded"
    top = f", top-5 accuracy {entry['test_top_5_accuracy']:.4f}" if "test_top_5_accuracy" in entry else ""
    return (
        f"validation AUC {entry['val_auc']:.4f}, test AUC {entry['test_auc']:.4f}{top} "
        f"(epoch {entry['best_epoch'] + 1} of {entry['epochs']})"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise fail(str(path), f"cannot be read ({reason(error)})", "Move it away.") from error
    if not isinstance(manifest, dict) or not all(
        isinstance(entry, dict) and "architecture" in entry for entry in manifest.values()
    ):
        raise fail(str(path), "is no manifest of sources", "Move it away.")
    return manifest


def _enter(folder: Path, name: str, entry: Mapping[str, Any] | None) -> None:
    """Enters a source into the manifest as it is by now, or takes it out; demo tasks first, the control after them."""
    path = folder / "manifest.json"
    manifest = _read(path)
    manifest.pop(name, None)
    if entry is not None:
        manifest[name] = entry
    first = [*data.demo_names(), _CONTROL]
    names = [name for name in first if name in manifest] + [name for name in manifest if name not in first]
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({name: manifest[name] for name in names}, indent=1) + "\n")


if __name__ == "__main__":
    _cli.run(main)
