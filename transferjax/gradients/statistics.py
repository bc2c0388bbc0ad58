"""What metrics need to know of a batch's gradients: numbers per layer, from sums over the examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from transferjax._validate import fail
from transferjax.gradients.taps import KernelGradients, Wanted


def batch_norms(found: KernelGradients) -> jax.Array:
    """Returns the Frobenius norm of the batch loss's gradient at each kernel, float [l]; needs `batch`."""
    (batch,) = _needed(found, "batch")
    return jnp.stack([jnp.linalg.norm(gradient.ravel()) for gradient in batch])


def signal_to_noise(found: KernelGradients) -> jax.Array:
    """Gradient signal-to-noise ratio of each kernel: the mean over its entries of mean² / variance over the examples.

    Entries at which no example has a gradient count as 0.

    Args:
      found: with `batch` and `squares`.

    Returns:
      float [l], >= 0. Of shares that are the same for all examples it would be infinite: 1/eps at most.

    References:
      Liu, Jiang, Bai, Chen, Wang, 2020. Understanding why neural networks generalize well through GSNR of parameters.
      https://arxiv.org/abs/2001.07384
    """
    totals, powers = _needed(found, "batch", "squares")
    b = len(found.features)

    def of_layer(total: jax.Array, squares: jax.Array) -> jax.Array:
        signal, power = (total / b) ** 2, squares / b
        noise = jnp.maximum(power - signal, jnp.finfo(power.dtype).eps * power)
        return jnp.mean(jnp.where(power > 0, signal / jnp.where(power > 0, noise, 1), 0))

    return jnp.stack([of_layer(*sums) for sums in zip(totals, powers, strict=True)])


def alignment(found: KernelGradients, labels: jax.Array) -> jax.Array:
    """Mean cosine between the gradients of two examples: of one class, and of different classes.

    From the sums S_c of unit gradients over the n_c examples of a class: the mean over pairs within classes is
    Σ_c (‖S_c‖² - n_c) / Σ_c n_c(n_c - 1), and so on; no pair is formed. Examples without a gradient are left out.

    Args:
      found: with `norms` and `directions`.
      labels: int [b] in 0..c-1.

    Returns:
      float [l, 2] in -1..1, within and between classes; 0 if there is no such pair.

    References:
      Fort, Nowak, Jastrzebski, Narayanan, 2019. Stiffness: a new perspective on generalization in neural networks.
      https://arxiv.org/abs/1901.09491
    """
    lengths, directions = _needed(found, "norms", "directions")

    def of_layer(norms: jax.Array, sums: jax.Array) -> jax.Array:
        counts = jnp.zeros(len(sums), norms.dtype).at[labels].add(norms > 0)
        rows = sums.reshape(len(sums), -1)
        of_classes, of_all = jnp.sum(rows**2, axis=1), jnp.sum(jnp.sum(rows, axis=0) ** 2)
        pairs = jnp.sum(counts * (counts - 1)), jnp.sum(counts) ** 2 - jnp.sum(counts**2)
        cosines = jnp.sum(of_classes - counts), of_all - jnp.sum(of_classes)
        return jnp.stack([total / jnp.maximum(number, 1) for total, number in zip(cosines, pairs, strict=True)])

    return jnp.stack([of_layer(lengths[:, index], sums) for index, sums in enumerate(directions)])


def _needed(found: KernelGradients, *names: Wanted) -> list[Any]:
    if missing := [name for name in names if getattr(found, name) is None]:
        raise fail("found", f"without {', '.join(missing)}", "Name it in `wanted` of kernel_gradients.")
    return [getattr(found, name) for name in names]
