"""Any dataset of TFDS that has images and labels, if it is prepared in the format ArrayRecord; without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from transferjax._validate import InputError, fail, one_of, positive
from transferjax.data._checks import SPLITS
from transferjax.data._tfds_folder import command, prepared_folder
from transferjax.data._tfds_images import RecordImages, Records, data_folder, image_bytes, opened_folder, size_of
from transferjax.types import TargetDataset, Task

DEFAULT_SIZE = 224
"""Height and width to which images of several sizes are brought if nothing else is said."""

_SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


def open_tfds(
    name: str,
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
) -> TargetDataset:
    """Opens one split of a prepared TFDS dataset; its images stay on the disk until they are asked for.

    An example needs an 8-bit image (the feature `image`, or the only one) and classes (what TFDS calls supervised, or
    `label`, or `labels`): a `ClassLabel`; a `Sequence(ClassLabel)` of those that it has; or a tensor of 0 and 1, or -1
    for missing, with a place for each. Labels, and sizes of images if the dataset does not fix them, are read once,
    without decoding images. Whether there are enough examples of each class is not checked.

    Args:
      name: as TFDS has it: `"colorectal_histology"`, `"dataset/config"`, `"dataset:1.0.0"`, `"dataset/config:1.*.*"`.
      split: `"train"`, `"val"` (which TFDS mostly calls validation) or `"test"`.
      data_dir: where TFDS keeps its datasets; None for its default, `~/tensorflow_datasets`.
      image_size: make every image this high and this wide: bilinear, antialiased. If None, images of several sizes are
        brought to `DEFAULT_SIZE`, which is logged as a warning.

    Returns:
      The data set: images uint8 [n, h, w, 3] as `LazyImages`, grey ones repeated; labels int32 [n], or int8 [n, c] if
      an example can have several; in the dataset's order.

    Raises:
      InputError: the dataset is not prepared, or not as ArrayRecord, has no such split, or nothing that can be used.
    """
    one_of("split", split, SPLITS)
    if image_size is not None:
        positive("image_size", image_size)
    builder = opened_folder(prepared_folder(name, data_folder(data_dir)))
    if tfds.core.FileFormat.ARRAY_RECORD not in builder.info.available_file_formats():
        found = f"{builder.data_dir} is in the format {builder.info.file_format.value}, which has no random access"
        raise fail(name, found, f"Prepare it in another folder: {command(name, Path('another_folder'))}")
    features = _features(name, builder.info)
    image_key, label_key = _image_key(name, features), _label_key(name, builder.info, features)
    image, label = features[image_key], features[label_key]
    records = Records(builder, _split(name, list(builder.info.splits), split))
    fixed = None if None in image.shape[:2] else image.shape[:2]

    def described(number: int, example: Any) -> tuple[tuple[int, int], np.ndarray]:
        argument = f"{records.name}, example {number}"
        values = np.asarray(example[label_key].int64_list.value, np.int64)
        return fixed or size_of(argument, image_bytes(example, image_key)), _label(argument, label, values)

    bar = tqdm(total=len(records), desc="Reading labels", unit="image", disable=None, leave=False)
    sizes, labels = [], []
    with bar:
        for size, values in records.mapped(described):
            sizes.append(size)
            labels.append(values)
            bar.update()
    resize = _common_size(records.name, set(sizes) | _sizes_of_others(builder, records, image_key, fixed), image_size)
    return TargetDataset(
        name=name.partition(":")[0].replace("/", "_"),
        images=RecordImages(records, key=image_key, size=sizes[0], resize=resize),
        labels=np.stack(labels),
        class_names=_class_names(label),
        task=_task(label),
    )


def _sizes_of_others(
    builder: tfds.core.DatasetBuilder, records: Records, image_key: str, fixed: tuple[int, int] | None
) -> set[tuple[int, int]]:
    """Returns heights and widths of the images of other splits, which are to be of the same size as these."""
    if fixed:
        return set()
    names = {known for split in SPLITS for known in _SPLIT_NAMES[split]} & set(builder.info.splits)
    found: set[tuple[int, int]] = set()
    for other in (Records(builder, name) for name in sorted(names)):
        if other.name != records.name:
            sizes = other.mapped(lambda number, example: size_of(str(number), image_bytes(example, image_key)))
            found |= set(sizes)
    return found


def splits_of_tfds(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Returns which of train, val and test a prepared dataset has; arguments and errors as for `open_tfds`."""
    names = list(opened_folder(prepared_folder(name, data_folder(data_dir))).info.splits)
    return tuple(split for split in SPLITS if set(_SPLIT_NAMES[split]) & set(names))


def _features(name: str, info: tfds.core.DatasetInfo) -> Mapping[str, Any]:
    """Returns name → feature."""
    if not isinstance(info.features, tfds.features.FeaturesDict):
        raise _unusable(name, str(info.features))
    return dict(sorted(info.features.items()))  # read from a file, they come in any order


def _image_key(name: str, features: Mapping[str, Any]) -> str:
    """Returns which feature is the image."""
    images = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image) and not isinstance(feature, tfds.features.LabeledImage)
    ]
    if "image" not in images and len(images) != 1:
        raise _unusable(name, _listed(features))
    key = "image" if "image" in images else images[0]
    if features[key].np_dtype != np.uint8 or len(features[key].shape) != 3:
        raise _unusable(name, f"{key}: {features[key]}")
    return key


def _label_key(name: str, info: tfds.core.DatasetInfo, features: Mapping[str, Any]) -> str:
    """Returns which feature is the label."""
    supervised = info.supervised_keys[1] if info.supervised_keys else None
    for key in (supervised, "label", "labels"):
        if isinstance(key, str) and key in features and _is_label(features[key]):
            return key
    raise _unusable(name, _listed(features))


def _is_label(feature: Any) -> bool:
    if isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
        return isinstance(feature, tfds.features.ClassLabel) and bool(feature.num_classes)
    if isinstance(feature, tfds.features.ClassLabel):
        return bool(feature.num_classes)
    whole = np.dtype(feature.np_dtype).kind in "biu" if isinstance(feature, tfds.features.Tensor) else False
    return whole and len(feature.shape) == 1 and bool(feature.shape[0])


def _label(argument: str, feature: Any, values: np.ndarray) -> np.ndarray:
    """Returns the label of an example: int32 [], or int8 [c]."""
    if isinstance(feature, tfds.features.ClassLabel):
        if values.shape != (1,) or not 0 <= values[0] < feature.num_classes:
            found = f"label {values.tolist()} instead of one in 0..{feature.num_classes - 1}"
            raise fail(argument, found, "Choose another split: datasets often keep the labels of some to themselves.")
        return values[0].astype(np.int32)
    if isinstance(feature, tfds.features.Sequence):
        count = feature.feature.num_classes
        if ((values < 0) | (values >= count)).any():
            raise fail(argument, f"labels {values.tolist()}, not all in 0..{count - 1}", "Choose another split.")
        return np.isin(np.arange(count), values).astype(np.int8)
    if values.shape != feature.shape or ((values < -1) | (values > 1)).any():
        found = f"label {values.tolist()} instead of {feature.shape[0]} numbers 0, 1, or -1 for missing"
        raise fail(argument, found, "Choose another dataset.")
    return values.astype(np.int8)


def _class_names(feature: Any) -> tuple[str, ...]:
    if isinstance(feature, tfds.features.Tensor) and not isinstance(feature, tfds.features.ClassLabel):
        return tuple(str(number) for number in range(feature.shape[0]))
    return tuple((feature.feature if isinstance(feature, tfds.features.Sequence) else feature).names)


def _task(feature: Any) -> Task:
    if not isinstance(feature, tfds.features.ClassLabel):
        return "multilabel"
    return "binary" if feature.num_classes == 2 else "multiclass"


def _split(name: str, names: list[str], split: str) -> str:
    """Returns what the dataset calls a split."""
    for known in _SPLIT_NAMES[split]:
        if known in names:
            return known
    raise fail(name, f"has no split {split!r} (it has: {', '.join(names)})", "Choose one that it has.")


def _common_size(argument: str, sizes: set[tuple[int, int]], image_size: int | None) -> int | None:
    """Returns the size to which images have to be brought; None if they can stay as they are."""
    if image_size is None and len(sizes) > 1:
        small, large = (" x ".join(map(str, edge)) for edge in (min(sizes), max(sizes)))
        logging.warning(
            "%s: images of %d sizes, such as %s and %s pixels, are brought to %d x %d; image_size can say otherwise.",
            *(argument, len(sizes), small, large, DEFAULT_SIZE, DEFAULT_SIZE),
        )
        return DEFAULT_SIZE
    return None if sizes == {(image_size, image_size)} else image_size


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())


def _unusable(name: str, found: str) -> InputError:
    remedy = "Choose a dataset whose examples have one 8-bit image, and classes as `label`."
    return fail(name, f"has no image with a label that can be used (it has: {found})", remedy)
