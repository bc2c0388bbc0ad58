"""Datasets of TFDS that are not MedMNIST's, written by the tests with TFDS itself."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from transferjax._lazy import LazyImages
from transferjax._validate import InputError
from transferjax.data.tfds_target import open_tfds, splits_of_tfds

N = 9
NAMES = ("gland", "stroma", "mucus")
FIXED = tfds.features.Image(shape=(8, 6, 3))


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind)
    return file.getvalue()


def pixels(number, shape=(8, 6, 3)):
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset as the tests want it; `examples` gives an example per number."""

    name = "made"
    VERSION = tfds.core.Version("1.0.0")
    features: dict
    splits = ("train", "test")
    supervised = None

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(dict(self.features)),
            supervised_keys=self.supervised,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(start) for start, split in zip((0, 100), self.splits, strict=False)}

    def _generate_examples(self, start):
        for number in range(start, start + N):
            yield number, self.example(number)


@pytest.fixture
def make(tmp_path, capsys):
    """Writes a dataset of features and a function number → example; the rest are attributes of the builder."""

    def make(features, example, *, config=None, version="1.0.0", **attributes):
        attributes |= {"features": features, "example": staticmethod(example), "VERSION": tfds.core.Version(version)}
        if config:
            attributes["BUILDER_CONFIGS"] = [tfds.core.BuilderConfig(name=name) for name in ("a", "b")]
        cls = type("Made", (Made,), {"name": "made", "__module__": __name__} | attributes, skip_registration=True)
        builder = cls(data_dir=tmp_path, config=config, file_format="array_record")
        builder.download_and_prepare()
        capsys.readouterr()  # what TFDS prints
        return Path(builder.data_dir)

    return make


def simple(number, label=None):
    return {"image": encoded(pixels(number)), "label": number % 3 if label is None else label}


SIMPLE = {"image": FIXED, "label": tfds.features.ClassLabel(names=NAMES)}


def message(*arguments, **options):
    with pytest.raises(InputError) as caught:
        open_tfds(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_and_labels_in_order(make, tmp_path):
    make(SIMPLE, simple)
    for split, start in (("train", 0), ("test", 100)):
        found = open_tfds("made", split=split, data_dir=tmp_path)
        assert isinstance(found.images, LazyImages)
        expected = np.stack([pixels(number) for number in range(start, start + N)])
        np.testing.assert_array_equal(found.images[:], expected, strict=True)
        np.testing.assert_array_equal(found.labels, np.arange(start, start + N, dtype=np.int32) % 3, strict=True)
        assert (found.name, found.class_names, found.task) == ("made", NAMES, "multiclass")
        np.testing.assert_array_equal(found.images.take(np.array([7, 1]))[:], expected[[7, 1]])
    assert "tensorflow" not in sys.modules


def test_fingerprints(make, tmp_path):
    make(SIMPLE, lambda number: simple(number % 5, label=number % 3))
    found = open_tfds("made", data_dir=tmp_path).images.fingerprints()
    assert found[0] == found[5]
    assert len(set(found)) == 5
    resized = open_tfds("made", data_dir=tmp_path, image_size=4).images.fingerprints()
    assert not set(found) & set(resized)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(pixels(1, (8, 6))), np.stack([pixels(1, (8, 6))] * 3, axis=-1)),
        (Image.fromarray(pixels(1, (8, 6, 4)), "RGBA"), pixels(1, (8, 6, 4))[..., :3]),
        (Image.fromarray(pixels(1) // 128 * 255).quantize(8), pixels(1) // 128 * 255),
        (Image.fromarray(pixels(1, (8, 6)) > 99), np.stack([(pixels(1, (8, 6)) > 99) * np.uint8(255)] * 3, axis=-1)),
    ],
    ids=["grey", "transparent", "palette", "one bit"],
)
def test_images_of_other_modes(make, tmp_path, image, expected):
    make(SIMPLE, lambda number: {"image": encoded(image), "label": number % 3})
    np.testing.assert_array_equal(open_tfds("made", data_dir=tmp_path).images[:2], [expected] * 2)


def test_jpeg_is_decoded_as_pillow_does(make, tmp_path):
    data = encoded(np.asarray(Image.fromarray(pixels(3)).resize((64, 48))), "JPEG")
    make({"image": tfds.features.Image(), "label": SIMPLE["label"]}, lambda i: {"image": data, "label": i % 3})
    images = open_tfds("made", data_dir=tmp_path).images
    assert images.shape == (N, 48, 64, 3)
    np.testing.assert_array_equal(images[:1][0], np.asarray(Image.open(io.BytesIO(data))))


def varied(number):
    return {"image": encoded(pixels(number, (8 + number % 2, 6, 3))), "label": number % 3}


def resized(number, size):
    image = Image.fromarray(pixels(number, (8 + number % 2, 6, 3)))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def test_several_sizes_become_one_and_that_is_said(make, tmp_path, caplog):
    make({"image": tfds.features.Image(), "label": SIMPLE["label"]}, varied)
    images = open_tfds("made", data_dir=tmp_path).images
    assert images.shape == (N, 224, 224, 3)
    np.testing.assert_array_equal(images[:], [resized(number, 224) for number in range(N)])
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "images of 2 sizes, such as 8 x 6 and 9 x 6 pixels, are brought to 224 x 224" in said
    caplog.clear()
    images = open_tfds("made", data_dir=tmp_path, image_size=12).images
    np.testing.assert_array_equal(images[:], [resized(number, 12) for number in range(N)])
    assert not caplog.records


def test_one_size_of_a_dataset_that_does_not_fix_it(make, tmp_path, caplog):
    make({"image": tfds.features.Image(), "label": SIMPLE["label"]}, simple)
    assert open_tfds("made", data_dir=tmp_path).images.shape == (N, 8, 6, 3)
    assert not caplog.records


def test_two_classes_are_a_binary_task(make, tmp_path):
    label = tfds.features.ClassLabel(num_classes=2)
    make({"image": FIXED, "label": label}, lambda number: simple(number, label=number % 2))
    found = open_tfds("made", data_dir=tmp_path)
    assert (found.task, found.class_names) == ("binary", ("0", "1"))


def test_sequences_of_classes_are_several_labels(make, tmp_path):
    features = {"image": FIXED, "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES))}
    sets = [[], [0], [2, 1]]
    make(features, lambda number: {"image": encoded(pixels(number)), "labels": sets[number % 3]})
    found = open_tfds("made", data_dir=tmp_path)
    assert (found.task, found.class_names, found.labels.dtype) == ("multilabel", NAMES, np.int8)
    assert found.labels.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 1]] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
def test_tensors_are_several_labels(make, tmp_path, dtype):
    features = {"image": FIXED, "label": tfds.features.Tensor(shape=(2,), dtype=dtype)}
    make(features, lambda number: simple(number, label=np.array([1, number % 2], dtype)))
    found = open_tfds("made", data_dir=tmp_path)
    assert (found.task, found.class_names) == ("multilabel", ("0", "1"))
    assert found.labels.tolist() == [[1, number % 2] for number in range(N)]


def test_what_is_supervised_comes_first(make, tmp_path):
    features = {"scan": FIXED, "grade": tfds.features.ClassLabel(num_classes=9), "label": SIMPLE["label"]}
    make(
        features,
        lambda number: {"scan": encoded(pixels(number)), "grade": number % 9, "label": 0},
        supervised=("scan", "grade"),
    )
    assert open_tfds("made", data_dir=tmp_path).labels.tolist() == list(range(9))


@pytest.mark.parametrize(
    ("theirs", "ours"), [("validation", "val"), ("valid", "val"), ("val", "val"), ("test", "test")]
)
def test_names_of_splits(make, tmp_path, theirs, ours):
    make(SIMPLE, simple, splits=("train", theirs))
    assert open_tfds("made", split=ours, data_dir=tmp_path).labels[0] == 100 % 3
    assert splits_of_tfds("made", data_dir=tmp_path) == ("train", ours)


def test_a_split_that_is_not_there(make, tmp_path):
    make(SIMPLE, simple, splits=("train",))
    assert splits_of_tfds("made", data_dir=tmp_path) == ("train",)
    assert message("made", split="test", data_dir=tmp_path) == (
        "made: has no split 'test' (it has: train). Choose one that it has."
    )
    assert "split: 'dev' is unknown" in message("made", split="dev", data_dir=tmp_path)


def test_configurations_and_versions(make, tmp_path):
    make(SIMPLE, simple, config="b")
    assert open_tfds("made/b", data_dir=tmp_path).name == "made_b"
    assert len(open_tfds("made", data_dir=tmp_path)) == N  # the only one
    make(SIMPLE, lambda number: simple(number + 50), config="a")
    np.testing.assert_array_equal(open_tfds("made", data_dir=tmp_path).images[0:1][0], pixels(50))  # TFDS's default
    make(SIMPLE, lambda number: simple(number + 70), config="a", version="1.10.0")
    make(SIMPLE, lambda number: simple(number + 80), config="a", version="1.9.0")
    for name, first in {"made/a": 70, "made/a:1.9.0": 80, "made/a:1.*.*": 70, "made/a:1.0.*": 50}.items():
        np.testing.assert_array_equal(open_tfds(name, data_dir=tmp_path).images[0:1][0], pixels(first))
    assert "'made/a:2.0.0' is not prepared in" in message("made/a:2.0.0", data_dir=tmp_path)
    (tmp_path / "made/.config/metadata.json").unlink()
    assert "Choose one: made/a, made/b." in message("made", data_dir=tmp_path)


def test_what_is_not_prepared_is_told_with_the_command(tmp_path):
    said = message("colorectal_histology", data_dir=tmp_path)
    assert said.startswith(f"tfds: 'colorectal_histology' is not prepared in {tmp_path}. Where there is a network")
    call = f"tfds.builder('colorectal_histology', data_dir='{tmp_path}', file_format='array_record')"
    assert f'python -c "import tensorflow_datasets as tfds; {call}.download_and_prepare()"' in said
    assert "Did you mean 'colorectal_histology'?" in message("colorectal_histologie", data_dir=tmp_path)
    assert "is no name of a dataset" in message("../made", data_dir=tmp_path)


def test_another_format(make, tmp_path):
    folder = make(SIMPLE, simple)
    info = folder / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    said = message("made", data_dir=tmp_path)
    assert f"made: {folder} is in the format tfrecord, which has no random access. Prepare it in another folder" in said
    assert "file_format='array_record'" in said


@pytest.mark.parametrize(
    ("features", "label", "said"),
    [
        ({"label": SIMPLE["label"]}, 0, "no image with a label that can be used (it has: label: ClassLabel)"),
        ({"image": FIXED}, None, "it has: image: Image)"),
        ({"image": FIXED, "label": tfds.features.Scalar(np.int64)}, 0, "it has: image: Image, label: Scalar)"),
        ({"image": FIXED, "label": tfds.features.Text()}, "a", "it has: image: Image, label: Text)"),
        ({"image": tfds.features.Image(shape=(8, 6, 1), dtype=np.uint16), "label": SIMPLE["label"]}, 0, "uint16"),
    ],
)
def test_features_that_cannot_be_used(make, tmp_path, features, label, said):
    values = {"image": encoded(pixels(0)), "label": label}
    make(features, lambda number: {key: values[key] for key in features})
    assert said in message("made", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("feature", "label", "said"),
    [
        (SIMPLE["label"], -1, "example 0: label [-1] instead of one in 0..2. Choose another split"),
        (tfds.features.Tensor(shape=(2,), dtype=np.int64), [0, 2], "example 0: label [0, 2] instead of 2 numbers 0, 1"),
    ],
)
def test_labels_that_cannot_be_used(make, tmp_path, feature, label, said):
    make({"image": FIXED, "label": feature}, lambda number: simple(number, label=label))
    assert said in message("made", data_dir=tmp_path)


def test_images_that_cannot_be_used(make, tmp_path):
    made = {0: pixels(0), 1: pixels(1, (9, 6, 3)), 2: pixels(2, (8, 6)).astype(np.uint16) * 257}
    make(SIMPLE, lambda i: {"image": encoded(made[i]) if i in made else b"no image", "label": i % 3})
    images = open_tfds("made", data_dir=tmp_path).images
    np.testing.assert_array_equal(images[0:1][0], pixels(0))
    for number, said in {
        1: "9 x 6 pixels (height x width) instead of 8 x 6",
        2: "I;16",
        3: "cannot be decoded",
    }.items():
        with pytest.raises(InputError, match=f"image {number}: .*{said}".replace("(", r"\(").replace(")", r"\)")):
            images[np.array([number])]


@pytest.mark.parametrize("kept", [True, False])
def test_damaged_files_are_told(make, tmp_path, kept):
    (file,) = make(SIMPLE, simple).glob("*train*")
    file.write_bytes(b"nonsense") if kept else file.unlink()
    said = message("made", data_dir=tmp_path)
    assert "made" in said
    assert ("cannot be read (" if kept else f"{file}: is not there") in said
