"""Gradients of a loss on a source's features with respect to the kernels of its early layers."""

from transferjax.gradients.losses import cross_entropy, on_fresh_head, on_head
from transferjax.gradients.per_example import example_gradients, example_norms
from transferjax.gradients.taps import KernelGradients, kernel_gradients
from transferjax.gradients.triplet import triplet_loss

__all__ = [
    "KernelGradients",
    "cross_entropy",
    "example_gradients",
    "example_norms",
    "kernel_gradients",
    "on_fresh_head",
    "on_head",
    "triplet_loss",
]
