"""Fine-tuning of sources on a target: a whole grid of settings, in as few populations as memory allows."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax._files import sha256
from transferjax._validate import fail
from transferjax.data import content_hash
from transferjax.evaluation.classification import evaluate
from transferjax.training import groups, population, step
from transferjax.training.checkpoints import Checkpoints, folder_of
from transferjax.training.ledger import FAILED, RUNNING
from transferjax.training.prepare import Prepared, Splits
from transferjax.training.recipes import FineTuning, Settings
from transferjax.types import SourceModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One fine-tuning run.

    Attributes:
      source: name of the source.
      settings: of the run.
      status: `"finished"` after all epochs, `"stopped"` early, or `"failed"`: a loss was not finite. Then all that
        follows is NaN, but for `history`.
      last_epoch: the epoch it ended with, 0 being the first.
      best_epoch: the one of the best monitored value, to which all values belong; -1 if there is none.
      val_loss: of the validation split, mean over examples (of a multi-label target, over its known labels).
      val_auc: 0..1.
      val_accuracy: 0..1.
      test_loss: of the test split, which is looked at once, at the end.
      test_auc: 0..1.
      test_accuracy: 0..1.
      seconds: its share of its population's time.
      history: float32 [last_epoch + 1, 4], by `population.HISTORY`.
      variables: {"params": {"head", and "network" if trained}, "batch_stats"} of the best epoch; None if it failed.
    """

    source: str
    settings: Settings
    status: str
    last_epoch: int
    best_epoch: int
    val_loss: float
    val_auc: float
    val_accuracy: float
    test_loss: float
    test_auc: float
    test_accuracy: float
    seconds: float
    history: np.ndarray
    variables: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """How and where a computation runs. Changes nothing in its results but rounding.

    Attributes:
      folder: for checkpoints; None for none.
      checkpoint_seconds: between two checkpoints, at least.
      memory: bytes that a population may take; None for most of the device's, or a quarter of a computer's.
      way: see `groups`; None for the backend's.
      keep: whether a population's checkpoint stays when its runs have been taken from `populations`, and the next ones
        are asked for: then whoever keeps records has entered them.
    """

    folder: str | os.PathLike[str] | None = None
    checkpoint_seconds: float = 60.0
    memory: int | None = None
    way: groups.Way | None = None
    keep: bool = True


HERE = Where()
Watch = Callable[[Sequence[tuple[SourceModel, Settings]]], population.OnEpoch]


def fine_tune(
    sources: SourceModel | Sequence[SourceModel],
    splits: Splits,
    settings: Sequence[Settings],
    *,
    recipe: FineTuning,
    where: Where = HERE,
    on_epoch: population.OnEpoch | None = None,
) -> list[Run]:
    """Fine-tunes sources with all settings: see `populations`, whose runs this returns in one list.

    `on_epoch` is called as `population.train` tells.
    """
    watch = None if on_epoch is None else lambda _: on_epoch
    found = populations(sources, splits, settings, recipe=recipe, where=where, watch=watch)
    return [one for runs in found for one in runs]


def populations(
    sources: SourceModel | Sequence[SourceModel],
    splits: Splits,
    settings: Sequence[Settings],
    *,
    recipe: FineTuning,
    where: Where = HERE,
    watch: Watch | None = None,
) -> Iterator[list[Run]]:
    """Fine-tunes sources with all settings, population by population.

    Args:
      sources: of one architecture, of one way to normalise images.
      splits: of the target; its images in memory or lazy.
      settings: each source is fine-tuned with each.
      recipe: what all runs have in common.
      where: see `Where`. With a folder, what was interrupted goes on where it was, to the same bits.
      watch: called with the members of each population before it is trained; returns `on_epoch`, see
        `population.train`.

    Yields:
      The runs of one population, source after source, in the order of settings.

    Raises:
      InputError: sources that do not go together; splits that do not, or whose AUC is undefined; no settings; a
        checkpoint that cannot be written or read.
    """
    sources = [sources] if isinstance(sources, SourceModel) else list(sources)
    _check(sources, splits, settings)
    together = [sources] if recipe.mode == "all" else [[source] for source in sources]
    hashes = [content_hash(part) for part in (splits.train, splits.val, splits.test)] if where.folder else []
    for group in together:
        prepared = Prepared(group[0], splits, recipe, where.way or groups.way_of_backend())
        members = [(source, chosen) for source in group for chosen in settings]
        size = prepared.members_at_once(where.memory)
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            key = sha256(json.dumps([_facts(chunk, recipe), hashes], sort_keys=True).encode())
            yield _population(prepared, chunk, where, key, watch and watch(chunk))
            if where.folder is not None and not where.keep:
                shutil.rmtree(folder_of(where.folder, key), ignore_errors=True)


def _population(
    prepared: Prepared,
    chunk: Sequence[tuple[SourceModel, Settings]],
    where: Where,
    key: str,
    on_epoch: population.OnEpoch | None,
) -> list[Run]:
    """Trains one population and tests its members' best."""
    begun = time.perf_counter()
    members = [prepared.member(source, settings) for source, settings in chunk]
    checkpoints = None
    if where.folder is not None:
        checkpoints = Checkpoints(folder_of(where.folder, key), seconds=where.checkpoint_seconds)
    try:
        progress = population.train(
            prepared.problem,
            population.start(members, epochs=prepared.problem.recipe.epochs),
            checkpoints=checkpoints,
            on_epoch=on_epoch,
            clock=lambda: time.perf_counter() - begun,
        )
    finally:
        if checkpoints is not None:
            checkpoints.close()
    ledger = progress.ledger
    good = (ledger.status != FAILED) & (ledger.best_epoch >= 0)
    logits = population.predict_best(prepared.problem, progress, prepared.test, good)
    share = float(progress.seconds) / len(chunk)
    return [
        _run(source.name, settings, progress, place, logits[place], bool(good[place]), prepared, share)
        for place, (source, settings) in enumerate(chunk)
    ]


def _run(
    source: str,
    settings: Settings,
    progress: population.Progress,
    place: int,
    logits: np.ndarray,
    good: bool,
    prepared: Prepared,
    seconds: float,
) -> Run:
    ledger = progress.ledger
    last, best_epoch = int(ledger.last_epoch[place]), int(ledger.best_epoch[place])
    history = progress.history[: last + 1, :, place]
    val = test = (math.nan,) * 3
    if good:
        val = float(history[best_epoch, 1]), float(history[best_epoch, 2]), float(history[best_epoch, 3])
        labels = prepared.test.labels
        probabilities = step.probabilities_of(jnp.asarray(logits), multilabel=labels.ndim == 2)
        scores = evaluate(np.asarray(probabilities), labels, prepared.task)
        test = float(step.mean_loss(jnp.asarray(logits), jnp.asarray(labels))), scores.auc, scores.accuracy
    ended = "finished" if ledger.status[place] == RUNNING else "stopped"
    return Run(
        source=source,
        settings=settings,
        status=ended if good else "failed",
        last_epoch=last,
        best_epoch=best_epoch if good else -1,
        **dict(zip(("val_loss", "val_auc", "val_accuracy"), val, strict=True)),
        **dict(zip(("test_loss", "test_auc", "test_accuracy"), test, strict=True)),
        seconds=seconds,
        history=history,
        variables=jax.tree.map(lambda leaf: leaf[place].copy(), progress.best) if good else None,
    )


def _facts(chunk: Sequence[tuple[SourceModel, Settings]], recipe: FineTuning) -> dict[str, Any]:
    """Returns what tells a population from others on the same data."""
    members = [
        {
            "weights": source.weights_hash,
            "architecture": source.architecture,
            "options": dict(source.options),
            "normalization": dataclasses.asdict(source.normalization),
            **dataclasses.asdict(settings),
        }
        for source, settings in chunk
    ]
    return {"recipe": dataclasses.asdict(recipe), "members": members}


def _check(sources: Sequence[SourceModel], splits: Splits, settings: Sequence[Settings]) -> None:
    if not sources or not settings:
        what = "sources" if not sources else "settings"
        raise fail(what, "none", "Give at least one.")
    first = sources[0]
    for other in sources[1:]:
        if (other.architecture, dict(other.options)) != (first.architecture, dict(first.options)):
            found = f"{first.name} is a {first.architecture}, {other.name} a {other.architecture}"
            raise fail("sources", found, "Fine-tune architectures, and their options, one by one.")
        if other.normalization != first.normalization:
            found = f"{first.name} and {other.name} want their images scaled differently"
            raise fail("sources", found, "Fine-tune them one by one.")
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    for name, part in parts.items():
        if (part.task, part.class_names) != (splits.train.task, splits.train.class_names):
            raise fail(name, "has other classes than the training split", "Give three splits of one target.")
        if len(part) < (2 if name == "train" else 1):
            raise fail(name, f"{len(part)} images", "Give more.")
        labels = part.labels if part.labels.ndim == 2 else part.labels[:, None] == np.arange(part.num_classes)
        if not ((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).any():
            raise fail(name, "no class has both examples of it and others", "The AUC needs both: give more images.")
