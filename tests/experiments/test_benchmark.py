"""The benchmark measures what it says: the alternatives agree where they should."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np

from experiments import benchmark
from transferjax.metrics.feature_quality import nca_loss_and_gradient


def test_both_gradients_are_the_same_function_s():
    features, labels = benchmark.clusters(40, 8, 3, 1.0, np.random.default_rng(0))
    transform = np.random.default_rng(1).standard_normal((4, 8)) / 4
    with jax.enable_x64(True):
        arguments = [jnp.asarray(array) for array in (transform, features.astype(np.float64), labels)]
        written, derived = nca_loss_and_gradient(*arguments), jax.value_and_grad(benchmark.automatic)(*arguments)
    for a, b in zip(written, derived, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_float32_loses_what_the_docstrings_say(capsys):
    rng = np.random.default_rng(0)
    benchmark.residual_digits(rng)
    benchmark.neighbor_digits(rng)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    narrow, wide, exact = (float(number) for number in re.findall(r"(?:Gram|float64|exact) (\S+?)(?:,|$)", lines[2]))
    assert abs(narrow - exact) > abs(exact)  # nothing is left; which way it errs depends on the machine
    assert abs(wide - exact) < 0.01 * abs(exact)
    assert lines[3].endswith("float64 1.00")
