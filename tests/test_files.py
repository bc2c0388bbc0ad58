from __future__ import annotations

import os

import numpy as np
import pytest

from transferjax import InputError
from transferjax._files import atomic_write, hash_arrays, sha256, writable_folder


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.csv"
    with atomic_write(path) as temporary:
        temporary.write_text("one")
        assert temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "one"

    def interrupted():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_as_readable_as_others(tmp_path):
    (tmp_path / "other").write_text("")
    with atomic_write(tmp_path / "mine") as temporary:
        temporary.write_text("")
    assert (tmp_path / "mine").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(InputError, match=r"workdir: .* cannot be written"):
            writable_folder("workdir", path)
    with pytest.raises(InputError, match="cannot be written"), atomic_write(tmp_path / "no" / "x"):
        pass
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(InputError, match=r"taken\.csv' is a folder"):
        writable_folder("workdir", tmp_path, files=["taken.csv"])
    with pytest.raises(InputError, match="cannot be written"), atomic_write(tmp_path / "taken.csv") as temporary:
        temporary.write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.csv"]
    assert writable_folder("workdir", tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path / "a" / "b") == []


def test_hashes_know_borders_names_shapes_and_dtypes():
    assert sha256(b"ab", b"c") != sha256(b"a", b"bc")
    base = {"x": np.zeros(4, np.float32)}
    others = [
        {"y": base["x"]},
        {"x": base["x"].reshape(2, 2)},
        {"x": np.zeros(4, np.int32)},
        {"x": np.asarray([0, 0, 0, 1], np.float32)},
    ]
    hashes = {hash_arrays(arrays) for arrays in [base, *others]}
    assert len(hashes) == 5
    assert hash_arrays({"a": base["x"], "b": base["x"] + 1}) == hash_arrays({"b": base["x"] + 1, "a": base["x"]})
    transposed = np.arange(6.0).reshape(2, 3).T
    assert hash_arrays({"x": transposed}) == hash_arrays({"x": np.ascontiguousarray(transposed)})
