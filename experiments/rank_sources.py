"""Ranks candidate sources for a target: which one should be fine-tuned?

From the repository:

    python -m experiments.rank_sources
    python -m experiments.rank_sources --target=histology
    python -m experiments.rank_sources --bootstrap=200
    python -m experiments.rank_sources --target=data.npz --sources=photos,resnet50:imagenet,resnet18:path/to/weights.pth
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import _cli, _target
from transferjax import data, metrics, models, published
from transferjax._files import writable_folder
from transferjax.combine import METHODS
from transferjax.ranking import DEFAULT_METRICS, rank_sources
from transferjax.report import plots, tables
from transferjax.types import ScoreTable

_SOURCES = flags.DEFINE_list(
    "sources",
    None,
    "Demo sources, <architecture>:<weights>, or files written by transferjax; separated by commas. Weights: imagenet, "
    "radimagenet, medmnist:<dataset>, a file or a URL. Default: all demo sources but the target's own.",
)
_WEIGHTS_DIR = flags.DEFINE_string(
    "weights_dir", None, "Where downloaded weights are kept. Default: ~/.cache/transferjax/weights."
)
_METRICS = flags.DEFINE_list(
    "metrics", list(DEFAULT_METRICS), f"From: {', '.join([*metrics.OVER_CANDIDATES, *metrics.names()])}."
)
_SCENARIO = flags.DEFINE_string(
    "scenario", "source_dataset", "source_dataset, or architecture (both parts of the combined score inverted)."
)
_METHOD = flags.DEFINE_string("combine", "product", f"How the combined score is made: {', '.join(METHODS)}.")
_MAX_EXAMPLES = flags.DEFINE_integer(
    "max_examples_per_class", 100, "Of the target, at least 6; if an example can have several labels, with each label."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the draw of examples and of stochastic metrics.")
_BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap", 0, "Resamples of the target's examples, from which intervals come: at least 20, or 0 for none."
)
_GRADIENTS = flags.DEFINE_enum(
    "gradients",
    "batch",
    ["batch", "example"],
    "batch, or example: gradients of single examples too, and the metrics made of them.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where results and cache go. Default: ./runs/rank_<target>.")


def main(_argv: list[str]) -> None:
    """Ranks, prints, writes."""
    start = time.perf_counter()
    dataset = _target.load_target()
    outputs = ("ranking.csv", "ranking.json", "ranking.png")
    workdir = writable_folder("workdir", _WORKDIR.value or Path("runs") / f"rank_{dataset.name}", files=outputs)
    sources = _SOURCES.value or [name for name in models.demo_names() if name != _target.TARGET.value]
    table = rank_sources(
        [models.load(source, folder=_WEIGHTS_DIR.value) for source in sources],
        dataset,
        metrics=_METRICS.value,
        scenario=_SCENARIO.value,
        method=_METHOD.value,
        max_examples_per_class=_MAX_EXAMPLES.value,
        seed=_SEED.value,
        bootstrap=_BOOTSTRAP.value,
        gradients=_GRADIENTS.value,
        cache_dir=workdir / "cache",
    )
    tables.write_csv(table, workdir / "ranking.csv")
    tables.write_json(table, workdir / "ranking.json")
    plots.plot_ranking(table, workdir / "ranking.png")
    print(_described(table.details["target"]), end="\n\n")
    print(tables.ranking_text(table), end="\n\n")
    if measured := _measured(table, sources):
        print(measured, end="\n\n")
    kind = "random" if dataset.labels.ndim == 2 else "stratified"
    for metric, size in table.details["metrics_on_a_subsample"].items():
        print(f"{metric} was computed on a {kind} subsample of about {size} images.")
    still = [str(name) for name, ratio in table.wide().get("gradient_ratio", {}).items() if ratio == 0]
    if still:
        print(f"gradient_ratio is 0, since no triple of any batch had a loss, for: {', '.join(still)}.")
    print(tables.verdict(table))
    print(f"\nWrote ranking.csv, ranking.json and ranking.png to {workdir} in {time.perf_counter() - start:.0f} s.")


def _measured(table: ScoreTable, sources: Sequence[str]) -> str:
    """Returns what fine-tuning these sources gave, as far as the demo benchmark knows the target and them.

    A file of the user's may have a demo source's name; it is another network.
    """
    known = published.load_demo().test_auc
    known = known[(known["target"] == _target.TARGET.value) & known["source"].isin(sources)].set_index("source")
    order = [str(source) for source in table.wide().index if source in known.index]
    if not order:
        return ""
    mean, deviation = (known[column].astype(float).to_dict() for column in ("test_auc", "std_over_seeds"))
    told = [f"{name} {mean[name]:.3f} ± {deviation[name]:.3f}" for name in order]
    return (
        "Measured, in this order: test AUC after fine-tuning on 25 images per class "
        f"(experiments/run_demo_benchmark.py), mean and standard deviation over seeds: {', '.join(told)}."
    )


def _described(target: Mapping[str, Any]) -> str:
    """Returns what was ranked for: how many images and classes, or labels, and which labels were left out."""
    count = len(target["class_names"])
    if target["task"] != "multilabel":
        return f"Target {target['name']}: {target['examples']:,} training images of {count} classes."
    text = f"Target {target['name']}: {target['examples']:,} training images with {count} label{'s' * (count > 1)}."
    few = [f"{name} ({n['with']} with, {n['without']} without)" for name, n in target["labels_left_out"].items()]
    if few:
        text += f"\nLeft out, since fewer than {data.MIN_PER_CLASS} images have or lack them: {', '.join(few)}."
    return text


if __name__ == "__main__":
    _cli.run(main)
