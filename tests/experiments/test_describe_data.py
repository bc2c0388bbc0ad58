"""describe_data as a user runs it: the card, the sheet, and one message for what is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent


def run(*flags):
    command = [sys.executable, "-m", "experiments.describe_data", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Patients with two images each; the last of those for training is in test too, and so is one image."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    for i in range(26):
        size = (20, 30) if i == 3 else (24, 24)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "25.png").write_bytes((folder / "5.png").read_bytes())
    rows = pd.DataFrame({"image": [f"{i}.png" for i in range(26)], "label": ["mole", "scar"] * 13})
    rows["split"] = ["train"] * 20 + ["test"] * 6
    rows["group"] = [0, *(i // 2 for i in range(1, 20)), *[9, 9, 11, 11, 12, 12]]
    rows.to_csv(folder / "cases.csv", index=False)
    return folder


def test_card_and_sheet(table, tmp_path):
    result = run(f"--target={table / 'cases.csv'}", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    for part in (
        "cases: 2 classes.",
        "mole    10    3",
        "all     20    6",
        "train: 20 images of 224 x 224 pixels (height x width), in 10 groups.",
        "test: 6 images of 224 x 224 pixels (height x width), in 3 groups.",
        "Grey images",
        "the largest class has 1 times",
        "LEAK: 1 images of test are in train too.",
        "LEAK: 1 groups are in both train and test.",
        f"Wrote card.txt and contact_sheet.png to {tmp_path}",
    ):
        assert part in result.stdout
    assert "images of 2 sizes" in result.stderr
    assert (tmp_path / "card.txt").read_text() in result.stdout
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 800


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target=no/such"], "target: 'no/such' is unknown"),
        (["--window=40"], "window: 40. Give two numbers: centre,width."),
        (["--nifti_axis=3"], "nifti_axis: 3 is unknown"),
        (["--label_columns=diagnosis"], "label_columns: no column 'diagnosis'"),
    ],
)
def test_what_cannot_be_used_is_one_message(table, flags, message, tmp_path):
    if not flags[0].startswith("--target"):
        flags = [f"--target={table / 'cases.csv'}", *flags]
    result = run(*flags, f"--workdir={tmp_path / 'out'}")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
