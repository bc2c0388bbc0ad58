"""The script that turns weights into a file which says everything about itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.models.test_loading import state_of
from tests.models.torch_files import write_zip
from transferjax import models
from transferjax.types import Normalization

REPOSITORY = Path(__file__).parents[2]


def run(*flags):
    command = [sys.executable, "-m", "experiments.import_weights", *flags]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    state = state_of("shufflenet_v2_x0_5")
    state["conv1.1.num_batches_tracked"] = np.asarray(3)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    write_zip(path, {"state_dict": {f"module.{key}": array for key, array in state.items()}, "epoch": 7})
    return path


def test_reports_and_writes(weights, tmp_path):
    output = tmp_path / "out.safetensors"
    flags = ["--mean=.5,.5,.5", "--std=.25,.25,.25", "--channel_order=bgr", "--grey", "--size=64"]
    done = run("--architecture=shufflenet_v2_x0_5", f"--weights={weights}", f"--output={output}", *flags)
    assert done.returncode == 0, done.stderr
    source = models.load(output)
    assert source.normalization == Normalization(
        mean=(0.5,) * 3, std=(0.25,) * 3, channel_order="bgr", grey=True, size=64
    )
    for line in (
        f"shufflenet_v2_x0_5 from {weights}",
        "Tensors matched: 282; unmatched: none",
        "Dropped on purpose: 1",
        "1 x num_batches_tracked",
        "num_parameters: 341,792",
        "1024 features, norm",
        "3 logits, sum",
        f"Written to {output}",
    ):
        assert line in done.stdout, line
    assert models.load(weights_of(weights)).weights_hash == source.weights_hash


def weights_of(path):
    return f"shufflenet_v2_x0_5:{path}"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--architecture=resnet18"], "resnet18: "),
        (["--architecture=shufflenet_v2_x0_5", "--mean=1,b,2"], "mean: '1,b,2'. Give three numbers"),
        (["--architecture=shufflenet_v2_x0_5", "--output=x.pth"], "output: 'x.pth' does not end in .safetensors"),
        (["--architecture=lenet"], "'lenet' is unknown"),
    ],
)
def test_what_cannot_be_used_is_one_message(weights, flags, message):
    done = run(f"--weights={weights}", *flags)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
