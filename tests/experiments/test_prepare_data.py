"""The script that makes TFDS datasets, and what is there after it was killed at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.test_medmnist import check_same, message, write
from transferjax.data import medmnist

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "experiments.prepare_data"]


def run(*flags):
    return subprocess.run([*COMMAND, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def left(folder):
    """What killed runs left: no dataset."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("incomplete*"))


def test_prepares_and_says_so(tmp_path):
    made = {(name, size): write(tmp_path, name, size) for name in ("bloodmnist", "chestmnist") for size in (28, 64)}
    flags = ["--dataset=bloodmnist,chestmnist", f"--medmnist_root={tmp_path}", f"--data_dir={tmp_path}/tfds"]
    done = run(*flags, "--noverify")
    assert done.returncode == 0, done.stderr
    (first, second) = done.stdout.splitlines()
    assert first.startswith("bloodmnist 28: prepared in ")
    assert first.endswith(
        f"9 images (train 4, val 2, test 3), 8 classes, not the official numbers. {tmp_path}/tfds/bloodmnist/28/1.0.0"
    )
    assert "14 labels" in second
    assert done.stderr == ""
    done = run(*flags, "--noverify", "--size=28,64")
    assert done.returncode == 0, done.stderr
    assert [line.split(". ")[0].split(" in ")[0] for line in done.stdout.splitlines()] == [
        "bloodmnist 28: was prepared already",
        "chestmnist 28: was prepared already",
        "bloodmnist 64: prepared",
        "chestmnist 64: prepared",
    ]
    for (name, size), arrays in made.items():
        check_same(tmp_path, name, size, arrays)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dataset=all", "--size=28,224"], "pathmnist.npz, "),
        (["--dataset=bloodmnist", "--size=big"], "size: 'big'. Give some of 28, 64, 128, 224, or all."),
    ],
)
def test_what_cannot_be_done_is_one_message(tmp_path, flags, said):
    write(tmp_path, "bloodmnist", 28)
    done = run(*flags, f"--medmnist_root={tmp_path}", f"--data_dir={tmp_path}/tfds", "--noverify")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_script_leaves_nothing_or_all(tmp_path, number):
    made = write(tmp_path, "bloodmnist", 224, {"train": 400, "val": 2, "test": 2})
    flags = ["--dataset=bloodmnist", "--size=224", f"--medmnist_root={tmp_path}", f"--data_dir={tmp_path}/tfds"]
    process = subprocess.Popen(
        [*COMMAND, *flags, "--noverify"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("tfds/bloodmnist/224/incomplete*/*train*")) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(number)
    output, errors = process.communicate()
    assert output == ""
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 1)
    assert "Traceback" not in errors
    assert "is not prepared" in message(medmnist.open_medmnist, "bloodmnist", 224, data_dir=tmp_path / "tfds")
    assert bool(left(tmp_path / "tfds")) == (number == signal.SIGKILL)
    medmnist.prepare_medmnist(
        "bloodmnist", 224, medmnist_root=tmp_path, data_dir=tmp_path / "tfds", verify=False
    )  # as the script does, without its start
    check_same(tmp_path, "bloodmnist", 224, made)
    assert left(tmp_path / "tfds") == []


# A process that has imported everything makes children, which are stopped by a signal of their own at a moment: when
# they call a function for the n-th time, before it does anything or after it has done everything.
CHILDREN = """
import os, signal, sys, time
from pathlib import Path
from etils import epath
from transferjax.data import medmnist, _medmnist_builder as builder

root = Path(sys.argv[1])
info, folder = builder.tfds.core.DatasetInfo, type(epath.Path(root))

def stop_at(owner, name, call, number, after=False):
    function, calls = getattr(owner, name), []
    def replaced(*arguments, **options):
        calls.append(1)
        if len(calls) == call and not after:
            os.kill(os.getpid(), number)
        result = function(*arguments, **options)
        if len(calls) == call and after:
            os.kill(os.getpid(), number)
        return result
    setattr(owner, name, replaced)

def child(dataset, *moment):
    if pid := os.fork():
        return pid
    try:
        if moment:
            stop_at(*moment)
        medmnist.prepare_medmnist(dataset, 28, medmnist_root=root, data_dir=root / "tfds", verify=False)
    except BaseException as error:
        print("failed:", repr(error), flush=True)
        os._exit(1)
    os._exit(0)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def left():
    return len(list((root / "tfds").rglob("incomplete*")))

for owner, name, call, *after in [
    (builder, "_png", 1), (builder, "_png", 4), (builder, "_png", 9),
    (builder.np, "savez", 1), (builder.np, "savez", 1, True),
    (info, "write_to_directory", 1), (info, "write_to_directory", 1, True),
    (folder, "replace", 1), (folder, "rename", 1), (folder, "rename", 1, True),
]:
    status = ended(child("bloodmnist", owner, name, call, signal.SIGKILL, *after))
    there = medmnist.prepared_folder("bloodmnist", 28, data_dir=root / "tfds") is not None
    print(name, call, *after, status, there, left())
print("once more", ended(child("bloodmnist")), left())

first = child("octmnist", builder, "_png", 4, signal.SIGSTOP)
os.waitpid(first, os.WUNTRACED)  # until it has stopped itself, halfway
second = child("octmnist")
time.sleep(0.5)
print("second", os.waitpid(second, os.WNOHANG), left())
os.kill(first, signal.SIGCONT)
print("second", ended(first), ended(second), left())
"""


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    """The folder, what was in the files, and what the process above printed."""
    folder = tmp_path_factory.mktemp("children")
    made = {dataset: write(folder, dataset, 28) for dataset in ("bloodmnist", "octmnist")}
    command = [sys.executable, "-c", CHILDREN, str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, made, done.stdout.splitlines()


def test_killed_at_any_moment(children):
    folder, made, lines = children
    # Each run has removed what the one before left: there is never more than its own.
    assert [line for line in lines if not line.startswith("second")] == [
        "_png 1 -9 False 1",
        "_png 4 -9 False 1",
        "_png 9 -9 False 1",
        "savez 1 -9 False 1",
        "savez 1 True -9 False 1",
        "write_to_directory 1 -9 False 1",
        "write_to_directory 1 True -9 False 1",
        "replace 1 -9 False 1",
        "rename 1 -9 False 1",
        "rename 1 True -9 True 0",
        "once more 0 0",
    ]
    check_same(folder, "bloodmnist", 28, made["bloodmnist"])


def test_a_second_process_waits_and_takes_nothing_away(children):
    folder, made, lines = children
    assert [line for line in lines if line.startswith("second")] == ["second (0, 0) 1", "second 0 0 0"]
    check_same(folder, "octmnist", 28, made["octmnist"])
