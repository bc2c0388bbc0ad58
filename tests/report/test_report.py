from __future__ import annotations

import json

import pandas as pd
from PIL import Image

from transferjax.report import plots, tables
from transferjax.types import ScoreTable


def make(scores):
    rows = []
    for metric, values in scores.items():
        part = pd.Series(values)
        for source, score in values.items():
            rank = int(part.rank(ascending=False, method="min")[source])
            rows.append({"source": source, "target": "t", "metric": metric, "score": score, "rank": rank})
    frame = pd.DataFrame(rows).assign(lower=float("nan"), upper=float("nan"))
    return ScoreTable(rows=frame, details={"lead": None, "seed": 0})


TABLE = make({"knn": {"a": 0.25, "b": 0.5}, "logme": {"a": -1.0, "b": -2.5}, "num_parameters": {"a": 704_496.0}})


def test_text_puts_the_best_first_and_aligns():
    lines = tables.ranking_text(TABLE).splitlines()
    assert [line.split() for line in lines] == [
        ["rank", "source", "knn", "logme", "num_parameters"],
        ["1", "b", "0.500", "-2.500", "-"],
        ["2", "a", "0.250", "-1.000", "704,496"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_csv_keeps_all_digits(tmp_path):
    table = make({"knn": {"a": 1 / 3, "b": 0.1}})
    tables.write_csv(table, tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert [float(line.split(",")[3]) for line in lines[1:]] == [1 / 3, 0.1]


def test_json_is_strict(tmp_path):
    tables.write_json(TABLE, tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda c: 1 / 0)
    assert content["scores"][0]["lower"] is None
    assert content["verdict"].startswith("By knn alone, fine-tune b (0.500)")


def test_plot_of_positive_negative_and_constant_scores(tmp_path):
    table = make({"m": {"a$_$": 0.0, "b": 0.0}, "n": {"a$_$": -1.0, "b": -1.0}, "o": {"a$_$": 2.0, "b": 5.0}})
    plots.plot_ranking(table, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[0] > picture.size[1] > 200
