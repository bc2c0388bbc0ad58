"""Checkpoints: whole or not there, and training that goes on to the same bits."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training import tiny
from transferjax._validate import InputError
from transferjax.training.checkpoints import Checkpoints
from transferjax.training.finetune import Where, fine_tune, populations
from transferjax.training.recipes import FineTuning, Settings

ROOT = Path(__file__).parents[2]
RECIPE = FineTuning(epochs=6, patience=3, batch_size=8, augmentation="mild")
MEMBERS = [Settings(learning_rate=rate, seed=seed) for rate in (0.001, 0.05) for seed in (0, 1)]


def tree(seed, size=300):
    rng = np.random.default_rng(seed)
    return {
        "a": {"kernel": rng.standard_normal((size, 3)).astype(np.float32), "nan": np.float32([np.nan, np.inf])},
        "b": (np.int32(seed), np.float64(1 / 3), np.array([True, False])),
    }


def save(checkpoints, epoch, size):
    checkpoints.save(epoch, tree(epoch, size))
    checkpoints.wait()


def same(one, other):
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(leaves, others, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def test_what_is_restored_is_what_was_saved_last(tmp_path):
    checkpoints = Checkpoints(tmp_path, seconds=0)
    assert checkpoints.restore(tree(0)) is None
    saved = tree(1)
    checkpoints.save(1, tree(0))
    checkpoints.save(2, saved)
    saved["a"]["kernel"][:] = 0  # what is saved is a copy
    checkpoints.close()
    again = Checkpoints(tmp_path)
    epoch, found = again.restore(tree(3))
    assert epoch == 2
    same(found, tree(1))
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"], "the one before is removed"


def test_when_one_is_due(tmp_path):
    always, rarely = (Checkpoints(tmp_path / name, seconds=s) for name, s in (("a", 0), ("b", 1000)))
    assert always.due()
    assert not rarely.due()
    always.close()
    rarely.close()


def test_another_structure_is_told(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(0))
    checkpoints.wait()
    with pytest.raises(InputError, match="checkpoint of epoch 1 cannot be read"):
        checkpoints.restore(tree(0, size=200))
    checkpoints.close()


def test_a_damaged_one_is_told(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(0))
    checkpoints.close()
    for file in (tmp_path / "1").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    damaged = Checkpoints(tmp_path)
    with pytest.raises(InputError, match=r"checkpoint of epoch 1 cannot be read.*Remove this folder"):
        damaged.restore(tree(0))
    damaged.close()


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("way", ["singly", "together"])
def test_what_was_interrupted_goes_on_to_the_same_bits(tmp_path, way):
    def run(folder, until=None):
        seen = []

        def on_epoch(epoch, *_):
            seen.append(epoch)
            if epoch == until:
                raise StoppedError

        where = Where(folder=folder, checkpoint_seconds=0, way=way)
        with contextlib.suppress(StoppedError):
            return seen, fine_tune(tiny.source(), tiny.splits(), MEMBERS, recipe=RECIPE, where=where, on_epoch=on_epoch)
        return seen, None

    _, whole = run(tmp_path / "whole")
    first, none = run(tmp_path / "parts", until=2)
    second, none_either = run(tmp_path / "parts", until=3)
    third, parts = run(tmp_path / "parts")
    assert none is none_either is None
    assert (first[0], second[0], third[0]) == (0, 2, 3), "each goes on after the last checkpoint"
    for one, other in zip(whole, parts, strict=True):
        assert one.status == other.status
        same(one.history, other.history)
        same(one.variables, other.variables)
        assert (one.test_auc, one.test_loss, one.val_auc) == (other.test_auc, other.test_loss, other.val_auc)
    again, results = run(tmp_path / "parts")
    assert again == [], "what has ended is not trained again"
    assert results[0].test_auc == parts[0].test_auc


def test_other_settings_or_data_begin_anew(tmp_path):
    seen = []
    recipe = FineTuning(epochs=1, batch_size=8, mode="probe", augmentation="none")
    where = Where(folder=tmp_path, checkpoint_seconds=0)
    for data, settings in [
        (tiny.splits(), MEMBERS[:1]),
        (tiny.splits(), MEMBERS[1:2]),
        (tiny.splits(n=26), MEMBERS[:1]),
        (tiny.splits(), MEMBERS[:1]),
    ]:
        before = len(seen)
        fine_tune(
            tiny.source(), data, settings, recipe=recipe, where=where, on_epoch=lambda epoch, *_: seen.append(epoch)
        )
        seen.append(len(seen) - before)
    assert seen == [0, 1, 0, 1, 0, 1, 0], "the last one was there"


def test_a_checkpoint_goes_when_its_runs_are_recorded(tmp_path):
    recipe = FineTuning(epochs=1, batch_size=8, mode="probe", augmentation="none")
    where = Where(folder=tmp_path, checkpoint_seconds=0, memory=1, keep=False)
    found = populations(tiny.source(), tiny.splits(), MEMBERS[:2], recipe=recipe, where=where)
    next(found)
    (first,) = tmp_path.iterdir()
    next(found)
    (second,) = tmp_path.iterdir()
    assert first != second
    found.close()  # an error or ctrl-C while they are entered
    assert second.exists()


def test_training_stops_on_a_full_disk_and_goes_on_later(tmp_path, monkeypatch):
    where = Where(folder=tmp_path, checkpoint_seconds=0)
    seen = []

    def on_epoch(epoch, *_):
        seen.append(epoch)
        if epoch == 2:
            monkeypatch.setattr(shutil, "disk_usage", usage(1000))

    def run(folder):
        return fine_tune(tiny.source(), tiny.splits(), MEMBERS[:1], recipe=RECIPE, where=folder, on_epoch=on_epoch)[0]

    with pytest.raises(InputError, match="the checkpoint after 2 epochs is kept"):
        run(where)
    monkeypatch.undo()
    assert seen == [0, 1, 2]
    del seen[:]
    monkeypatch.setattr(shutil, "disk_usage", usage(10**9))
    parts = fine_tune(
        tiny.source(), tiny.splits(), MEMBERS[:1], recipe=RECIPE, where=where, on_epoch=lambda e, *_: seen.append(e)
    )[0]
    assert seen[0] == 2
    (whole,) = fine_tune(tiny.source(), tiny.splits(), MEMBERS[:1], recipe=RECIPE)
    same(whole.variables, parts.variables)
    same(whole.history, parts.history)


def usage(free):
    return lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free)


def test_a_full_disk_is_told_and_the_last_one_kept(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(1))
    checkpoints.wait()
    monkeypatch.setattr(shutil, "disk_usage", usage(1000))
    with pytest.raises(InputError, match=r"cannot be written .*the checkpoint after 1 epochs is kept\. Make room"):
        checkpoints.save(2, tree(2))
    monkeypatch.undo()
    assert checkpoints.restore(tree(0))[0] == 1
    checkpoints.save(2, tree(2))
    checkpoints.close()
    last = Checkpoints(tmp_path)
    assert last.restore(tree(0))[0] == 2
    last.close()


BIG = 200_000


def write_too_much(folder):
    """Files are limited to less than a checkpoint: the system refuses the write, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    checkpoints = Checkpoints(folder)
    with pytest.raises(InputError, match="the checkpoint after 1 epochs is kept"):
        save(checkpoints, 2, BIG)


def test_a_write_that_fails_is_told_and_the_last_one_kept(tmp_path):
    """In a process of its own: as long as it lives, TensorStore's threads may go on with what Orbax has given up."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(1, BIG))
    checkpoints.close()
    child = f"from {__name__} import write_too_much; write_too_much({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", child], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    last = Checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    epoch, found = last.restore(tree(0, BIG))
    assert epoch == 1
    same(found, tree(1, BIG))
    last.close()


def session(folder, kind, epochs, *, kill=None, rng=None):
    """Runs the child; kills it `kill` epochs and a moment after it began to train. Returns the epochs it told of."""
    command = [sys.executable, "-m", "tests.training.kill_child", str(folder), kind, str(epochs)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []
    for line in process.stdout:
        seen.append(int(line))
        if kill is not None and len(seen) >= kill:
            time.sleep(rng.uniform(0, 0.15))  # somewhere in an epoch, a checkpoint, or between
            process.send_signal(signal.SIGKILL)
            break
    seen += [int(line) for line in process.stdout.read().split()]  # of the moment before it was killed
    errors = process.stderr.read()
    process.wait()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return seen, process.returncode


def killed_and_resumed(tmp_path, kind, epochs, kills):
    rng = np.random.default_rng(kills)
    done, returned = session(tmp_path / "whole", kind, epochs)
    assert (done, returned) == (list(range(epochs)), 0)
    killed, last = 0, -1
    for _ in range(kills):
        seen, returned = session(tmp_path / "parts", kind, epochs, kill=int(rng.integers(1, 4)), rng=rng)
        killed += returned == -signal.SIGKILL
        if seen:
            assert seen[0] <= last + 1, "no epoch is left out"
            last = max(last, seen[-1])
    assert killed == kills
    assert session(tmp_path / "parts", kind, epochs)[1] == 0
    whole, parts = (dict(np.load(tmp_path / name / "result.npz")) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)


@pytest.fixture
def parts(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_killed_twice_it_ends_with_the_same_bits(parts):
    killed_and_resumed(parts, "grid", epochs=12, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "grid"])
def test_killed_ten_times_it_ends_with_the_same_bits(parts, kind):
    killed_and_resumed(parts, kind, epochs=60, kills=10)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting takes root")
@pytest.mark.slow
def test_a_full_file_system_stops_with_one_message(tmp_path):
    """A file system of 2 MiB in memory, on which the second large checkpoint finds no room."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, tree(1, 60_000))
        checkpoints.wait()
        (tmp_path / "others").write_bytes(b"0" * 2**20)
        with pytest.raises(InputError, match="the checkpoint after 1 epochs is kept"):
            save(checkpoints, 2, 60_000)
        assert checkpoints.restore(tree(0, 60_000))[0] == 1
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
