from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest


def run(*arguments):
    command = [sys.executable, "-m", "experiments.evaluate_scores", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def files(tmp_path):
    sources, targets = "abcde", ("x", "y", "z")
    rows = [(s, t, m, i * (1 if m == "good" else -1) + j) for m in ("good", "bad", "num_parameters")
            for i, s in enumerate(sources) for j, t in enumerate(targets)]  # fmt: skip
    truth = [(s, t, 0.5 + 0.1 * i) for i, s in enumerate(sources) for t in targets]
    pd.DataFrame(rows, columns=["source", "target", "metric", "score"]).to_csv(tmp_path / "scores.csv", index=False)
    pd.DataFrame(truth, columns=["source", "target", "auc"]).to_csv(tmp_path / "truth.csv", index=False)
    return tmp_path


def test_own_scores(files):
    out = files / "out"
    result = run(
        f"--scores={files / 'scores.csv'}", f"--ground_truth={files / 'truth.csv'}", f"--workdir={out}",
        "--num_resamples=20",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(out / "measures.csv").groupby("metric")["weighted_kendall"].mean()
    assert table.to_dict() == pytest.approx({"good": 1, "bad": -1, "num_parameters": -1})
    assert "num_parameters (control)" in (out / "summary.md").read_text()
    assert sorted(path.name for path in out.iterdir()) == [
        "critical_difference.png",
        "mean_tau.csv",
        "mean_tau.png",
        "measures.csv",
        "nemenyi.csv",
        "summary.md",
    ]
    assert f"are in {out}" in result.stdout


def test_published_scores(tmp_path):
    result = run(f"--workdir={tmp_path}", "--num_resamples=5")
    assert result.returncode == 0, result.stderr
    assert "| combined | 0.523 |" in result.stdout
    assert "| mean_rank_elsewhere (control) | 0.561 |" in result.stdout
    assert "| combined | 0.251 |" in (tmp_path / "source_dataset_twelve_single_sets" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop(columns="metric"), "has no column metric"),
        (lambda s: s.assign(score="many"), "score is many in row 2"),
        (lambda s: s.assign(target="other " + s["target"]), "no source and target of them has a performance"),
        (lambda s: pd.concat([s, s]), "occurs more than once"),
        (None, "cannot be read"),
    ],
)
def test_bad_files(files, change, message):
    path = files / "scores.csv"
    if change is None:
        path.unlink()
    else:
        change(pd.read_csv(path)).to_csv(path, index=False)
    out = files / "out"
    result = run(f"--scores={path}", f"--ground_truth={files / 'truth.csv'}", f"--workdir={out}")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists() or not list(out.iterdir())


def test_one_file_alone(files):
    result = run(f"--scores={files / 'scores.csv'}")
    assert result.returncode == 1
    assert "only one of them is given" in result.stderr
