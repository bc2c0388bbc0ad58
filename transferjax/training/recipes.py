"""How networks are fine-tuned: what all members of a population share, and what each has of its own."""

from __future__ import annotations

import dataclasses
import math

from transferjax._validate import fail, one_of, positive
from transferjax.data.augment import PAPER, SMALL
from transferjax.data.augment import Recipe as Augmentation

MODES = ("all", "head", "probe")
AUGMENTATIONS: dict[str, Augmentation | None] = {"none": None, "mild": SMALL, "paper": PAPER}
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
SCHEDULES = ("cosine", "constant", "step")
MONITORS = ("auc", "loss", "auc_loss")
SAMPLINGS = ("shuffle", "class_balanced")
_SMALL = 64  # pixels


def usual_augmentation(height: int, width: int) -> str:
    """Returns which augmentation suits images of a size: the paper's, but a milder one for small ones."""
    return "mild" if max(height, width) < _SMALL else "paper"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What all runs of a population have in common. The defaults are the paper's.

    Attributes:
      mode: what is trained. `"all"`: every parameter of the network and of a fresh linear head, BatchNorm normalising
        by the batch. `"head"`: the fresh head alone, on the network in inference mode, whose running statistics stay.
        `"probe"`: the same without augmentation, so that features are computed once.
      epochs: passes over the training images, at most.
      patience: a run ends when the monitored value has not got better in so many epochs.
      monitor: which validation value that is, and by which the best epoch is chosen: `"auc"`, `"loss"`, or
        `"auc_loss"`, AUC + 1e-5/(1 + loss): of equal AUCs the smaller loss, for targets of which some epochs get all
        right.
      batch_size: what is left of an epoch after the last whole batch is left out (PyTorch's `drop_last`); which images
        these are changes from epoch to epoch. With fewer images than that, a batch has them all.
      dropout: of the features before the head, 0..1.
      augmentation: `"paper"`, `"mild"` (for images of about 28 pixels) or `"none"`, see `transferjax.data.augment`.
      schedule: of the learning rate, epoch by epoch: `"cosine"` falls to 0 at the end of all `epochs` as PyTorch's
        `CosineAnnealingLR(T_max=epochs)` does, `"step"` takes a tenth every 15 epochs, `"constant"` stays.
      precision: of training passes. `"float32"`: all of it, on every device. `"tensorfloat32"`: products round their
        factors, to 10 bits of mantissa on GPUs, to some 16 on TPUs, as PyTorch's convolutions do there by themselves;
        on CPU the same as float32. `"bfloat16"`: activations and products are bfloat16; parameters, normalisation, the
        loss and the optimizer stay float32. Validation is float32 always.
      accumulate: a batch is passed through in so many equal parts, whose gradients are averaged, to save memory.
        BatchNorm sees the parts, as with PyTorch.
      data_seed: of the order of images and of augmentation, which all members share.
      sampling: which images an epoch has: `"shuffle"`, each once; or `"class_balanced"`, as many as there are, drawn
        with replacement so that all classes come equally often, see `transferjax.data.union.class_balanced_epochs`.
    """

    mode: str = "all"
    epochs: int = 200
    patience: int = 50
    monitor: str = "auc"
    batch_size: int = 128
    dropout: float = 0.5
    augmentation: str = "paper"
    schedule: str = "cosine"
    precision: str = "float32"
    accumulate: int = 1
    data_seed: int = 0
    sampling: str = "shuffle"

    def __post_init__(self) -> None:
        """Raises `InputError` if a value is none of those allowed."""
        for name in ("epochs", "patience", "batch_size", "accumulate"):
            positive(name, getattr(self, name))
        choices = {
            "mode": MODES,
            "monitor": MONITORS,
            "augmentation": tuple(AUGMENTATIONS),
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "sampling": SAMPLINGS,
        }
        for name, allowed in choices.items():
            one_of(name, getattr(self, name), allowed)
        if not 0 <= self.dropout < 1:
            raise fail("dropout", f"{self.dropout}", "Give a number from 0 to below 1.")
        if self.batch_size % self.accumulate:
            raise fail("accumulate", f"{self.accumulate} parts of {self.batch_size} images", "Give a divisor.")
        if not 0 <= self.data_seed < 2**32:
            raise fail("data_seed", f"{self.data_seed}", "Give a whole number from 0 to below 2**32.")

    def rate(self, epoch: int) -> float:
        """Returns by what the learning rate is multiplied in an epoch, 0 being the first."""
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return 0.1 ** (epoch // 15) if self.schedule == "step" else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run has of its own.

    SGD is PyTorch's, by default over all parameters, biases and BatchNorm's included: g ← g + weight_decay·w,
    v ← momentum·v + g, and w ← w - rate·(g + momentum·v) (Nesterov's; with momentum 0 it is plain SGD).

    Attributes:
      learning_rate: in the first epoch.
      momentum: Nesterov's; 0 for none.
      weight_decay: added to the gradient.
      seed: of the fresh head and of dropout.
    """

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `InputError` if a value is out of its range."""
        if not 0 < self.learning_rate < math.inf:
            raise fail("learning_rate", f"{self.learning_rate}", "Give a number above 0.")
        if not 0 <= self.momentum < 1:
            raise fail("momentum", f"{self.momentum}", "Give a number from 0 to below 1.")
        if not 0 <= self.weight_decay < math.inf:
            raise fail("weight_decay", f"{self.weight_decay}", "Give a number of at least 0.")
        if not 0 <= self.seed < 2**32:
            raise fail("seed", f"{self.seed}", "Give a whole number from 0 to below 2**32.")
