"""Signal to noise and alignment against loops over examples and pairs of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.gradients import networks
from tests.gradients.test_taps import LABELS, RESNET
from transferjax import gradients
from transferjax.gradients import statistics


@pytest.fixture(scope="module")
def taken():
    """A network's gradients, all shares in float64, and what the statistics are made from."""
    with jax.enable_x64(True):
        module, variables, images = networks.short()
        shares = gradients.example_gradients(module, variables, images, LABELS, paths=RESNET[:2])
        found = gradients.kernel_gradients(
            module,
            variables,
            images,
            LABELS,
            paths=RESNET[:2],
            wanted=("batch", "norms", "squares", "directions"),
            num_classes=4,  # one of them is absent
        )
        return [np.asarray(shares[path]).reshape(9, -1) for path in RESNET[:2]], found


def test_signal_to_noise(taken):
    shares, found = taken
    expected = []
    for rows in shares:
        ratios = []
        for entry in rows.T:
            ratios.append(entry.mean() ** 2 / entry.var() if np.any(entry) else 0.0)
        expected.append(np.mean(ratios))
    with jax.enable_x64(True):
        np.testing.assert_allclose(statistics.signal_to_noise(found), expected, rtol=1e-9)


def test_alignment(taken):
    shares, found = taken
    expected = []
    for rows in shares:
        cosines = {True: [], False: []}
        for i in range(9):
            for j in range(9):
                norm = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
                if i != j and norm > 0:
                    cosines[bool(LABELS[i] == LABELS[j])].append(rows[i] @ rows[j] / norm)
        expected.append([np.mean(cosines[True]), np.mean(cosines[False])])
    with jax.enable_x64(True):
        np.testing.assert_allclose(statistics.alignment(found, LABELS), expected, rtol=1e-8, atol=1e-12)


def test_batch_norms(taken):
    shares, found = taken
    expected = [np.linalg.norm(rows.sum(axis=0)) for rows in shares]
    with jax.enable_x64(True):
        np.testing.assert_allclose(statistics.batch_norms(found), expected, rtol=1e-9)


def test_extremes():
    """The same share for all: no noise. None at all: 0. One example of each class: no pairs within."""
    share = jnp.asarray([[3.0, 4.0]])

    def made(counts, size):
        norms = jnp.full((sum(counts), 1), 5.0 * size)
        directions = jnp.asarray(counts)[:, None, None] * (share / 5 if size else 0 * share)
        b = sum(counts)
        return gradients.KernelGradients(
            jnp.zeros((b, 2)), (b * size * share,), norms, (b * (size * share) ** 2,), (directions,)
        )

    same = made([2, 1], 1)
    assert statistics.signal_to_noise(same)[0] > 1e6
    np.testing.assert_allclose(statistics.alignment(same, jnp.asarray([0, 0, 1])), [[1, 1]], rtol=1e-6)
    nothing = made([2, 1], 0)
    assert statistics.signal_to_noise(nothing)[0] == 0
    np.testing.assert_array_equal(statistics.alignment(nothing, jnp.asarray([0, 0, 1])), [[0, 0]])
    alone = made([1, 1], 1)
    np.testing.assert_allclose(statistics.alignment(alone, jnp.asarray([0, 1])), [[0, 1]], rtol=1e-6)
