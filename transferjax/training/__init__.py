"""Training of networks: pre-training, fine-tuning, and populations of runs."""

from transferjax.training.export import fine_tuned_source
from transferjax.training.finetune import Run, Where, fine_tune, populations
from transferjax.training.prepare import Splits
from transferjax.training.pretrain import PRETRAINING, Pretraining, predict, pretrain
from transferjax.training.recipes import FineTuning, Settings

__all__ = [
    "PRETRAINING",
    "FineTuning",
    "Pretraining",
    "Run",
    "Settings",
    "Splits",
    "Where",
    "fine_tune",
    "fine_tuned_source",
    "populations",
    "predict",
    "pretrain",
]
