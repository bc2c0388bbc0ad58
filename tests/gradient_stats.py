"""Made-up statistics of gradients, for pairs that no network has seen."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from transferjax.types import ExampleGradientStats, GradientStats


def made(rng, n, *, batches=7, dtype="float32"):
    """Both kinds, as keywords of `make_pair`."""
    return {
        "gradients": GradientStats(batch_norms=jnp.asarray(rng.uniform(0.1, 1, (batches, 2)), dtype)),
        "example_gradients": ExampleGradientStats(
            norms=jnp.asarray(rng.uniform(0.1, 1, (n, 2)), dtype),
            signal_to_noise=jnp.asarray(rng.uniform(0, 1, (batches, 2)), dtype),
            alignment=jnp.asarray(rng.uniform(-1, 1, (batches, 2, 2)), dtype),
        ),
    }


def of_batches(pair, batches):
    """The pair with these batches, in the order given."""
    known = pair.example_gradients
    return dataclasses.replace(
        pair,
        gradients=GradientStats(batch_norms=pair.gradients.batch_norms[batches]),
        example_gradients=dataclasses.replace(
            known, signal_to_noise=known.signal_to_noise[batches], alignment=known.alignment[batches]
        ),
    )
