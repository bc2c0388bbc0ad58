"""Pre-trains the thin networks that serve as demo sources, one per demo task, and prints their test AUC.

    python -m experiments.pretrain
    python -m experiments.pretrain --tasks=retina --epochs=100 --output_dir=runs/pretrain

The package's own were made by the first command with `--output_dir=transferjax/models/demo`. A task whose entry in the
manifest has the same recipe and seed is not trained again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import _cli
from transferjax import data, models
from transferjax._files import atomic_write, writable_folder
from transferjax._validate import one_of
from transferjax.evaluation.classification import auc
from transferjax.training import Recipe, predict, pretrain
from transferjax.types import Normalization

_TASKS = flags.DEFINE_list(
    "tasks", None, "Demo tasks, separated by commas; `random` is the untrained control. Default: all."
)
_WIDTH = flags.DEFINE_integer("width", 16, "Channels of the ResNet-18's first stage.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", Recipe.epochs, "Passes over the training images.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the weights and the order of the images.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output_dir", "runs/pretrain", "Where the weights and manifest.json go.")

_ARCHITECTURE = "resnet18"
_CONTROL = "random"


def main(_argv: list[str]) -> None:
    """Trains each task, writes its weights and then its manifest entry."""
    folder = writable_folder("output_dir", _OUTPUT.value)
    known = [*data.demo_names(), _CONTROL]
    tasks = [one_of("tasks", task, known) for task in _TASKS.value or known]
    manifest_path = folder / "manifest.json"
    manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
    recipe = Recipe(epochs=_EPOCHS.value)
    for task in tasks:
        wanted = _recipe_entry(task, recipe)
        if wanted.items() <= manifest.get(task, {}).items():
            print(f"{task}: already there")
        else:
            manifest[task] = wanted | (_control() if task == _CONTROL else _train(task, recipe, folder))
            with atomic_write(manifest_path) as temporary:
                ordered = {name: manifest[name] for name in known if name in manifest}
                temporary.write_text(json.dumps(ordered, indent=1) + "\n")
        if "test_auc" in manifest[task]:
            print(f"{task}: test AUC {manifest[task]['test_auc']:.4f}")
    print(f"Wrote weights and manifest.json to {folder}.")


def _recipe_entry(task: str, recipe: Recipe) -> dict[str, Any]:
    made = "untrained: He-normal kernels" if task == _CONTROL else dataclasses.asdict(recipe)
    return {"architecture": _ARCHITECTURE, "options": {"width": _WIDTH.value}, "recipe": made, "seed": _SEED.value}


def _train(task: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    train, test = data.load(task, split="train"), data.load(task, split="test")
    module = models.get(_ARCHITECTURE).build(num_classes=train.num_classes, width=_WIDTH.value)
    normalization = Normalization()
    rng = jax.random.key(_SEED.value)
    variables, losses = pretrain(module, train, recipe=recipe, normalization=normalization, rng=rng)
    file = folder / f"{task}.safetensors"
    source = models.make_source(
        task,
        _ARCHITECTURE,
        variables,
        options={"width": _WIDTH.value},
        normalization=normalization,
        num_train_examples=len(train),
    )
    models.save(file, source, dtype=np.float16)
    stored = models.load(file)  # judged as it is stored, in half precision
    probabilities = predict(module, stored.variables, test, normalization=normalization)
    return {
        "task": task,
        "file": file.name,
        "train_examples": len(train),
        "train_loss": losses[-1],
        "test_auc": auc(probabilities, test.labels),
        "weights_hash": stored.weights_hash,
    }


def _control() -> dict[str, Any]:
    classes = 10
    source = models.random_source(_CONTROL, _ARCHITECTURE, num_classes=classes, seed=_SEED.value, width=_WIDTH.value)
    return {"num_classes": classes, "weights_hash": source.weights_hash}


if __name__ == "__main__":
    _cli.run(main)
