"""The demo benchmark: what the package has is not made again, what it has not is, and nothing is lost between."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from absl.testing import flagsaver

from tests.training import scripts, tiny
from transferjax import models
from transferjax.training import PRETRAINING, Run, records


@pytest.fixture(scope="module")
def script():
    with scripts.alone("experiments.run_demo_benchmark") as module:
        yield module


def runs_of(source, settings):
    return [
        Run(
            source=source.name, settings=one, status="finished", last_epoch=1, best_epoch=1, val_loss=0.5, val_auc=0.8,
            val_accuracy=0.7, test_loss=0.6, test_auc=0.75, test_accuracy=0.7, seconds=1.0,
            history=np.zeros((2, 4), np.float32), variables=None,
        )
        for one in settings
    ]  # fmt: skip


def test_the_package_has_all_of_it(script, tmp_path, monkeypatch, capsys):
    """The first command trains and scores nothing."""

    def never(*_args, **_kwargs):
        raise AssertionError

    for name in ("populations", "pretrain", "rank_sources"):
        monkeypatch.setattr(script, name, never)
    monkeypatch.setattr(script.evaluate_scores, "evaluate", lambda *_, **__: "evaluated")
    with flagsaver.flagsaver(workdir=str(tmp_path)):
        script.main([])
    assert "evaluated" in capsys.readouterr().out
    runs, study = pd.read_csv(tmp_path / "runs.csv.gz"), script.published.load_demo()
    assert set(runs["key"]) == set(study.runs["key"])
    auc = pd.read_csv(tmp_path / "auc.csv")
    pd.testing.assert_frame_equal(auc, study.test_auc[list(auc.columns)], check_dtype=False)
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert len(scores) == len(study.scores)
    for target in set(study.test_auc["target"]):  # committed scores are of all metrics there are
        listed = set(scores["metric"][scores["target"] == target])
        assert {*script.metrics.OVER_CANDIDATES, *script.metrics.names()} <= listed | {"gradient_ratio"}


def test_a_run_that_is_not_there_is_made_and_the_others_kept(script, tmp_path, monkeypatch):
    splits, known, new = tiny.splits(), tiny.source(), dataclasses.replace(tiny.source(seed=1), name="new")
    known = dataclasses.replace(known, name="known")
    target_hash = script.hash_of(splits)
    of_known = [records.key_of(known, target_hash, script.RECIPE, one) for one in script.SETTINGS]
    told = {"target": "t", "scenario": "demo", "recipe": script.RECIPE}
    packaged = records.rows_of(runs_of(known, script.SETTINGS), keys=of_known, **told)
    monkeypatch.setattr(script, "packaged_runs", lambda: packaged)
    asked = []

    def train(sources, _splits, settings, **_):
        asked.append([source.name for source in sources])
        yield [run for source in sources for run in runs_of(source, settings)]

    monkeypatch.setattr(script, "populations", train)
    for _ in range(2):
        found = script.fine_tuned("t", splits, [known, new], tmp_path)
        assert found["source"].value_counts().to_dict() == {"known": 6, "new": 6}
    assert asked == [["new"]]


def test_a_source_is_made_again_if_it_is_to_be_made_of_something_else(script, tmp_path, monkeypatch):
    made = []

    def train(architecture, splits, *, how, options, **_):
        made.append(how.settings.seed)
        source = models.random_source(
            "mine", architecture, num_classes=splits.train.num_classes, seed=how.settings.seed, **options
        )
        return source, None

    monkeypatch.setattr(script, "pretrain", train)
    splits, how = tiny.splits(), PRETRAINING["single"]

    def get(how):
        return script.made("mine", tmp_path / "sources", recipe="single", how=how, splits=splits)

    first, again, other = get(how), get(how), get(how.seeded(3))
    assert made == [0, 3]
    assert first.weights_hash == again.weights_hash != other.weights_hash
    assert list(json.loads((tmp_path / "sources" / "sources.json").read_text())) == ["mine"]


def test_other_runs_other_scores(script, tmp_path, monkeypatch):
    """They are read again if they are of the same runs."""
    asked = []

    class Table:
        rows = pd.DataFrame({"source": ["a"], "metric": ["knn"], "score": [0.5]})

    def rank(*_args, **_kwargs):
        asked.append(1)
        return Table

    monkeypatch.setattr(script, "rank_sources", rank)
    for keys in (["1"], ["1"], ["2"]):
        found = script.scored("t", tiny.splits(), [], keys, tmp_path)
        assert found["target"].tolist() == ["t"]
    assert len(asked) == 2
