"""MedMNIST's files, made up by the tests, through TFDS and back."""

from __future__ import annotations

import dataclasses
import hashlib
import resource
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from transferjax._download import fetch
from transferjax._lazy import LazyImages
from transferjax._validate import InputError
from transferjax.data import _medmnist_builder, medmnist, medmnist_info

COUNTS = {"train": 4, "val": 2, "test": 3}


def arrays(dataset, size, counts=COUNTS, **changes):
    """What is in a file of a set; a change of None leaves an array out."""
    info = medmnist_info.INFO[dataset]
    rng = np.random.default_rng([size, len(info.class_names)])
    pixels = (size, size) if info.channels == 1 else (size, size, 3)
    made = {}
    for split, n in counts.items():
        made[f"{split}_images"] = rng.integers(0, 256, (n, *pixels), dtype=np.uint8)
        high, columns = (2, len(info.class_names)) if info.task == "multilabel" else (len(info.class_names), 1)
        made[f"{split}_labels"] = rng.integers(0, high, (n, columns), dtype=np.uint8)
    made |= changes
    return {name: array for name, array in made.items() if array is not None}


def write(folder, dataset, size, counts=COUNTS, **changes):
    """Writes such a file; returns what is in it."""
    made = arrays(dataset, size, counts, **changes)
    np.savez_compressed(folder / medmnist_info.file_name(dataset, size), **made)
    return made


def prepare(folder, dataset, size, **options):
    return medmnist.prepare_medmnist(
        dataset, size, **{"medmnist_root": folder, "data_dir": folder / "tfds", "verify": False} | options
    )


def message(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_same(folder, dataset, size, made):
    """Asserts that each split has these images and labels, bit by bit and in this order."""
    info = medmnist_info.INFO[dataset]
    for split in COUNTS:
        found = medmnist.open_medmnist(dataset, size, split=split, data_dir=folder / "tfds")
        images, labels = made[f"{split}_images"], made[f"{split}_labels"]
        images = images if images.ndim == 4 else np.stack([images] * 3, axis=-1)
        assert isinstance(found.images, LazyImages)
        assert found.images.shape == images.shape
        np.testing.assert_array_equal(found.images[:], images, strict=True)
        expected = labels.astype(np.int8) if info.task == "multilabel" else labels[:, 0].astype(np.int32)
        np.testing.assert_array_equal(found.labels, expected, strict=True)
        assert found.class_names == info.class_names


@pytest.mark.parametrize("dataset", medmnist_info.INFO)
def test_every_set_of_every_size_comes_back_as_it_was(tmp_path, dataset):
    for size in medmnist_info.SIZES:
        made = write(tmp_path, dataset, size)
        folder = prepare(tmp_path, dataset, size)
        assert folder == medmnist.prepared_folder(dataset, size, data_dir=tmp_path / "tfds")
        assert list(folder.glob("*.array_record-*"))
        check_same(tmp_path, dataset, size, made)
    assert "tensorflow" not in sys.modules


def test_facts():
    assert sum(sum(info.num_examples.values()) for info in medmnist_info.INFO.values()) == 707_962  # of version 3
    hashes = [md5 for info in medmnist_info.INFO.values() for md5 in info.md5.values()]
    assert len(set(hashes)) == 48
    assert {len(md5) for md5 in hashes} == {32}
    assert {name: len(info.class_names) for name, info in medmnist_info.INFO.items()} == {
        "pathmnist": 9,
        "chestmnist": 14,
        "dermamnist": 7,
        "octmnist": 4,
        "pneumoniamnist": 2,
        "retinamnist": 5,
        "breastmnist": 2,
        "bloodmnist": 8,
        "tissuemnist": 8,
        "organamnist": 11,
        "organcmnist": 11,
        "organsmnist": 11,
    }


def test_tasks(tmp_path):
    kinds = {"chestmnist": "multilabel", "breastmnist": "binary", "retinamnist": "multiclass", "octmnist": "multiclass"}
    for dataset, task in kinds.items():
        write(tmp_path, dataset, 28)
        prepare(tmp_path, dataset, 28)
        assert medmnist.open_medmnist(dataset, 28, data_dir=tmp_path / "tfds").task == task
    assert medmnist_info.INFO["retinamnist"].task == "ordinal"


def test_many_files_are_read_at_random(tmp_path, monkeypatch):
    monkeypatch.setattr(_medmnist_builder, "_SHARD_IMAGES", 7)
    counts = {"train": 150, "val": 8, "test": 1}
    made = write(tmp_path, "bloodmnist", 28, counts)
    folder = prepare(tmp_path, "bloodmnist", 28)
    assert len(list(folder.glob("*-train.*"))) == 22
    check_same(tmp_path, "bloodmnist", 28, made)
    images = medmnist.open_medmnist("bloodmnist", 28, data_dir=tmp_path / "tfds").images
    rows = np.random.default_rng(0).integers(0, 150, 400)
    np.testing.assert_array_equal(images[rows], made["train_images"][rows])
    some = images.take(rows).take(np.array([5, 3, 5]))
    np.testing.assert_array_equal(some[:], made["train_images"][rows[[5, 3, 5]]])
    with ThreadPoolExecutor(8) as pool:  # from several threads at once
        for one, found in zip(rows, pool.map(lambda row: images[row : row + 1][0], rows), strict=True):
            np.testing.assert_array_equal(found, made["train_images"][one])


def test_fingerprints_tell_images_apart(tmp_path):
    images = arrays("bloodmnist", 28)["train_images"]
    images[2] = images[0]
    write(tmp_path, "bloodmnist", 28, train_images=images)
    prepare(tmp_path, "bloodmnist", 28)
    prints = medmnist.open_medmnist("bloodmnist", 28, data_dir=tmp_path / "tfds").images.fingerprints()
    assert prints[0] == prints[2]
    assert len(set(prints)) == 3


def test_a_large_file_needs_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_medmnist_builder, "_SHARD_BYTES", 2 << 20)
    counts = {"train": 400, "val": 1, "test": 1}
    images = np.zeros((400, 224, 224, 3), np.uint8)  # 60 MB
    images[:, 0, 0, 0] = np.arange(400) % 256
    write(tmp_path, "dermamnist", 224, counts, train_images=images)
    del images
    write(tmp_path, "retinamnist", 28)
    prepare(tmp_path, "retinamnist", 28)  # so that what is imported once is
    tracemalloc.start()
    prepare(tmp_path, "dermamnist", 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    found = medmnist.open_medmnist("dermamnist", 224, data_dir=tmp_path / "tfds")
    assert found.images[:][:, 0, 0, 0].tolist() == [i % 256 for i in range(400)]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
def test_labels_of_other_kinds(tmp_path, dtype, order):
    labels = np.asarray(np.arange(4 * 14).reshape(4, 14) % 3 == 0, dtype=dtype, order=order)
    made = write(tmp_path, "chestmnist", 28, train_labels=labels)
    prepare(tmp_path, "chestmnist", 28)
    check_same(tmp_path, "chestmnist", 28, made)


def test_a_file_that_is_not_compressed(tmp_path):
    made = arrays("octmnist", 28)
    np.savez(tmp_path / "octmnist.npz", **made)
    prepare(tmp_path, "octmnist", 28)
    check_same(tmp_path, "octmnist", 28, made)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_images": None}, "octmnist.npz: has no array val_images (but: train_images, "),
        ({"train_images": np.zeros((4, 28, 28, 3), np.uint8)}, "train_images: uint8 [4, 28, 28, 3] instead of uint8"),
        (
            {"test_images": np.zeros((3, 64, 64), np.uint8)},
            "test_images: uint8 [3, 64, 64] instead of uint8 [n, 28, 28]",
        ),
        ({"test_images": np.zeros((3, 28, 28))}, "test_images: float64 [3, 28, 28] instead of uint8"),
        ({"val_images": np.zeros((0, 28, 28), np.uint8)}, "val_images: uint8 [0, 28, 28] instead of"),
        ({"val_labels": np.zeros(2, np.uint8)}, "val_labels: uint8 [2] instead of whole numbers [n, 1]"),
        ({"val_labels": np.zeros((3, 1), np.uint8)}, "val: 2 images, but 3 labels"),
        ({"test_labels": np.array([[0], [4], [1]])}, "test_labels: [4] at example 1 is out of range 0..3"),
        ({"test_labels": np.array([[0], [-1], [1]])}, "test_labels: [-1] at example 1 is out of range 0..3"),
        ({"extra": np.array({"a": 1}, object)}, "extra.npy: holds object, not numbers"),
        ({"val_images": np.zeros((28, 28, 2), np.uint8).T}, "val_images: is in Fortran order"),
    ],
)
def test_other_arrays_are_told(tmp_path, changes, said):
    write(tmp_path, "octmnist", 28, **changes)
    assert said in message(prepare, tmp_path, "octmnist", 28)
    assert medmnist.prepared_folder("octmnist", 28, data_dir=tmp_path / "tfds") is None
    assert not list((tmp_path / "tfds").rglob("incomplete*"))


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "empty":
        data = bytearray()
    elif how == "text":
        data = bytearray(b"not found")
    elif how == "truncated":
        data = data[: len(data) // 2]
    else:  # a bit of the compressed pixels of the first images
        data[2000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["empty", "text", "truncated", "flipped"])
def test_damage_is_told(tmp_path, how):
    write(tmp_path, "octmnist", 64)
    damaged(tmp_path / "octmnist_64.npz", how)
    said = message(prepare, tmp_path, "octmnist", 64)
    assert "octmnist_64.npz" in said
    assert "is truncated or damaged (" in said
    assert "Download or copy it again" in said
    assert not list((tmp_path / "tfds").rglob("incomplete*"))


@pytest.mark.parametrize(("rows", "said"), [(3, "ends in part 2 of 4"), (5, "more values than its head says")])
def test_an_array_of_another_length_than_its_head_says(tmp_path, rows, said):
    made = arrays("octmnist", 28)
    np.savez(tmp_path / "octmnist.npz", **{name: array for name, array in made.items() if name != "train_images"})
    with zipfile.ZipFile(tmp_path / "octmnist.npz", "a") as file, file.open("train_images.npy", "w") as stream:
        head = {"descr": "|u1", "fortran_order": False, "shape": (4, 28, 28)}
        np.lib.format.write_array_header_1_0(stream, head)
        stream.write(bytes(rows * 28 * 28 - (rows == 3)))
    assert said in message(prepare, tmp_path, "octmnist", 28)


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A file with as many images as breastmnist has, whose hash is taken for the published one."""
    write(tmp_path, "breastmnist", 28, medmnist_info.INFO["breastmnist"].num_examples)
    path = tmp_path / "breastmnist.npz"
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    changed = dataclasses.replace(medmnist_info.INFO["breastmnist"], md5={28: md5})
    monkeypatch.setitem(medmnist_info.INFO, "breastmnist", changed)
    return path


def test_the_published_file_is_recognised(official, tmp_path):
    prepare(tmp_path, "breastmnist", 28, verify=True)
    assert len(medmnist.open_medmnist("breastmnist", 28, data_dir=tmp_path / "tfds")) == 546


def test_another_file_needs_a_word(official, tmp_path):
    write(tmp_path, "breastmnist", 28, medmnist_info.INFO["breastmnist"].num_examples | {"test": 155})
    said = message(prepare, tmp_path, "breastmnist", 28, verify=True)
    assert f"{official}, test: 155 images, but MedMNIST published 156" in said
    assert "--noverify" in said
    write(tmp_path, "breastmnist", 28, medmnist_info.INFO["breastmnist"].num_examples, val_labels=np.ones((78, 1), int))
    said = message(prepare, tmp_path, "breastmnist", 28, verify=True)
    assert f"{official}: its MD5 is {hashlib.md5(official.read_bytes()).hexdigest()}, expected was " in said
    assert medmnist.prepared_folder("breastmnist", 28, data_dir=tmp_path / "tfds") is None
    made = write(tmp_path, "breastmnist", 28, medmnist_info.INFO["breastmnist"].num_examples | {"test": 155})
    prepare(tmp_path, "breastmnist", 28)
    check_same(tmp_path, "breastmnist", 28, made)


def test_a_download(official, tmp_path, monkeypatch):
    monkeypatch.setattr(medmnist_info, "url", lambda dataset, size: official.as_uri())
    prepare(tmp_path, "breastmnist", 28, medmnist_root=None, fetch=fetch)
    assert (tmp_path / "tfds/downloads/medmnist/breastmnist.npz").read_bytes() == official.read_bytes()
    assert len(medmnist.open_medmnist("breastmnist", 28, data_dir=tmp_path / "tfds")) == 546


def test_a_wrong_download_is_told_and_removed(official, tmp_path, monkeypatch):
    monkeypatch.setattr(medmnist_info, "url", lambda dataset, size: official.as_uri())
    damaged(official, "flipped")
    said = message(prepare, tmp_path, "breastmnist", 28, medmnist_root=None, fetch=fetch)  # verify=False says nothing
    assert "breastmnist.npz: its MD5 is" in said
    assert list((tmp_path / "tfds/downloads/medmnist").iterdir()) == []


def test_no_network_names_the_file_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr(medmnist_info, "url", lambda dataset, size: "http://127.0.0.1:9/breastmnist.npz?download=1")
    said = message(prepare, tmp_path, "breastmnist", 28, medmnist_root=None, fetch=fetch)
    assert said.startswith("http://127.0.0.1:9/breastmnist.npz?download=1: cannot be read (")
    assert f"put it at {tmp_path}/tfds/downloads/medmnist/breastmnist.npz" in said


def test_absent_files_are_told(tmp_path):
    said = message(prepare, tmp_path, "breastmnist", 224)
    assert f"medmnist_root: '{tmp_path}/breastmnist_224.npz' is not there" in said
    assert "https://zenodo.org/records/10519652/files/breastmnist_224.npz?download=1" in said
    said = message(prepare, tmp_path, "breastmnist", 224, medmnist_root=None, fetch=None)
    assert f"'{tmp_path}/tfds/downloads/medmnist/breastmnist_224.npz' is not there" in said


def test_a_folder_that_cannot_be_written(tmp_path):
    write(tmp_path, "breastmnist", 28)
    (tmp_path / "tfds").write_text("in the way")
    assert "data_dir: " in message(prepare, tmp_path, "breastmnist", 28)


@pytest.mark.parametrize("room", [20_000, 150])
def test_a_full_disk(tmp_path, room):
    write(tmp_path, "breastmnist", 28, {"train": 100, "val": 100, "test": 100})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        said = message(prepare, tmp_path, "breastmnist", 28)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path}/tfds/breastmnist/28/1.0.0: cannot be written (" in said
    assert not list((tmp_path / "tfds").rglob("incomplete*"))


def test_what_is_not_prepared_is_told_with_the_command(tmp_path):
    said = message(medmnist.open_medmnist, "bloodmnist", 224, data_dir=tmp_path)
    assert f"bloodmnist with 224 pixels is not prepared in {tmp_path}" in said
    assert said.endswith(
        f"Run: python -m experiments.prepare_data --dataset=bloodmnist --size=224 --data_dir={tmp_path}"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("blodmnist", 28), "dataset: 'blodmnist' is no MedMNIST set; did you mean 'bloodmnist'?"),
        (("bloodmnist", 32), "size: '32' is unknown. Choose from: 28, 64, 128, 224."),
    ],
)
def test_unknown_names(tmp_path, arguments, said):
    assert said in message(medmnist.open_medmnist, *arguments, data_dir=tmp_path)
    assert said in message(prepare, tmp_path, *arguments)


def test_an_unknown_split(tmp_path):
    assert "split: 'dev' is unknown" in message(
        medmnist.open_medmnist, "bloodmnist", 28, split="dev", data_dir=tmp_path
    )


@pytest.mark.parametrize("file", ["bloodmnist-train.array_record-00000-of-00001", "index.npz", "dataset_info.json"])
def test_damage_of_what_was_prepared_is_told(tmp_path, file):
    write(tmp_path, "bloodmnist", 28)
    path = prepare(tmp_path, "bloodmnist", 28) / file
    for data in (b"{ nonsense", None):
        path.unlink() if data is None else path.write_bytes(data)

        def read():
            return medmnist.open_medmnist("bloodmnist", 28, data_dir=tmp_path / "tfds").images[:]

        said = message(read)
        assert str(path.parent) in said or "is not prepared" in said
        assert "prepare" in said


@pytest.mark.torch
@pytest.mark.parametrize("dataset", medmnist_info.INFO)
def test_the_official_package_reads_the_same(tmp_path, dataset):
    """pip install torch torchvision; pip install --no-deps medmnist==3.0.2."""
    package = pytest.importorskip("medmnist")
    facts, info = package.INFO[dataset], medmnist_info.INFO[dataset]
    assert info.class_names == tuple(facts["label"][str(i)] for i in range(len(facts["label"])))
    assert info.num_examples == facts["n_samples"]
    assert (info.channels, info.python_class, info.license) == (
        facts["n_channels"],
        facts["python_class"],
        facts["license"],
    )
    for size in medmnist_info.SIZES:
        ending = "" if size == 28 else f"_{size}"
        assert medmnist_info.url(dataset, size) == facts[f"url{ending}"]
        assert info.md5[size] == facts[f"MD5{ending}"]
        made = write(tmp_path, dataset, size)
        prepare(tmp_path, dataset, size)
        check_same(tmp_path, dataset, size, made)
        for split in COUNTS:
            theirs = getattr(package, info.python_class)(split=split, root=str(tmp_path), size=size, as_rgb=True)
            ours = medmnist.open_medmnist(dataset, size, split=split, data_dir=tmp_path / "tfds")
            images = ours.images[:]
            for i in range(len(ours)):  # `len(theirs)` asks for the published numbers
                image, label = theirs[i]
                np.testing.assert_array_equal(np.asarray(image), images[i])
                np.testing.assert_array_equal(label, np.atleast_1d(ours.labels[i]))
