"""How fast, how small and how exact: the metrics against their peers, and what their design rests on.

From the repository:

    python -m experiments.benchmark --suite=metrics
    python -m experiments.benchmark --suite=metrics --sizes=small --metrics=logme,sfda --output=small.csv
    python -m experiments.benchmark --suite=choices
    python -m experiments.benchmark --suite=gradients --torch_python=<an interpreter that has torch>
    python -m experiments.benchmark --suite=cell --torch_python=<one that has torch and scikit-learn>
    python -m experiments.benchmark --suite=augmentations --torch_python=<one that has torchvision>
    python -m experiments.benchmark --suite=devices
    python -m experiments.benchmark --suite=starts
    python -m experiments.benchmark --suite=streaming --images=20000
    python -m experiments.benchmark --suite=training --torch_python=<one that has torch>
    python -m experiments.benchmark --suite=population

`metrics` compares each metric with what a user of NumPy, SciPy and scikit-learn would write
(`experiments/benchmarks/peers.py`) on made-up data: small is 1,100 examples of 512 features in 11 classes, medium
10,000 of 2,048 in 100, large 100,000 of 2,048 in 100, without the peers. It takes long. `choices` compares single
design choices with their alternatives. `gradients` compares ResNet-18's forward and backward passes with PyTorch's, and
`cell` the whole way from 1,100 images to the default metrics (`experiments/benchmarks/gradients.py`). `augmentations`
compares that of a batch with torchvision's. `devices` compares an accelerator's numbers with the CPU's. `starts` says
how long each architecture takes to its first features, at the first start and at the second. `streaming` extracts
features from a folder of so many JPEGs. `training` takes steps of fine-tuning beside PyTorch, `population` eight runs
at once beside one after the other.
"""

from __future__ import annotations

import os

import pandas as pd
from absl import flags

from experiments import _cli
from experiments.benchmarks import augmentations, choices, devices, gradients, measuring, starts, streaming, training
from experiments.benchmarks import metrics as suite
from transferjax import _files, metrics, models
from transferjax._validate import one_of

_SUITES = (
    "augmentations",
    "cell",
    "choices",
    "devices",
    "gradients",
    "metrics",
    "population",
    "starts",
    "streaming",
    "training",
)
_SUITE = flags.DEFINE_string("suite", "choices", f"One of: {', '.join(_SUITES)}.")
_SIZES = flags.DEFINE_list(
    "sizes", list(measuring.SIZES), "Of the suite metrics: these, or such as 500x64x5 (n, d, c)."
)
_METRICS = flags.DEFINE_list("metrics", [], "Of the suite metrics. Default: all.")
_SECONDS = flags.DEFINE_float("seconds", 20, "After how long no further round of a metric begins.", lower_bound=0)
_ISOLATE = flags.DEFINE_bool("isolate", True, "A process for each metric and size; without, memory means little.")
_CELLS = flags.DEFINE_list(
    "cells",
    None,
    "Of the suites gradients and cell: sizes of images as 64; of gradients with the batch, as 64x183. Default: all.",
)
_VARIANTS = flags.DEFINE_list(
    "variants", ["forward", "two", "norms"], "Of the suite gradients; also plain, vmap, vmap_all."
)
_ARCHITECTURES = flags.DEFINE_list("architectures", list(models.names()), "Of the suites devices and starts.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "Of the suites augmentations, gradients and cell: processes for each number.", lower_bound=1
)
_LONG_LIVED = flags.DEFINE_bool(
    "long_lived", False, "Of the suite gradients: a process makes all measurements of a round, instead of one."
)
_IMAGES = flags.DEFINE_integer("images", 20_000, "Of the suite streaming.", lower_bound=12)
_TORCH = flags.DEFINE_string("torch_python", None, "Python interpreter that has torch. Default: without PyTorch.")
_OUTPUT = flags.DEFINE_string("output", None, "CSV file for the numbers of a suite, but choices.")


def main(argv: list[str]) -> None:
    """Runs a suite."""
    del argv
    # Measured are other processes, ours and PyTorch's: on a GPU this one must not take most of the memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if one_of("suite", _SUITE.value, _SUITES) == "choices":
        choices.run()
        return
    if _SUITE.value == "augmentations":
        _written(augmentations.run(rounds=_ROUNDS.value, seconds=_SECONDS.value, torch_python=_TORCH.value))
        return
    if _SUITE.value == "cell":
        images = gradients.cells_of(_CELLS.value or ["64", "224"])
        _written(gradients.run_cell(images, rounds=_ROUNDS.value, seconds=_SECONDS.value, torch_python=_TORCH.value))
        return
    if _SUITE.value in ("devices", "starts"):
        architectures = [models.get(name).name for name in _ARCHITECTURES.value]
        _written((devices if _SUITE.value == "devices" else starts).run(architectures))
        return
    if _SUITE.value == "training":
        _written(training.run(rounds=_ROUNDS.value, seconds=_SECONDS.value, torch_python=_TORCH.value))
        return
    if _SUITE.value == "population":
        _written(training.run_population(rounds=_ROUNDS.value))
        return
    if _SUITE.value == "streaming":
        _written(streaming.run(_IMAGES.value))
        return
    if _SUITE.value == "gradients":
        images = gradients.cells_of(_CELLS.value) if _CELLS.value else gradients.CELLS
        for variant in _VARIANTS.value:
            one_of("variants", variant, (*gradients.PEERS, "vmap_all"))
        table = gradients.run(
            images,
            variants=_VARIANTS.value,
            rounds=_ROUNDS.value,
            seconds=_SECONDS.value,
            torch_python=_TORCH.value,
            long_lived=_LONG_LIVED.value,
        )
        _written(table)
        return
    names = tuple(metrics.get(name).name for name in _METRICS.value) or metrics.names()
    sizes = {text: measuring.size_of(text) for text in _SIZES.value}
    _written(suite.run(sizes, names, seconds=_SECONDS.value, isolate=_ISOLATE.value))


def _written(table: pd.DataFrame) -> None:
    if _OUTPUT.value:
        with _files.atomic_write(_OUTPUT.value) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
        print(f"Written to {_OUTPUT.value}")


if __name__ == "__main__":
    _cli.run(main)
