"""The twelve two-dimensional MedMNIST sets through TFDS: written as ArrayRecord, read at random; without TensorFlow.

Each set is a TFDS dataset of its own, such as `bloodmnist`, with a configuration per size: `bloodmnist/224`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from transferjax import _download
from transferjax._files import writable_folder
from transferjax._validate import InputError, fail, one_of
from transferjax.data import _medmnist_builder, _medmnist_file, _tfds_images, medmnist_info
from transferjax.data._checks import SPLITS
from transferjax.types import TargetDataset


def open_medmnist(
    dataset: str, size: int, *, split: str = "train", data_dir: str | os.PathLike[str] | None = None
) -> TargetDataset:
    """Opens one split of a prepared MedMNIST set; its images stay on the disk until they are asked for.

    Whether there are enough examples of each class is not checked.

    Args:
      dataset: such as `"bloodmnist"`.
      size: height and width: 28, 64, 128 or 224.
      split: `"train"`, `"val"` or `"test"`.
      data_dir: where TFDS keeps its datasets; None for its default, `~/tensorflow_datasets`.

    Returns:
      The data set, named as the official file is: images uint8 [n, size, size, 3] as `LazyImages`, grey ones
      repeated; labels int32 [n], of chestmnist int8 [n, 14]; in the file's order. The grades of retinamnist are
      classes.

    Raises:
      InputError: there is no such set, size or split, or it is not prepared.
    """
    info, size = medmnist_info.info(dataset), medmnist_info.checked_size(size)
    one_of("split", split, SPLITS)
    folder = prepared_folder(dataset, size, data_dir=data_dir)
    if folder is None:
        command = f"python -m experiments.prepare_data --dataset={dataset} --size={size}"
        command += "" if data_dir is None else f" --data_dir={os.fspath(data_dir)}"
        found = f"{dataset} with {size} pixels is not prepared in {_tfds_images.data_folder(data_dir)}"
        raise fail("dataset", found, f"Run: {command}")
    records = _tfds_images.Records(_tfds_images.opened_folder(folder), split)
    labels, hashes = _medmnist_builder.read_index(folder, split)
    if len(labels) != len(records):
        raise fail(str(folder), f"{len(records)} images, but {len(labels)} labels of {split}", _tfds_images.AGAIN)
    return TargetDataset(
        name=medmnist_info.file_name(dataset, size).removesuffix(".npz"),
        images=_tfds_images.RecordImages(records, key="image", size=(size, size), hashes=hashes),
        labels=labels,
        class_names=info.class_names,
        task="multiclass" if info.task == "ordinal" else info.task,
    )


def prepared_folder(dataset: str, size: int, *, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Returns the folder of a set that is prepared, see `open_medmnist`; None if it is not."""
    folder = _tfds_images.data_folder(data_dir) / dataset / str(size) / _medmnist_builder.VERSION
    return folder if (folder / "dataset_info.json").is_file() else None


def missing_files(
    wanted: Iterable[tuple[str, int]],
    *,
    medmnist_root: str | os.PathLike[str] | None,
    data_dir: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Returns which files `prepare_medmnist` would not find for sets and sizes; none if they are to be downloaded."""
    if medmnist_root is None:
        return []
    root = Path(medmnist_root).expanduser()
    unprepared = (
        (dataset, size) for dataset, size in wanted if prepared_folder(dataset, size, data_dir=data_dir) is None
    )
    paths = (root / medmnist_info.file_name(dataset, size) for dataset, size in unprepared)
    return [path for path in paths if not path.is_file()]


def prepare_medmnist(
    dataset: str,
    size: int,
    *,
    medmnist_root: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    verify: bool = True,
    fetch: _medmnist_file.Fetch | None = _download.fetch,
) -> Path:
    """Makes a TFDS dataset of an official MedMNIST file, unless it is there already.

    The folder appears when it is whole. What a killed run left is removed by the next one. The file is read image by
    image, however large it is.

    Args:
      dataset: such as `"bloodmnist"`.
      size: height and width: 28, 64, 128 or 224.
      medmnist_root: the folder with the files as MedMNIST names them: `bloodmnist.npz`, `bloodmnist_224.npz`; None to
        have them downloaded to `downloads/medmnist` in `data_dir`.
      data_dir: where TFDS keeps its datasets; None for its default, `~/tensorflow_datasets`.
      verify: whether a file in `medmnist_root` has to be the published one: numbers of images and MD5. Downloaded
        ones always have to be.
      fetch: `fetch(url, folder=..., name=...)` returns the path of a file, which is downloaded if it is not there;
        None not to download.

    Returns:
      The folder of the dataset.

    Raises:
      InputError: the file is missing, damaged or another one, or the folder cannot be written.
    """
    medmnist_info.info(dataset)
    size = medmnist_info.checked_size(size)
    if (folder := prepared_folder(dataset, size, data_dir=data_dir)) is not None:
        return folder
    root = writable_folder("data_dir", _tfds_images.data_folder(data_dir))
    given = None if medmnist_root is None else Path(medmnist_root).expanduser()
    downloads = root / "downloads" / "medmnist"
    fresh = given is None and not (downloads / medmnist_info.file_name(dataset, size)).exists()
    path = _medmnist_file.find_file(dataset, size, root=given, downloads=downloads, fetch=fetch)
    if verify or given is None:
        try:
            _medmnist_file.check_official(path, dataset, size)
        except InputError:
            if fresh:  # what was just downloaded is of no use to anyone
                path.unlink()
            raise
    else:
        _medmnist_file.check_layout(path, dataset, size)
    return _medmnist_builder.build(dataset, size, path, root, verified=verify or given is None)
