"""README's "Add a model", run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tests.models.torch_files import write_zip
from transferjax import data, models
from transferjax.extraction import extract

README = Path(__file__).parents[2] / "README.md"


def test_the_example_is_all_that_it_takes(tmp_path, monkeypatch):
    code = re.search(r"### Add a model.*?```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    assert len(code.splitlines()) <= 40
    rng = np.random.default_rng(0)
    state, channels = {}, 3
    for stage in range(3):
        outputs = 16 * 2**stage
        state[f"features.{stage}.0.weight"] = rng.standard_normal((outputs, channels, 3, 3)) / 3
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"features.{stage}.1.{leaf}"] = rng.uniform(0.5, 1, outputs)
        state[f"features.{stage}.1.num_batches_tracked"] = np.asarray(3)
        channels = outputs
    state |= {"head.weight": rng.standard_normal((5, channels)), "head.bias": rng.standard_normal(5)}
    write_zip(tmp_path / "tinynet.pth", {key: np.asarray(array) for key, array in state.items()})
    monkeypatch.chdir(tmp_path)
    before = set(models.names())
    names = {}
    try:
        exec(compile(code, "README.md", "exec"), names)
        source = names["source"]
        assert set(models.names()) - before == {"tinynet"}
        pair = extract(source, data.load("mri_tissue").take(np.arange(0, 300, 6)), gradients="batch")
        assert pair.features.shape == (50, 64)
        assert pair.logits.shape == (50, 5)
        assert np.asarray(pair.gradients.batch_norms).max(axis=0).min() > 0
    finally:
        models._registry._specs().pop("tinynet", None)
