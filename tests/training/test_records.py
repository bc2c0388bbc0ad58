"""Tables of runs, event files, and fine-tuned networks as sources."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types

import jax
import numpy as np
import pandas as pd
import pytest

from tests.training import tiny
from transferjax import models, published
from transferjax._validate import InputError
from transferjax.training import grids, records
from transferjax.training.export import fine_tuned_source
from transferjax.training.finetune import Run, fine_tune
from transferjax.training.recipes import FineTuning, Settings
from transferjax.training.tracking import EventFiles, log_to_mlflow

RECIPE = FineTuning(epochs=2, batch_size=8, augmentation="none")


def run(status="finished", rate=0.1, seed=0, val_auc=0.8, test_auc=0.7):
    failed = status == "failed"
    nan = math.nan
    return Run(
        source="photos",
        settings=Settings(learning_rate=rate, seed=seed),
        status=status,
        last_epoch=1,
        best_epoch=-1 if failed else 0,
        val_loss=nan if failed else 1 - val_auc,
        val_auc=nan if failed else val_auc,
        val_accuracy=nan if failed else 0.5,
        test_loss=nan if failed else 0.4,
        test_auc=nan if failed else test_auc,
        test_accuracy=nan if failed else 0.6,
        seconds=1.5,
        history=np.array([[0.9, 0.8, 0.7, 0.6], [nan if failed else 0.5, 0.4, 0.3, 0.2]], np.float32),
        variables=None,
    )


def rows(runs, keys=None):
    keys = keys or [f"key {place}" for place in range(len(runs))]
    return records.rows_of(runs, target="retina", scenario="source_dataset", recipe=RECIPE, keys=keys)


def test_rows_have_the_published_columns_and_more():
    table = rows([run(), run("failed", rate=10.0)])
    theirs = published.finetuning_runs()
    assert list(table.columns[: len(theirs.columns)]) == list(theirs.columns) == list(records.PUBLISHED)
    for name in theirs.columns:
        assert table[name].dtype == theirs[name].dtype, name
    joined = pd.concat([theirs.head(3), table[list(theirs.columns)]])
    assert list(joined.dtypes) == list(theirs.dtypes)
    good, failed = (table.iloc[i] for i in range(2))
    assert (good["last_epoch"], good["best_epoch"], good["status"]) == (1, 0, "finished")
    assert (good["val_auc"], good["test_acc"], good["learning_rate"], good["batch_size"]) == (0.8, 0.6, 0.1, 8)
    assert failed["status"] == "failed"
    missing = ["last_epoch", "val_loss", "val_auc", "val_acc", "test_loss", "test_auc", "test_acc"]
    assert failed[missing].isna().all()
    assert json.loads(good["versions"])["jax"] == jax.__version__
    assert json.loads(good["recipe"]) == dataclasses.asdict(RECIPE)


def test_a_table_grows_and_replaces(tmp_path):
    path = tmp_path / "runs.parquet"
    assert records.read(path).empty
    first = records.append(path, rows([run(), run("failed")]))
    pd.testing.assert_frame_equal(records.read(path), first)
    both = records.append(path, rows([run(val_auc=0.9)], keys=["key 1"]))
    assert list(both["key"]) == ["key 0", "key 1"]
    assert list(records.read(path)["status"]) == ["finished", "finished"]
    assert [file.name for file in tmp_path.iterdir()] == ["runs.parquet"]


def test_a_table_that_is_none(tmp_path):
    path = tmp_path / "runs.parquet"
    path.write_bytes(b"PAR1 something else")
    with pytest.raises(InputError, match=r"runs\.parquet: cannot be read"):
        records.read(path)
    pd.DataFrame({"source": ["a"]}).to_parquet(path)
    with pytest.raises(InputError, match="is no table of runs: without scenario"):
        records.append(path, rows([run()]))
    assert list(pd.read_parquet(path)["source"]) == ["a"]


def test_the_best_run_and_setting():
    table = rows([
        run("failed"), run(val_auc=0.8, test_auc=0.6), run(rate=0.2, val_auc=0.9, test_auc=0.5),
        run(rate=0.2, seed=1, val_auc=0.4, test_auc=0.9), run(seed=1, val_auc=0.7, test_auc=0.8),
    ])  # fmt: skip
    assert records.best(table)["learning_rate"] == 0.2
    assert records.best(table, "val_loss")["val_loss"] == pytest.approx(0.1)
    assert records.best(table[:1]) is None
    means = records.over_seeds(table[1:])
    assert list(means["learning_rate"]) == [0.1, 0.2]
    assert means.loc[0, "test_auc"] == pytest.approx(0.7)
    assert means.loc[0, "test_sd"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert list(records.over_seeds(table)["learning_rate"]) == [0.2, 0.1], "a setting that failed once comes last"


def test_keys_tell_what_changes_results():
    source = tiny.source()
    key = records.key_of(source, "a", RECIPE, Settings(learning_rate=0.1))
    assert key == records.key_of(source, "a", RECIPE, Settings(learning_rate=0.1))
    others = [
        (tiny.source(1), "a", RECIPE, Settings(learning_rate=0.1)),
        (source, "b", RECIPE, Settings(learning_rate=0.1)),
        (source, "a", dataclasses.replace(RECIPE, dropout=0.1), Settings(learning_rate=0.1)),
        (source, "a", RECIPE, Settings(learning_rate=0.1, seed=1)),
    ]
    assert len({key, *(records.key_of(*other) for other in others)}) == 5


def test_event_files_hold_the_curves(tmp_path):
    settings = [Settings(learning_rate=0.1), Settings(learning_rate=0.01)]
    files = EventFiles(tmp_path, settings, RECIPE)
    curves = np.arange(16, dtype=np.float32).reshape(2, 4, 2)
    files.on_epoch(0, curves[0], np.array([True, True]))
    files.on_epoch(1, curves[1], np.array([True, False]))
    files.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "all-bs8-lr0.01-m0.9-wd0-seed0", "all-bs8-lr0.1-m0.9-wd0-seed0",
    ]  # fmt: skip
    found = [scalars(tmp_path / records.run_name(one, RECIPE)) for one in settings]
    assert found[0] == {
        (name, epoch): float(curves[epoch, row, 0])
        for row, name in enumerate(("loss/train", "loss/val", "auc/val", "accuracy/val"))
        for epoch in (0, 1)
    }
    assert {epoch for _, epoch in found[1]} == {0}


def scalars(folder):
    """What TensorBoard would read: length, checksum, event, checksum, and again."""
    from tensorboardX.proto import event_pb2

    found = {}
    for file in folder.iterdir():
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_mlflow_is_told_or_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"mlflow: is not installed.*transferjax\[mlflow\]"):
        log_to_mlflow([run()], RECIPE, experiment="pair")
    told = []

    class Context:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            told.append(("end",))

    fake = types.SimpleNamespace(
        set_tracking_uri=lambda uri: told.append(("uri", uri)),
        set_experiment=lambda name: told.append(("experiment", name)),
        start_run=lambda run_name: told.append(("start", run_name)) or Context(),
        log_params=lambda params: told.append(("params", params)),
        log_metrics=lambda values, step=None: told.append(("metrics", step, values)),
        set_tag=lambda name, value: told.append((name, value)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    log_to_mlflow([run(), run("failed")], RECIPE, experiment="pair", location="file:x")
    assert told[:2] == [("uri", "file:x"), ("experiment", "pair")]
    params = next(values for kind, *values in told if kind == "params")[0]
    assert params["learning_rate"] == 0.1
    assert params["dropout"] == 0.5
    metrics = [entry for entry in told if entry[0] == "metrics"]
    assert metrics[0][1:] == (0, pytest.approx({
        "train_loss": 0.9, "val_loss": 0.8, "val_auc": 0.7, "val_accuracy": 0.6
    }))  # fmt: skip
    assert metrics[2][2]["best_test_auc"] == 0.7
    assert metrics[-1][2] == {}
    assert [entry for entry in told if entry[0] == "status"] == [("status", "finished"), ("status", "failed")]


def test_a_fine_tuned_network_is_a_source(tmp_path):
    data, source = tiny.splits(), tiny.source()
    (found,) = fine_tune(source, data, [Settings(learning_rate=0.05)], recipe=RECIPE)
    tuned = fine_tuned_source(source, found, data.train.class_names)
    models.save(tmp_path / "tuned.safetensors", tuned)
    again = models.load(tmp_path / "tuned.safetensors")
    assert again.weights_hash == tuned.weights_hash != source.weights_hash
    from transferjax.evaluation.classification import evaluate
    from transferjax.training import predict

    probabilities = predict(again, data.test)
    assert evaluate(probabilities, data.test.labels, "binary").auc == pytest.approx(found.test_auc, abs=1e-6)
    probe = dataclasses.replace(RECIPE, mode="probe")
    (found,) = fine_tune(source, data, [Settings(learning_rate=0.05)], recipe=probe)
    tuned = fine_tuned_source(source, found, data.train.class_names)
    same = jax.tree.map(np.array_equal, tuned.variables["batch_stats"], source.variables["batch_stats"])
    assert jax.tree.all(same)
    with pytest.raises(InputError, match="failed"):
        fine_tuned_source(source, run("failed"), ("a", "b"))


def test_grids():
    sizes, settings = grids.parse("paper")
    assert sizes is None
    assert len(settings) == 60
    runs = published.finetuning_runs()
    theirs = runs[(runs["source"] == "pathmnist") & (runs["target"] == "bloodmnist")]
    columns = ["learning_rate", "momentum", "weight_decay"]
    assert {tuple(row) for row in theirs[columns].itertuples(index=False)} == {
        (one.learning_rate, one.momentum, one.weight_decay) for one in settings
    }
    for target, n in (("breastmnist", 546), ("bloodmnist", 11_959)):
        of_target = runs[(runs["scenario"] == "source_dataset") & (runs["target"] == target)]
        assert sorted(of_target["batch_size"].unique()) == list(grids.paper_batch_sizes(n))
    sizes, settings = grids.parse("lr=0.1, 0.01;wd=0,1e-4; batch_size=32", seeds=(0, 1))
    assert sizes == (32,)
    assert [(s.learning_rate, s.momentum, s.weight_decay, s.seed) for s in settings[:3]] == [
        (0.1, 0.9, 0.0, 0), (0.1, 0.9, 0.0, 1), (0.1, 0.9, 1e-4, 0),
    ]  # fmt: skip
    assert len(grids.parse("small")[1]) == 6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no learning rate"),
        ("wd=0", "has no learning rate"),
        ("rate=0.1", "'rate=0.1' is unknown"),
        ("large", "'large' is unknown"),
        ("lr=a", "has what is no number"),
        ("lr=-1", "learning_rate: -1"),
        ("lr=0.1;momentum=1", "momentum: 1"),
        ("lr=0.1,0.1", "has a run twice"),
        ("lr=0.1;batch_size=1.5", "whole numbers"),
    ],
)
def test_grids_that_are_none(text, told):
    with pytest.raises(InputError, match=told):
        grids.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "most"}, {"epochs": 0}, {"dropout": 1.0}, {"augmentation": "much"}, {"precision": "float16"},
        {"accumulate": 3, "batch_size": 8}, {"monitor": "accuracy"}, {"data_seed": -1}, {"schedule": "linear"},
    ],
)  # fmt: skip
def test_recipes_that_are_none(wrong):
    with pytest.raises(InputError):
        FineTuning(**wrong)


def test_the_learning_rate_falls():
    cosine = FineTuning(epochs=4)
    assert [cosine.rate(epoch) for epoch in range(5)] == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0])
    step = FineTuning(schedule="step")
    assert [step.rate(epoch) for epoch in (0, 14, 15, 30)] == pytest.approx([1, 1, 0.1, 0.01])
    assert FineTuning(schedule="constant").rate(77) == 1
