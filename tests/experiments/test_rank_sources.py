"""The script as its users run it: what it prints and writes, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from PIL import Image

from transferjax import models, published

ROOT = Path(__file__).parent.parent.parent
SOURCES = "photos,digits,random"


def run(*flags, module="experiments.rank_sources"):
    return subprocess.run([sys.executable, "-m", module, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def arrays():
    """A small target in MedMNIST's layout."""
    rng = np.random.default_rng(0)
    labels = np.resize([0, 0, 1, 1, 1, 2, 2, 2, 0], 36).astype(np.uint8)
    images = (rng.integers(0, 256, (36, 28, 28)) // 2 + 20 * labels[:, None, None]).astype(np.uint8)
    return {"train_images": images, "train_labels": labels[:, None]}


@pytest.fixture(scope="module")
def finished(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    np.savez(folder / "mine.npz", **arrays)
    flags = [f"--target={folder / 'mine.npz'}", f"--sources={SOURCES}", f"--workdir={folder / 'out'}"]
    return folder, flags, run(*flags)


def test_prints_the_ranking_and_what_to_do(finished):
    folder, _, result = finished
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Target mine: 36 training images of 3 classes."
    header = lines[2].split()
    expected = ["rank", "source", "combined", "feature_quality", "gradient_ratio", "leep", "logme", "knn"]
    assert header == [*expected, "num_parameters", "source_set_size"]
    assert {line.split()[1] for line in lines[3:6]} == {"photos", "digits", "random"}
    assert len({len(line) for line in lines[2:6]}) == 1, "aligned"
    assert lines[7].startswith(("Fine-tune ", "No lead: "))
    assert f"Wrote ranking.csv, ranking.json and ranking.png to {folder / 'out'}" in lines[-1]


def test_writes_table_details_and_picture(finished):
    folder, _, _ = finished
    rows = pd.read_csv(folder / "out" / "ranking.csv")
    assert list(rows.columns) == ["source", "target", "metric", "score", "rank"]
    assert len(rows) == 3 * 8
    details = json.loads((folder / "out" / "ranking.json").read_text())
    assert {"versions", "seed", "seconds", "sources", "target", "verdict", "scores", "backend"} <= set(details)
    assert len(details["target"]["hash"]) == 64
    assert [row["score"] for row in details["scores"]] == rows["score"].tolist()
    with Image.open(folder / "out" / "ranking.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {"cache", "ranking.csv", "ranking.json", "ranking.png"}


def test_two_runs_write_the_same_csv(finished, tmp_path):
    folder, flags, _ = finished
    before = (folder / "out" / "ranking.csv").read_bytes()
    for workdir in (folder / "out", tmp_path):  # from the cache, and without one
        result = run(*flags[:2], f"--workdir={workdir}")
        assert result.returncode == 0, result.stderr
        assert (workdir / "ranking.csv").read_bytes() == before


def test_folder_and_own_weights(arrays, tmp_path):
    for index, (image, label) in enumerate(zip(arrays["train_images"], arrays["train_labels"][:, 0], strict=True)):
        folder = tmp_path / "mine" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    mine = models.random_source("mine", "resnet18", num_classes=2, seed=5, width=4)
    models.save(tmp_path / "own.safetensors", mine)
    result = run(
        f"--target={tmp_path / 'mine'}",
        f"--sources=photos,resnet18:{tmp_path / 'own.safetensors'}",
        "--metrics=leep,knn",
        f"--workdir={tmp_path / 'out'}",
    )
    assert result.returncode == 0, result.stderr
    rows = pd.read_csv(tmp_path / "out" / "ranking.csv")
    assert set(rows["source"]) == {"photos", "own"}
    assert set(rows["metric"]) >= {"leep", "knn"}


def test_what_was_measured_of_demo_sources_is_told(tmp_path):
    """Not of another network of the same name."""
    models.save(tmp_path / "photos.safetensors", models.load("photos"))
    flags = ["--target=nuclei", f"--sources={tmp_path / 'photos.safetensors'},digits,random", "--metrics=logme"]
    result = run(*flags, "--max_examples_per_class=10", f"--workdir={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    (measured,) = [line for line in result.stdout.splitlines() if line.startswith("Measured")]
    known = published.load_demo().test_auc
    for name in ("digits", "random"):
        (row,) = known[(known["source"] == name) & (known["target"] == "nuclei")].itertuples()
        assert f"{name} {row.test_auc:.3f} ± {row.std_over_seeds:.3f}" in measured
    assert "photos" not in measured


def test_several_labels(arrays, tmp_path):
    labels = np.eye(4, dtype=np.int8)[arrays["train_labels"][:, 0]]
    labels[:, 3] = np.arange(36) < 3
    labels[::5, 0] = 1
    labels[1::6, 1] = -1
    names = np.array(["mass", "nodule", "effusion", "hernia"])
    np.savez(tmp_path / "chest.npz", train_images=arrays["train_images"], train_labels=labels, class_names=names)
    result = run(
        f"--target={tmp_path / 'chest.npz'}",
        "--sources=photos,random",
        "--metrics=gradient_ratio,leep,knn",
        f"--workdir={tmp_path / 'out'}",
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Target chest: 36 training images with 3 labels."
    assert lines[1] == "Left out, since fewer than 6 images have or lack them: hernia (3 with, 33 without)."
    assert lines[3].split()[:5] == ["rank", "source", "gradient_ratio", "leep", "knn"]
    assert {line.split()[1] for line in lines[4:6]} == {"photos", "random"}
    details = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert details["target"]["class_names"] == ["mass", "nodule", "effusion"]
    assert details["target"]["labels_left_out"] == {"hernia": {"with": 3, "without": 33}}
    rows = pd.read_csv(tmp_path / "out" / "ranking.csv")
    assert np.isfinite(rows["score"]).all()
    with Image.open(tmp_path / "out" / "ranking.png") as picture:
        assert picture.format == "PNG"


def test_resamples(arrays, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    result = run(
        f"--target={tmp_path / 'mine.npz'}",
        "--sources=photos,random",
        "--metrics=knn,leep",
        "--bootstrap=20",
        f"--workdir={tmp_path / 'out'}",
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[2].split() == ["rank", "source", "knn", "95%", "P(best)", "leep", "num_parameters", "source_set_size"]
    details = json.loads((tmp_path / "out" / "ranking.json").read_text())
    shares = details["uncertainty"]["probability_best"]
    assert set(shares) == {"photos", "random"}
    assert sum(shares.values()) == pytest.approx(1)
    for line in lines[3:5]:
        _, source, score, interval, share, *_ = line.split()
        lower, upper = map(float, interval.split(".."))
        assert lower <= float(score) <= upper
        assert share == f"{shares[source]:.2f}"
    assert "In 20 resamples of the target's examples, the best by knn is " in result.stdout
    rows = pd.read_csv(tmp_path / "out" / "ranking.csv").set_index("metric")
    scored = rows.loc[["knn", "leep"]]
    assert (scored["lower"] <= scored["score"]).all()
    assert (scored["score"] <= scored["upper"]).all()
    assert (scored["lower"] < scored["upper"]).any()
    assert rows.drop(["knn", "leep"])[["lower", "upper"]].isna().all(axis=None)


def bad_npz(case):
    def write(path, arrays):
        arrays = {name: array.copy() for name, array in arrays.items()}
        if case == "missing":
            del arrays["train_labels"]
        elif case == "negative":
            arrays["train_labels"] = arrays["train_labels"].astype(int) - 1
        elif case == "above":
            arrays["class_names"] = np.array(["a", "b"])
        elif case == "nan":
            arrays["train_images"] = arrays["train_images"].astype(np.float32)
            arrays["train_images"][3, 2, 1] = np.nan
        elif case == "one class":
            arrays["train_labels"][:] = 0
        elif case == "small class":
            arrays["train_labels"][:] = np.arange(36)[:, None] < 5
        np.savez(path, **arrays)
        if case == "truncated":
            path.write_bytes(path.read_bytes()[:3000])

    return write


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("missing", ["no array train_labels"]),
        ("negative", ["train_labels", "-1"]),
        ("above", ["train_labels", "2"]),
        ("nan", ["train_images", "NaN"]),
        ("one class", ["train_labels", "class"]),
        ("small class", ["5", "6"]),
        ("truncated", []),
    ],
)
def test_npz_that_cannot_be_used(arrays, tmp_path, case, parts):
    bad_npz(case)(tmp_path / "bad.npz", arrays)
    check_refused(tmp_path, f"--target={tmp_path / 'bad.npz'}", parts=["bad.npz", *parts])


def check_refused(tmp_path, *flags, parts):
    """One message, exit code 1, no traceback, and nothing written."""
    result = run(*flags, f"--workdir={tmp_path / 'out'}")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == []


def test_unknown_names(tmp_path):
    check_refused(tmp_path, "--target=mri_tisue", parts=["target: 'mri_tisue' is unknown", "mri_tissue", "nuclei"])
    check_refused(tmp_path, "--sources=photos,imagnet", parts=["sources: 'imagnet' is unknown", "photos", "resnet50"])
    check_refused(tmp_path, "--metrics=leap", parts=["metrics: 'leap' is unknown", "leep"])
    check_refused(tmp_path, "mri_tissue", parts=["'mri_tissue' is not a flag"])


def test_weights_that_do_not_fit(tmp_path, model_goldens):
    state = dict(model_goldens["resnet18"][0])
    del state["bn1.weight"]
    state["more"] = np.ones(3, np.float32)
    state["fc.weight"] = np.ascontiguousarray(state["fc.weight"].T)
    path = tmp_path / "bad.safetensors"
    safetensors.numpy.save_file(state, path)
    parts = ["bad.safetensors", "3 tensors", "missing: bn1.weight", "unexpected: more", "misshapen: fc.weight"]
    check_refused(tmp_path, f"--sources=photos,resnet18:{path}", parts=parts)


def test_folder_with_an_unreadable_image(arrays, tmp_path):
    for index, label in enumerate(arrays["train_labels"][:, 0]):
        folder = tmp_path / "mine" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(arrays["train_images"][index]).save(folder / f"{index}.png")
    broken = tmp_path / "mine" / "class1" / "2.png"
    broken.write_bytes(broken.read_bytes()[:100])
    check_refused(tmp_path, f"--target={tmp_path / 'mine'}", parts=[str(broken)])


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    result = run(f"--workdir={tmp_path / 'file' / 'out'}")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: workdir: ")
    assert "Traceback" not in result.stderr
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("moment", ["importing", "compiling", "working"])
def test_ctrl_c(tmp_path, moment):
    workdir = tmp_path / "out"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if moment == "compiling":
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = [sys.executable, "-m", "experiments.rank_sources", f"--workdir={workdir}"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        libraries = Path(f"/proc/{process.pid}/maps")

        def is_time():
            if moment == "working":  # the first source is done
                return list(workdir.glob("cache/*.safetensors"))
            if moment == "compiling":  # the first source has begun
                return (workdir / "cache").exists() and time.sleep(2) is None
            return "jaxlib" in libraries.read_text() if libraries.exists() else time.sleep(1.5) is None

        deadline = time.monotonic() + 120
        while not is_time() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert b"Interrupted." in err
    assert b"Fine-tune" not in out
    left = {path.name for path in workdir.iterdir()} if workdir.exists() else set()
    assert left <= {"cache"}
    if moment != "importing":  # what was finished is kept, and nothing is half-written
        assert all(path.suffix == ".safetensors" and not path.name.startswith(".") for path in workdir.glob("cache/*"))
