import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferjax import data
from transferjax._validate import InputError
from transferjax.types import TargetDataset


def dataset(n=12, c=2, **changes):
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 6, 3), dtype=np.uint8)
    names = tuple("abcdefgh"[:c])
    made = TargetDataset(name="mine", images=images, labels=np.arange(n, dtype=np.int32) % c, class_names=names)
    return dataclasses.replace(made, **changes)


def save(path, **options):
    made = dataset(**options)
    np.savez(
        path, train_images=made.images, train_labels=made.labels, test_images=255 - made.images, test_labels=made.labels
    )
    return path


@pytest.fixture
def demo(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    folder.mkdir()
    save(folder / "mri_tissue.npz")
    save(folder / "nuclei.npz", n=18, c=3)
    (folder / ".nuclei.tmp.npz").write_text("x")
    monkeypatch.setattr(data, "_DEMO_FOLDER", folder)


def message(*args, **options):
    with pytest.raises(InputError) as caught:
        data.load(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_package_s_own_tasks_load():
    for name in data.demo_names():
        for split in ("train", "test"):
            loaded = data.load(name, split=split)
            assert (loaded.name, loaded.images.shape[1:]) == (name, (28, 28, 3))


@pytest.mark.usefixtures("demo")
def test_demo_tasks_by_name():
    assert data.demo_names() == ["mri_tissue", "nuclei"]
    loaded = data.load("nuclei")
    assert (loaded.name, loaded.num_classes, len(loaded)) == ("nuclei", 3, 18)
    np.testing.assert_array_equal(data.load("nuclei", split="test").images, 255 - loaded.images)


@pytest.mark.usefixtures("demo")
def test_a_demo_name_wins_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").mkdir()
    assert len(data.load("nuclei")) == 18
    assert "nuclei: has no sub-folders" in message("./nuclei")
    assert "nuclei: has no sub-folders" in message(Path("nuclei"))


def test_paths(tmp_path, monkeypatch):
    path = save(tmp_path / "cells.npz")
    assert data.load(path).name == data.load(str(path)).name == "cells"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.load("~/cells.npz").name == "cells"
    for i in range(12):
        (tmp_path / "skin" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), i, np.uint8)).save(tmp_path / "skin" / "ab"[i % 2] / f"{i:02}.png")
    assert data.load(tmp_path / "skin").images[:][:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]


@pytest.mark.usefixtures("demo")
def test_unknown_target():
    text = message("mri_tisue")
    assert "target: 'mri_tisue' is unknown; did you mean 'mri_tissue'?" in text
    assert "demo task (mri_tissue, nuclei), medmnist:<dataset>/<size> or tfds:<dataset>, or give the path of" in text
    assert "did you mean" not in message("xyz")
    for odd in ("", "no/such/file.npz", "x" * 10000, "a\0b", "~nobody-of-that-name/x"):
        assert "is unknown" in message(odd)


def test_neither_npz_nor_table_nor_folder(tmp_path):
    (tmp_path / "table.doc").write_text("x")
    text = message(tmp_path / "table.doc")
    assert "table.doc' is neither a folder nor one of .npz, .csv, .tsv, .parquet. Give the path" in text


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("medmnist:bloodmnist/large", "'large' is no size. Write e.g. medmnist:bloodmnist/224."),
        ("medmnist:bloodmnst/28", "did you mean 'bloodmnist'"),
        ("medmnist:bloodmnist/28", "python -m experiments.prepare_data --dataset=bloodmnist --size=28"),
        ("radimagenet:no/such/folder", "is no folder"),
    ],
)
def test_named_collections(target, text, tmp_path):
    assert text in message(target, data_dir=tmp_path)


def test_splits_of(tmp_path):
    assert data.splits_of("mri_tissue") == data.splits_of("medmnist:bloodmnist/28") == ("train", "val", "test")
    assert data.splits_of(save(tmp_path / "cells.npz")) == ("train", "test")
    with pytest.raises(InputError, match="'cels' is unknown"):
        data.splits_of("cels")


def test_unknown_split():
    assert "split: 'valid' is unknown. Choose from: train, val, test." in message(dataset(), split="valid")


def test_a_data_set_is_checked():
    given = dataset()
    loaded = data.load(given)
    assert data.content_hash(loaded) == data.content_hash(given)
    assert loaded.task == "binary"
    assert "mine, labels: too few examples per class ('c' has 0)" in message(dataset(class_names=("a", "b", "c")))
    assert "mine, labels: 1 at example 1 is out of range" in message(dataset(class_names=("a",)))
    assert "mine, images: float32 instead of uint8" in message(dataset(images=np.zeros((12, 4, 6, 3), np.float32)))
    assert "mine: 11 images, 12 labels" in message(dataset(images=np.zeros((11, 4, 6, 3), np.uint8)))


def test_a_data_set_of_several_labels_is_checked():
    labels = np.stack([np.arange(12) % 2, np.arange(12) % 3 > 0], axis=1).astype(int)
    for task in ("multiclass", "multilabel"):  # the labels tell, even if the task was forgotten
        loaded = data.load(dataset(labels=labels, task=task))
        assert (loaded.task, loaded.labels.dtype) == ("multilabel", np.int8)
        assert data.content_hash(loaded) == data.content_hash(dataset(labels=labels.astype(np.int8)))
    other = labels.copy()
    other[3, 1] = -1
    assert data.content_hash(dataset(labels=other)) != data.content_hash(dataset(labels=labels))
    one_hot = np.eye(2, dtype=int)[np.arange(12) % 2]
    text = message(dataset(labels=one_hot))
    assert "mine, labels: one-hot, every example has exactly one of 2 labels" in text
    assert "labels.argmax(axis=1); or set task='multilabel'." in text
    assert data.load(dataset(labels=one_hot, task="multilabel")).num_classes == 2
    single = data.load(dataset(labels=labels[:, :1], class_names=("a",), task="multilabel"))
    assert single.labels.shape == (12, 1)
    assert "mine, labels: shape [12]. Give one column per label: [n, c]." in message(dataset(task="multilabel"))
    assert "mine, labels: 2 columns, but 3 class names" in message(dataset(labels=labels, class_names=("a", "b", "c")))
    assert "mine, labels: -2 at example 0, column 0" in message(dataset(labels=labels - 2))


def test_image_size(tmp_path):
    path = save(tmp_path / "cells.npz")
    resized = data.load(path, image_size=3)
    assert resized.images.shape == (12, 3, 3, 3)
    expected = Image.fromarray(data.load(path).images[5]).resize((3, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized.images[5], np.asarray(expected))
    assert data.load(dataset(), image_size=8).images.shape == (12, 8, 8, 3)
    assert "image_size: 0 is not positive" in message(path, image_size=0)


def test_content_hash():
    given = dataset()
    digest = data.content_hash(given)
    assert len(digest) == 64
    assert data.content_hash(dataset(name="other")) == digest
    assert data.content_hash(dataset(images=np.asfortranarray(given.images))) == digest
    images = given.images.copy()
    images[3, 2, 1, 0] ^= 1
    changes = [
        {"images": images},
        {"images": given.images.reshape(12, 6, 4, 3)},
        {"labels": given.labels[::-1]},
        {"class_names": ("a", "c")},
    ]
    assert len({digest, *(data.content_hash(dataset(**change)) for change in changes)}) == 5
