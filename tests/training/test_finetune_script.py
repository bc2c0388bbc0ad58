"""experiments/finetune.py: what it trains, prints, writes and refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

from tests.training import scripts, tiny
from transferjax import models
from transferjax._validate import InputError
from transferjax.training import records

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    with scripts.alone("experiments.finetune") as module:
        yield module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A source in a file, and a target that comes without splits."""
    folder = tmp_path_factory.mktemp("files")
    models.save(folder / "mine.safetensors", tiny.source())
    data = tiny.target(60, classes=3)
    np.savez(folder / "colours.npz", train_images=data.images, train_labels=data.labels[:, None].astype(np.uint8))
    return folder


@pytest.fixture
def run(script, files, tmp_path, capsys):
    def run(**changes):
        wanted = {
            "source": str(files / "mine.safetensors"),
            "target": str(files / "colours.npz"),
            "workdir": str(tmp_path / "out"),
            "grid": "lr=0.05,1e30",
            "epochs": 2,
            "batch_sizes": ["16"],
        }
        with flagsaver.flagsaver(**{**wanted, **changes}):
            script.main(["finetune"])
        return capsys.readouterr().out

    run.folder = tmp_path / "out" / "mine-on-colours"
    return run


def test_trains_prints_and_writes(run):
    out = run(seeds=["0", "1"])
    assert "colours comes without val and test: 6 for val, 12 for test were taken, --split_seed=0." in out
    table = records.read(run.folder / "runs.parquet")
    assert list(table["status"]) == ["finished", "failed"] * 2
    assert list(table["seed"]) == list(table["data_seed"]) == [0, 0, 1, 1]
    assert set(table["source"]) == {"mine"}
    best = records.best(table)
    assert f"Best by validation AUC: test AUC {best['test_auc']:.4f}" in out
    assert "over 2 seeds" in out
    assert f"Wrote runs.parquet to {run.folder}" in out
    tuned = models.load(run.folder / "best.safetensors")
    assert tuned.variables["params"]["fc"]["bias"].shape == (3,)
    assert len(list((run.folder / "tensorboard").iterdir())) == 4
    assert list((run.folder / "checkpoints").iterdir()) == []


def test_what_is_there_is_not_trained_again(script, run, monkeypatch):
    run(grid="lr=0.05", mode="probe", tensorboard=False)
    before = records.read(run.folder / "runs.parquet")
    asked = []
    real = script.populations
    monkeypatch.setattr(script, "populations", lambda *args, **kwargs: asked.append(args[2]) or real(*args, **kwargs))
    out = run(grid="lr=0.05", mode="probe", tensorboard=False)
    assert "1 runs are there" in out
    assert asked == []
    run(grid="lr=0.05,0.1", mode="probe", tensorboard=False)
    assert [[one.learning_rate for one in settings] for settings in asked] == [[0.1]]
    after = records.read(run.folder / "runs.parquet")
    assert len(after) == 2
    assert after.iloc[0].equals(before.iloc[0])
    assert not (run.folder / "tensorboard").exists()


def test_all_failed_is_told(run):
    out = run(grid="lr=1e30")
    assert "All runs failed" in out
    assert not (run.folder / "best.safetensors").exists()


def test_mlflow_is_logged_to(script, run, monkeypatch):
    told = []
    monkeypatch.setattr(script, "log_to_mlflow", lambda runs, recipe, **named: told.append((len(runs), named)))
    run(mode="probe", mlflow=True, mlflow_uri="file:somewhere", tensorboard=False)
    assert told == [(2, {"experiment": "mine-on-colours", "location": "file:somewhere"})]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": ["a"]}, "seeds: 'a'"),
        ({"seeds": []}, "seeds: ''"),
        ({"batch_sizes": ["0"]}, "batch_sizes: '0'"),
        ({"mode": "probe", "augmentation": "mild"}, "augmentation: 'mild' with --mode=probe"),
        ({"grid": "wd=0"}, "has no learning rate"),
        ({"accumulate": 3}, "accumulate: 3 parts of 16 images"),
        ({"source": "nothing"}, "nothing"),
    ],
)
def test_flags_that_are_none(run, changes, told):
    with pytest.raises(InputError, match=told):
        run(**changes)


def test_ctrl_c_ends_with_one_message_and_a_checkpoint(tmp_path):
    command = [
        sys.executable, "-m", "experiments.finetune", "--source=photos", "--target=faces", "--mode=probe",
        "--grid=lr=0.1", "--epochs=100000", "--patience=100000", "--checkpoint_seconds=0", f"--workdir={tmp_path}",
        "--notensorboard",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "photos-on-faces" / "checkpoints"
    deadline = time.monotonic() + 120
    while not [name for name in folder.glob("*/*") if name.name.isdecimal()] and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "Interrupted." in errors
    assert "Traceback" not in errors
    whole = [name for name in folder.glob("*/*") if name.name.isdecimal()]
    assert 1 <= len(whole) <= 2, "the last one, and the one before if there was no time to remove it"
    assert all(os.listdir(checkpoint) for checkpoint in whole)
    assert not (tmp_path / "photos-on-faces" / "runs.parquet").exists()
