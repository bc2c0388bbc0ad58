"""The suite gradients: operations counted by hand, the table, what was asked for."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import gradients
from tests.experiments.test_benchmark import run
from transferjax._validate import InputError


@pytest.mark.parametrize("size", [64, 224])
def test_operations_are_those_of_the_textbook(size):
    """ResNet-18 at 224 pixels takes 1.81 billion multiplications and additions for its convolutions."""
    counted = gradients.operations(size)
    assert len(counted) == 20
    if size == 224:
        assert counted.loc["conv1", "forward"] == 2 * 112 * 112 * 7 * 7 * 3 * 64
        assert counted.loc["layer1_0/conv1", "forward"] == 2 * 56 * 56 * 9 * 64 * 64
        np.testing.assert_allclose(counted["forward"].sum(), 2 * 1.8135e9, rtol=1e-3)
    total = counted.sum()
    assert counted.loc["conv1", "backward"] == 0
    assert (counted["kernel"] > 0).sum() == 2
    two = (total["forward"] + total["backward"] + total["kernel"]) / total["forward"]
    assert two <= 2.2  # asked for
    assert two + total["norm"] / total["forward"] <= 2.5


def test_a_tiny_run(tmp_path):
    path = tmp_path / "numbers.csv"
    flags = ["--suite=gradients", "--cells=28x2", "--rounds=1", "--seconds=0", "--variants=norms,forward"]
    done = run(*flags, "--long_lived", f"--output={path}")
    assert done.returncode == 0, done.stderr
    assert "Gradient of the two kernels: 2." in done.stdout
    table = pd.read_csv(path)
    assert list(table["variant"]) == ["norms", "forward"]
    assert (table["ours"] > 0).all()
    assert table["channels_last"].isna().all()


def test_a_process_that_fails_is_named():
    with pytest.raises(InputError, match=r"ended with 3: it broke"):
        gradients.in_process([sys.executable, "-c", "import sys; print('it broke', file=sys.stderr); sys.exit(3)"])
    lines = f"print({json.dumps({'a': 1})!r}); print({json.dumps({'a': 2})!r})"
    assert gradients.in_process([sys.executable, "-c", lines]) == [{"a": 1}, {"a": 2}]


def test_medians_and_ratios():
    job = gradients.Job(gradients.Cell(64, 32), "two")
    found = {
        (job, "ours"): [{"seconds": s, "temporaries": 2e6, "resident": 3e6} for s in (0.2, 0.1, 0.4)],
        (job, "channels_last"): [{"seconds": 0.1}],
    }
    row = gradients.summary(job, found, 1e12)
    assert row["ours"] == 200
    assert row["ours range"] == "100-400"
    assert row["ours/channels_last"] == 2
    assert math.isnan(row["ours/contiguous"])


@pytest.mark.parametrize("text", ["", "x", "64x", "64x3x2", "0", "big"])
def test_cells_that_are_none(text):
    with pytest.raises(InputError, match="cells"):
        gradients.cells_of([text])
    assert gradients.cells_of(["28", "64x183"]) == (gradients.Cell(28, 32), gradients.Cell(64, 183))
