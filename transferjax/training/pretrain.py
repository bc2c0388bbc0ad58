"""Pre-training: a run of the same engine from random weights, all of which are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax._validate import fail
from transferjax.models import apply_head, get, headless, random_source
from transferjax.training.export import fine_tuned_source, has_linear_head
from transferjax.training.feed import Feed
from transferjax.training.finetune import HERE, Run, Watch, Where, populations
from transferjax.training.prepare import Splits, features_of, hash_of
from transferjax.training.recipes import FineTuning, Settings
from transferjax.training.records import parameters
from transferjax.training.step import probabilities_of
from transferjax.types import SourceModel, TargetDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How a source is made.

    The loss is the cross-entropy; of a multi-label data set the binary one, over its known labels.

    Attributes:
      recipe: of mode `"all"`; `data_seed` is of the order of images.
      settings: `seed` is of the weights.
    """

    recipe: FineTuning
    settings: Settings

    def __post_init__(self) -> None:
        """Raises `InputError` if not all is trained: what random weights make of images is worth nothing."""
        if self.recipe.mode != "all":
            raise fail("mode", f"{self.recipe.mode!r}", "Random weights have to be trained: take 'all'.")

    def seeded(self, seed: int) -> Pretraining:
        """Returns the same with one seed for all randomness."""
        recipe = dataclasses.replace(self.recipe, data_seed=seed)
        return Pretraining(recipe=recipe, settings=dataclasses.replace(self.settings, seed=seed))


_LARGE = FineTuning(epochs=100, patience=20, monitor="loss", batch_size=128, dropout=0.0, schedule="step")
_LARGE_SETTINGS = Settings(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
PRETRAINING = MappingProxyType(
    {
        # Of the demo sources. The class of most of their patches is what is at the centre: a shift would move it. The
        # smallest has 118 images, so that larger batches would make few steps, and several get all of their few
        # validation images right in some epochs.
        "single": Pretraining(
            recipe=FineTuning(
                epochs=40, patience=20, monitor="auc_loss", batch_size=32, dropout=0.0, augmentation="none"
            ),
            settings=Settings(learning_rate=0.05, momentum=0.9, weight_decay=5e-4),
        ),
        "leave_target_out": Pretraining(
            recipe=dataclasses.replace(_LARGE, sampling="class_balanced"), settings=_LARGE_SETTINGS
        ),
        "radimagenet": Pretraining(recipe=dataclasses.replace(_LARGE, patience=10), settings=_LARGE_SETTINGS),
    }
)
"""Name → recipe: of one data set; of the union of all MedMNIST sets but the target (`data.union`), as in the paper; of
RadImageNet.

References:
  Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
  classification. https://arxiv.org/abs/2412.20172. Of the union there are from them: loss, optimizer, schedule,
  sampling, and when training stops. The largest number of epochs is ours, as are the optimizer and the schedule for
  RadImageNet.
"""


def check_architecture(architecture: str) -> None:
    """Raises `InputError` if there is no such architecture, or its head is not the linear one that is trained."""
    if not has_linear_head(get(architecture)):
        raise fail("architecture", f"{architecture} has a head of several layers", "Take one with a linear head.")


def facts(name: str, how: Pretraining, splits: Splits) -> dict[str, Any]:
    """Returns what a source of an architecture depends on, as a manifest has it: {"recipe", "data"}.

    Args:
      name: of the recipe.
      how: it is trained.
      splits: of the data set; all images are read.
    """
    return {"recipe": {"name": name, **parameters(how.settings, how.recipe)}, "data": hash_of(splits)}


def pretrain(
    architecture: str,
    splits: Splits,
    *,
    how: Pretraining,
    options: Mapping[str, int] | None = None,
    name: str | None = None,
    where: Where = HERE,
    watch: Watch | None = None,
) -> tuple[SourceModel, Run]:
    """Trains an architecture from random weights.

    Args:
      architecture: as in `models.get`; with a linear layer for a head.
      splits: of a data set; the best epoch is chosen by its validation split. Images may be lazy.
      how: see `PRETRAINING`.
      options: of the architecture, such as {"width": 16}.
      name: of the source; None for the data set's.
      where: with a folder, what was interrupted goes on where it was, to the same bits. The last checkpoint stays:
        whoever has written the source removes it.
      watch: see `populations`.

    Returns:
      The network of the best epoch with its head, and how it got there.

    Raises:
      InputError: as `populations` and `fine_tuned_source`; or a loss was not finite.

    References:
      He, Zhang, Ren, Sun, 2015. Delving Deep into Rectifiers. https://arxiv.org/abs/1502.01852, for the random kernels.
    """
    check_architecture(architecture)
    train = splits.train
    name = name or train.name
    blank = random_source(name, architecture, num_classes=train.num_classes, seed=how.settings.seed, **(options or {}))
    # The generator is left where it is: going on, it could remove the checkpoint.
    (run,) = next(populations(blank, splits, [how.settings], recipe=how.recipe, where=where, watch=watch))
    if run.status == "failed":
        found = f"{how.settings.learning_rate:g}: the loss of {name} was not finite in epoch {run.last_epoch + 1}"
        raise fail("learning_rate", found, "Take a smaller one.")
    source = dataclasses.replace(
        fine_tuned_source(blank, run, train.class_names),
        head="sigmoid" if train.task == "multilabel" else "softmax",
        num_train_examples=len(train),
        origin=f"trained on {train.name}, seed {how.settings.seed}",
    )
    return source, run


def predict(source: SourceModel, dataset: TargetDataset) -> np.ndarray:
    """Returns the probabilities float32 [n, k] that a source gives its own classes; lazy images are read ahead.

    Raises:
      InputError: it has no head.
    """
    module, variables = headless(source)
    feed = Feed(dataset.images, dataset.labels)
    with jax.default_matmul_precision("highest"):
        logits = apply_head(source, jnp.asarray(features_of(module, variables, feed, source.normalization)))
    if logits is None:
        raise fail("source", f"{source.name} has no head", "Give one that tells its classes.")
    return np.asarray(jax.device_get(probabilities_of(logits, multilabel=source.head == "sigmoid")))
