"""Pre-training learns, repeats itself, and its script keeps what it has."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest
from absl.testing import flagsaver
from jax import export

from experiments import pretrain as script
from tests.conftest import SHORT
from transferjax import data, models
from transferjax.evaluation.classification import auc
from transferjax.training import Recipe, predict, pretrain
from transferjax.training.pretrain import State, make_step
from transferjax.types import Normalization, TargetDataset

RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.05)


def make(n=64, seed=0):
    """Bright above or bright below."""
    rng = np.random.default_rng(seed)
    labels = np.resize([0, 1], n).astype(np.int32)
    images = rng.integers(0, 100, (n, 28, 28, 3)).astype(np.uint8)
    images[labels == 0, :14] += 120
    images[labels == 1, 14:] += 120
    return TargetDataset(name="halves", images=images, labels=labels, class_names=("above", "below"), task="binary")


@pytest.fixture(scope="module")
def trained():
    module = models.get(SHORT).build(num_classes=2, width=4)
    return module, *pretrain(module, make(), recipe=RECIPE, normalization=Normalization(), rng=jax.random.key(0))


def test_learns(trained):
    module, variables, losses = trained
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    test = make(seed=1)
    probabilities = predict(module, variables, test, normalization=Normalization(), batch_size=50)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert auc(probabilities, test.labels) > 0.9


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_step_lowers_for(trained, platform):
    module, variables, _ = trained
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = State(**variables, opt_state=optimizer.init(variables["params"]))
    step = make_step(module, optimizer, Normalization())
    shapes = jax.ShapeDtypeStruct((4, 28, 28, 3), np.uint8), jax.ShapeDtypeStruct((4,), np.int32)
    assert export.export(step, platforms=[platform])(state, *shapes).platforms == (platform,)


def test_same_seed_same_bits(trained):
    module, variables, losses = trained
    again, again_losses = pretrain(module, make(), recipe=RECIPE, normalization=Normalization(), rng=jax.random.key(0))
    assert losses == again_losses
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, again))


@pytest.fixture(scope="module", autouse=True)
def _flags_parsed():
    script.flags.FLAGS(["test"])


def test_the_script_trains_what_is_not_there_yet(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "Recipe", lambda epochs: Recipe(epochs=epochs, batch_size=64))
    monkeypatch.setattr(script.Recipe, "epochs", 1, raising=False)
    with flagsaver.flagsaver(tasks=["faces", "random"], epochs=1, width=4, output_dir=str(tmp_path)):
        script.main(["pretrain"])
        first = capsys.readouterr().out
        written = (tmp_path / "faces.safetensors").stat().st_mtime_ns
        script.main(["pretrain"])
        second = capsys.readouterr().out
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert "faces: test AUC " in first
    assert "already there" not in first
    assert second.count("already there") == 2
    assert (tmp_path / "faces.safetensors").stat().st_mtime_ns == written
    assert list(manifest) == ["faces", "random"]
    source = models.load(tmp_path / "faces.safetensors")
    assert source.weights_hash == manifest["faces"]["weights_hash"]
    assert source.num_train_examples == len(data.load("faces")) == manifest["faces"]["train_examples"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.safetensors", "manifest.json"]
