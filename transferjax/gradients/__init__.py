"""Gradients of a loss on a source's features with respect to the kernels of its early convolutions."""

from transferjax.gradients.ratio import kernel_gradient_norms
from transferjax.gradients.triplet import triplet_loss

__all__ = ["kernel_gradient_norms", "triplet_loss"]
