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


def with_intervals():
    rows = TABLE.rows.copy()
    known = rows["metric"] != "num_parameters"
    rows["lower"], rows["upper"] = (rows["score"] - 0.2).where(known), (rows["score"] + 0.1).where(known)
    uncertainty = {"num_resamples": 50, "metric": "knn", "probability_best": {"b": 0.9, "a": 0.1}}
    return ScoreTable(rows=rows, details={**TABLE.details, "uncertainty": uncertainty})


def test_intervals_are_written_where_there_are_any(tmp_path):
    tables.write_csv(TABLE, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines()[0] == "source,target,metric,score,rank"
    table = with_intervals()
    tables.write_csv(table, tmp_path / "x.csv")
    frame = pd.read_csv(tmp_path / "x.csv")
    assert list(frame.columns[-2:]) == ["lower", "upper"]
    assert frame["lower"].tolist()[:2] == [0.25 - 0.2, 0.5 - 0.2]
    lines = tables.ranking_text(table).splitlines()
    assert [line.split()[2:5] for line in lines] == [
        ["knn", "95%", "P(best)"],
        ["0.500", "0.300..0.600", "0.90"],
        ["0.250", "0.050..0.350", "0.10"],
    ]
    assert tables.verdict(table).endswith("the best by knn is b with probability 0.90; a 0.10.")


def test_plot_draws_intervals(tmp_path):
    plots.plot_ranking(TABLE, tmp_path / "without.png")
    plots.plot_ranking(with_intervals(), tmp_path / "with.png")
    dark = []
    for name in ("without.png", "with.png"):
        with Image.open(tmp_path / name) as picture:
            dark.append(sum(pixel == (0x33, 0x33, 0x33) for pixel in picture.convert("RGB").get_flattened_data()))
    assert dark[1] > dark[0] + 50, "pixels of the intervals' colour"


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
