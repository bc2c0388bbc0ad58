import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transferjax._lazy import LazyImages
from transferjax._validate import InputError
from transferjax.data.radimagenet import NUM_CLASSES, open_radimagenet

# As in the release, whatever order the rows have; the second name has a blank, the last looks like a missing value.
CLASSES = ("MR/knee/acl_tear", "CT/lung/pulmonary nodule", "US/thyroid/normal", "CT/abd/NA")


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (10, 12), dtype=np.uint8)


def make(root, classes=CLASSES, *, per_class=2, data="", lists="", extra=True):
    """Grey PNGs, and a list for each split in which the classes alternate."""
    (root / lists).mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        rows = []
        for i in range(per_class):
            for j, name in enumerate(classes):
                file = f"radiology_ai/{name}/{split}{i}.png"
                (root / data / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(1000 * i + j)).save(root / data / file)
                rows.append({"filename": file, "label": name.rpartition("/")[2]} | ({"modality": "x"} if extra else {}))
        pd.DataFrame(rows).to_csv(root / lists / f"RadiologyAI_{split}.csv", index=extra)
    return root


def message(root, **options):
    with pytest.raises(InputError) as caught:
        open_radimagenet(root, **({"num_classes": None} | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    return make(tmp_path)


def test_images_and_labels_come_in_the_order_of_the_list(root):
    dataset = open_radimagenet(root, split="val", image_size=10, num_classes=None)
    assert dataset.class_names == ("NA", "acl_tear", "normal", "pulmonary nodule")
    assert dataset.labels.tolist() == [1, 3, 2, 0] * 2
    assert dataset.labels.dtype == np.int32
    assert (dataset.name, dataset.task) == ("radimagenet", "multiclass")
    assert isinstance(dataset.images, LazyImages)
    assert dataset.images.shape == (8, 10, 10, 3)
    expected = np.asarray(Image.fromarray(pixels(1002)).resize((10, 10), Image.Resampling.BILINEAR))
    for channel in np.moveaxis(dataset.images[[6]][0], 2, 0):
        np.testing.assert_array_equal(channel, expected)


def test_layout_of_sub_folders(root, tmp_path_factory):
    """The one that the paper's code had."""
    other = make(tmp_path_factory.mktemp("other"), data="RadImageNet_data", lists="RadImageNet_split", extra=False)
    first, second = (open_radimagenet(path, image_size=8, num_classes=None) for path in (root, other))
    np.testing.assert_array_equal(first.images[:], second.images[:])
    np.testing.assert_array_equal(first.labels, second.labels)


def test_a_split_may_lack_a_class(root):
    path = root / "RadiologyAI_val.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows[rows["label"] != "normal"].to_csv(path)
    dataset = open_radimagenet(root, split="val", num_classes=None)
    assert dataset.num_classes == 4
    assert dataset.labels.tolist() == [1, 3, 0] * 2


def test_165_classes(tmp_path):
    make(tmp_path, [f"CT/{i}" for i in range(NUM_CLASSES)], per_class=1)
    dataset = open_radimagenet(tmp_path)
    assert dataset.num_classes == 165
    assert dataset.images.shape == (165, 224, 224, 3)
    assert [dataset.class_names[label] for label in dataset.labels] == [str(i) for i in range(165)]


def test_another_number_of_classes(root):
    text = message(root, num_classes=165)
    assert "RadiologyAI_train.csv: 4 classes instead of 165. Take the whole list" in text


def test_nothing_is_read_before_it_is_asked_for(root):
    file = root / "radiology_ai/US/thyroid/normal/train1.png"
    file.write_bytes(b"no image")
    dataset = open_radimagenet(root, num_classes=None)
    assert dataset.images[:6].shape == (6, 224, 224, 3)
    with pytest.raises(InputError, match=r"normal/train1.png: cannot be decoded"):
        dataset.images[6:7]


def test_fingerprints_tell_files_and_sizes_apart(root):
    files = root / "radiology_ai/MR/knee/acl_tear"
    (files / "train1.png").write_bytes((files / "train0.png").read_bytes())
    prints = open_radimagenet(root, num_classes=None).images.fingerprints()
    assert prints[0] == prints[4]
    assert len(set(prints)) == 7
    assert not set(prints) & set(open_radimagenet(root, image_size=28, num_classes=None).images.fingerprints())
    images = open_radimagenet(root, num_classes=None).images
    (files / "train0.png").unlink()
    with pytest.raises(InputError, match=r"train0.png: cannot be read \(No such file"):
        images.fingerprints()


def test_missing_images_are_counted(root):
    for name in ("MR/knee/acl_tear/test1.png", "CT/abd/NA/test0.png"):
        (root / "radiology_ai" / name).unlink()
    text = message(root, split="test")
    assert "RadiologyAI_test.csv: 2 of 8 listed images are not in" in text
    assert "(first: radiology_ai/CT/abd/NA/test0.png). Unpack" in text
    assert len(open_radimagenet(root, num_classes=None)) == 8


def test_missing_list_or_folder(root, tmp_path):
    (root / "RadiologyAI_test.csv").unlink()
    assert f"{root}: no RadiologyAI_test.csv in it. Give the folder" in message(root, split="test")
    assert "nowhere: is no folder" in message(tmp_path / "nowhere")
    assert "split: 'validation' is unknown" in message(root, split="validation")
    assert "image_size: 0 is not positive" in message(root, image_size=0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("file,label\na.png,b\n", "no column filename (it has: file, label). Name them"),
        ("x\n1\n", "no column filename and no label (it has: x)"),
        ("", "cannot be read (No columns to parse from file)"),
        ("filename,label\n", "has no rows"),
        ("filename,label\na.png,b\nc.png,\n", "no label in line 3"),
        ("filename,label\n ,b\n", "no filename in line 2"),
        ('filename,label\n"a.png,b\n', "cannot be read ("),
        (b"filename,label\n\xff\xfe.png,b\n", "cannot be read ("),
    ],
)
def test_damaged_lists(root, content, expected):
    path = root / "RadiologyAI_train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert f"{path}: {expected}" in message(root)


def test_a_class_that_training_lacks(root):
    path = root / "RadiologyAI_val.csv"
    path.write_text(path.read_text().replace("acl_tear\n", "new\n").replace(",acl_tear,", ",new,"))
    text = message(root, split="val")
    assert "RadiologyAI_val.csv: classes that the list for training has not: 1 (first: 'new')" in text
