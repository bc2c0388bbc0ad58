"""Training of networks. For now: the pre-training of the demo sources."""

from transferjax.training.pretrain import Recipe, predict, pretrain

__all__ = ["Recipe", "predict", "pretrain"]
