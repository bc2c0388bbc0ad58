import io
import zipfile

import numpy as np
import pytest

from transferjax._validate import InputError
from transferjax.data import MIN_PER_CLASS, load_npz

N, C = 18, 3


def arrays(**changes):
    """Two whole splits of 18 images in 3 classes; a change of None leaves an array out."""
    rng = np.random.default_rng(0)
    made = {}
    for split in ("train", "test"):
        made[f"{split}_images"] = rng.integers(0, 256, (N, 5, 4), dtype=np.uint8)
        made[f"{split}_labels"] = np.arange(N)[:, None] % C
    made.update(changes)
    return {name: array for name, array in made.items() if array is not None}


@pytest.fixture
def save(tmp_path):
    def save(**changes):
        path = tmp_path / "cells.npz"
        np.savez_compressed(path, **arrays(**changes))
        return path

    return save


def message(path, **options):
    with pytest.raises(InputError) as caught:
        load_npz(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(N, 5, 4), (N, 5, 4, 1), (N, 5, 4, 3)])
def test_layouts(save, shape):
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    dataset = load_npz(save(test_images=images), split="test")
    assert dataset.images.shape == (N, 5, 4, 3)
    assert dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == np.int32
    assert dataset.labels.tolist() == [i % C for i in range(N)]
    assert (dataset.name, dataset.class_names, dataset.task) == ("cells", ("0", "1", "2"), "multiclass")
    expected = images if shape[-1] == 3 else np.stack([images.reshape(N, 5, 4)] * 3, axis=-1)
    np.testing.assert_array_equal(dataset.images, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, np.float32, np.float64])
def test_label_dtypes(save, dtype):
    labels = (np.arange(N) % C).astype(dtype)
    assert load_npz(save(train_labels=labels)).labels.tolist() == labels.tolist()


def test_bool_labels_are_a_binary_task(save):
    path = save(train_labels=np.arange(N) % 2 == 0, test_labels=np.arange(N) % 2)
    assert load_npz(path).task == "binary"


def test_class_names(save):
    names = ["grey matter", "white matter", "other"]
    assert load_npz(save(class_names=np.array(names))).class_names == tuple(names)


def test_classes_are_counted_over_all_splits(save):
    four = np.arange(24) % 4
    path = save(test_labels=four, test_images=np.zeros((24, 5, 4), np.uint8))
    assert load_npz(path, split="test").num_classes == 4
    assert "'3' has 0" in message(path, split="train")


def test_an_empty_split_harms_no_other(save):
    path = save(val_images=np.zeros((0, 5, 4), np.uint8), val_labels=np.zeros((0, 1), int))
    assert len(load_npz(path)) == N
    assert "val_labels: shape [0, 1] is empty" in message(path, split="val")


def test_missing_split(save):
    text = message(save(), split="val")
    assert "cells.npz: no array val_images and no val_labels" in text
    assert "it has: train_images, train_labels, test_images, test_labels" in text
    assert "Choose a split that it has: train, test." in text


def test_missing_arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros(3), train_labels=np.zeros(3))
    text = message(path)
    assert "no array train_images (it has: images, train_labels)" in text
    assert "Name the arrays as MedMNIST does" in text
    np.savez(path)
    assert "(it has: nothing)" in message(path)


def test_truncated(save):
    path = save()
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        assert "cells.npz: is truncated or no .npz file. Save it again" in message(path)


def test_not_a_zip(tmp_path):
    path = tmp_path / "x.npz"
    path.write_text("label,image\n")
    assert "x.npz: is truncated or no .npz file" in message(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "x.npz: is truncated or no .npz file" in message(path)


def test_damaged_bytes_never_escape_as_another_error(save):
    path = save()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    seen = set()
    for position in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            load_npz(path)
        except InputError as error:
            seen.add(str(error).split(": ")[1].split(" (")[0])
    assert "is truncated or damaged" in seen


def test_a_member_that_is_no_array(save):
    path = save(train_labels=None)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("train_labels", b"0,1,2")
    assert "train_labels: is no array" in message(path)


def test_a_header_that_claims_too_much(save):
    path = save(train_images=None)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20, 2**20)}
    )
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("train_images.npy", buffer.getvalue() + b"\0" * 100)
    assert "train_images: is truncated or damaged" in message(path)


def test_pickles_are_never_loaded(save):
    path = save(train_labels=np.array([{"a": 1}] * N, dtype=object))
    assert "cells.npz, train_labels: holds Python objects. Pickled objects are never loaded" in message(path)
    path = save(class_names=np.array(["a", "b", None], dtype=object))
    assert "class_names: holds Python objects" in message(path)


def test_unreadable(tmp_path):
    assert "none.npz: cannot be read (No such file or directory)" in message(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.zeros((N, 5, 4), np.float32), "train_images: float32 instead of uint8. Save uint8 in 0..255"),
        (np.zeros((N, 5, 4), np.int64), "train_images: int64 instead of uint8. Save uint8"),
        (np.zeros((N, 5, 4), bool), "train_images: bool instead of uint8"),
        (np.zeros((N, 3, 5, 4), np.uint8), "train_images: shape [18, 3, 5, 4]. Give [n, h, w]"),
        (np.zeros((N, 5), np.uint8), "train_images: shape [18, 5]. Give"),
        (np.zeros((N, 5, 4, 1, 1), np.uint8), "train_images: shape [18, 5, 4, 1, 1]"),
        (np.array(3, np.uint8), "train_images: shape []"),
        (np.zeros((0, 5, 4), np.uint8), "train_images: shape [0, 5, 4] is empty"),
        (np.zeros((N, 0, 4), np.uint8), "train_images: shape [18, 0, 4] is empty"),
        (np.zeros((N - 1, 5, 4), np.uint8), "cells.npz: 17 train_images, 18 train_labels. Give one label per image."),
    ],
)
def test_bad_images(save, images, expected):
    assert expected in message(save(train_images=images))


def test_images_with_nan(save):
    images = np.zeros((N, 5, 4))
    images[7, 2, 2] = np.nan
    text = message(save(train_images=images))
    assert "cells.npz, train_images: float64 instead of uint8, with NaN (first in image 7). Remove the NaN." in text


def changed(index, value, dtype=float):
    labels = (np.arange(N) % C).astype(dtype)
    labels[index] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (changed(4, np.nan), "train_labels: nan at example 4 is no class number. Give whole numbers"),
        (changed(4, np.inf), "train_labels: inf at example 4 is no class number"),
        (changed(5, 0.5), "train_labels: 0.5 at example 5 is no class number"),
        (changed(6, -1, int), "train_labels: -1 at example 6 is negative"),
        (changed(6, -2.0), "train_labels: -2.0 at example 6 is negative"),
        (changed(6, 10**6, int), "train_labels: 1000000 is bigger than the number of examples. Number the classes"),
        (changed(6, 2**40, int), "train_labels: 1099511627776 is too big"),
        (changed(6, 1e30), "train_labels: 1e+30 at example 6 is no class number"),
        (np.array(["a", "b", "c"] * 6), "train_labels: <U1 holds no numbers"),
        (np.zeros((N, 1, 1), int), "train_labels: shape [18, 1, 1]. Give one class number per image"),
        (np.array(1), "train_labels: shape []. Give one class number"),
        (np.zeros(0, int), "train_labels: shape [0] is empty"),
        (np.zeros(N, int), "train_labels: all 18 examples are of one class, '0'. Give at least two classes."),
        (
            changed(slice(0, 4), 1, int),
            f"train_labels: too few examples per class ('0' has 4, '2' has 5). "
            f"Every class needs at least {MIN_PER_CLASS} examples",
        ),
    ],
)
def test_bad_labels(save, labels, expected):
    assert expected in message(save(train_labels=labels))


SETS = np.stack([np.arange(N) % 2, np.arange(N) % 3 == 0, np.zeros(N)], axis=1).astype(np.uint8)  # as MedMNIST's


def sets(index=None, value=None, dtype=int):
    labels = SETS.astype(dtype)
    if index is not None:
        labels[index] = value
    return labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_several_columns_are_several_labels(save, dtype):
    dataset = load_npz(save(train_labels=sets(dtype=dtype), test_labels=sets()))
    assert (dataset.task, dataset.num_classes, dataset.class_names) == ("multilabel", 3, ("0", "1", "2"))
    assert dataset.labels.dtype == np.int8
    np.testing.assert_array_equal(dataset.labels, SETS)


def test_missing_labels_and_names_of_labels(save):
    labels = sets((slice(0, 4), 1), -1.0, float)
    names = ["mass", "effusion", "hernia"]
    dataset = load_npz(save(train_labels=labels, test_labels=sets(), class_names=np.array(names)))
    assert dataset.class_names == tuple(names)
    assert dataset.labels[:5].tolist() == [[0, -1, 0], [1, -1, 0], [0, -1, 0], [1, -1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (sets((4, 2), 2), "train_labels: 2 at example 4, column 2. Labels in several columns are 0, 1, or -1 for a m"),
        (sets((4, 2), -2), "train_labels: -2 at example 4, column 2. Labels"),
        (sets((4, 1), 0.5, float), "train_labels: 0.5 at example 4, column 1. Labels"),
        (sets((4, 1), np.nan, float), "train_labels: nan at example 4, column 1. Labels in several columns are"),
        (sets((4, 1), np.nan, float), "-1 for a missing one: numpy.nan_to_num(labels, nan=-1)."),
        (sets((4, 1), np.inf, float), "train_labels: inf at example 4, column 1"),
        (sets((4, 1), 255, np.uint8), "save them as int8, uint8 makes 255 of -1."),
        (SETS.astype(str), "train_labels: <U3 holds no numbers. Give 0, 1, or -1"),
        (sets((slice(3, 5),), -1), "train_labels: 2 of 18 examples have no known label, only -1 (first example 3). L"),
        (sets()[:0], "train_labels: shape [0, 3] is empty"),
        (sets()[:, :0], "train_labels: shape [18, 0]. Give one class number per image"),
        (sets()[1:], "cells.npz: 18 train_images, 17 train_labels. Give one row of labels per image."),
        (0 * sets(), "train_labels: no label has 6 examples with it and as many without it ('0': 0 with, 18 w"),
    ],
)
def test_bad_label_sets(save, labels, expected):
    assert expected in message(save(train_labels=labels, test_labels=sets()))


def test_splits_agree_on_the_columns(save):
    assert "test_labels: 2 columns, but 3 class names. Give one column and one name per label." in message(
        save(train_labels=sets(), test_labels=sets()[:, :2])
    )
    assert "test_labels: shape [18]. Give one column per label" in message(
        save(train_labels=sets(), test_labels=sets()[:, 0])
    )
    assert "test_labels: shape [18, 3]. Give one class number per image" in message(save(test_labels=sets()))
    assert "train_labels: 3 columns, but 2 class names" in message(
        save(train_labels=sets(), test_labels=sets(), class_names=np.array(["a", "b"]))
    )


def test_one_hot_labels_are_classes(save):
    """Unless another split shows that they are not: in a few examples each may have one label by chance."""
    one_hot = np.eye(3, dtype=int)[np.arange(N) % 3]
    text = message(save(train_labels=one_hot, test_labels=one_hot))
    assert "train_labels: one-hot, every example has exactly one of 3 labels. These are classes: give their " in text
    assert "numbers, labels.argmax(axis=1)." in text
    assert load_npz(save(train_labels=one_hot, test_labels=sets())).task == "multilabel"
    partly = one_hot.copy()
    partly[0] = [1, 0, -1]
    assert load_npz(save(train_labels=partly, test_labels=one_hot)).task == "multilabel"


def test_labels_of_other_splits_are_checked(save):
    assert "test_labels: 2 at example 0, column 1" in message(save(train_labels=sets(), test_labels=sets((0, 1), 2)))
    assert "test_labels: -1 at example 0 is negative" in message(save(test_labels=changed(0, -1, int)))


def test_many_small_classes_are_summed_up(save):
    text = message(save(train_labels=changed(0, 17, int)))
    assert "'0' has 5, '3' has 0" in text
    assert "and 6 more)" in text


def test_label_without_a_class_name(save):
    text = message(save(class_names=np.array(["a", "b"])))
    assert "train_labels: 2 at example 2 is out of range, there are 2 class names. Labels lie in 0..1" in text


def test_class_without_examples(save):
    text = message(save(class_names=np.array(["a", "b", "c", "tumour"])))
    assert "too few examples per class ('tumour' has 0)" in text


@pytest.mark.parametrize(
    "names", [np.array([1, 2, 3]), np.array([["a", "b", "c"]]), np.array(["a", "b", "a"]), np.array([], dtype=str)]
)
def test_bad_class_names(save, names):
    assert "class_names: " in (text := message(save(class_names=names)))
    assert "Give one text per class, all different" in text
