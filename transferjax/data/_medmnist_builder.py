"""The TFDS datasets of MedMNIST. It imports TFDS, which takes half a second: import it where it is needed."""

from __future__ import annotations

import contextlib
import fcntl  # not on Windows, where there is no ArrayRecord either
import functools
import hashlib
import io
import itertools
import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from tqdm import tqdm

from transferjax._validate import fail, reason
from transferjax.data import _medmnist_file, _npz_stream, medmnist_info
from transferjax.data._checks import SPLITS
from transferjax.data._tfds_images import AGAIN

VERSION = "1.0.0"
INDEX = "index.npz"
"""Beside the images: labels and hashes of the pixels of each split, which can so be had without reading the images."""

_SHARD_BYTES, _SHARD_IMAGES = 64 << 20, 1 << 14
"""Of pixels, and at most, per file: TFDS keeps the encoded images of a file in memory until it has written it."""

_HASH_BYTES = 16

_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""On photographs: as small as Pillow's default, three times as fast."""

_Shard = Callable[[], Iterator[tuple[int, dict[str, Any]]]]


class _MedMNIST(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What the sets have in common; the file is looked for in `manual_dir`.

    Shard by shard, because TFDS's other builders hold up to a gigabyte in memory and then ask for TensorFlow.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012 - as TFDS has it
        tfds.core.BuilderConfig(name=str(size), description=f"{size} x {size} pixels.") for size in medmnist_info.SIZES
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The file as MedMNIST names it, such as bloodmnist.npz or bloodmnist_224.npz."

    def _info(self) -> tfds.core.DatasetInfo:
        info = medmnist_info.info(self.name)
        size = int(self.builder_config.name)
        count = len(info.class_names)
        if info.task == "multilabel":
            label = tfds.features.Tensor(
                shape=(count,), dtype=np.int8, doc=f"0 or 1 for: {'; '.join(info.class_names)}"
            )
        else:
            label = tfds.features.ClassLabel(names=info.class_names)
        image = tfds.features.Image(shape=(size, size, info.channels), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{info.python_class}, task: {info.task}.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            homepage="https://medmnist.com",
            license=info.license,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def download_and_prepare(self, **options: Any) -> None:
        """Does as TFDS says, alone of all processes; what a killed one left is removed first."""
        folder = Path(self.data_dir).parents[1]  # of the set, with all its sizes
        with _alone(folder):
            for left in itertools.chain(folder.glob("[0-9]*/incomplete.*"), folder.glob(".config/incomplete.*")):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            super().download_and_prepare(**options)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        size = int(self.builder_config.name)
        path = Path(dl_manager.manual_dir) / medmnist_info.file_name(self.name, size)
        self._path, self._numbers = path, _medmnist_file.check_layout(path, self.name, size)
        self._index: dict[str, Any] = {}
        for split in SPLITS:
            self._index[f"{split}_labels"] = _medmnist_file.checked_labels(path, self.name, split)
            self._index[f"{split}_hashes"] = np.empty((self._numbers[split], _HASH_BYTES), np.uint8)
        super()._download_and_prepare(dl_manager, download_config)
        np.savez(Path(self.data_dir) / INDEX, **self._index)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[_Shard]]:
        del dl_manager
        return {split: self._shards(split) for split in SPLITS}

    def _shards(self, split: str) -> list[_Shard]:
        """Returns what yields the examples of each file of a split; to be exhausted in this order."""
        n = self._numbers[split]
        at_once = min(_SHARD_IMAGES, max(1, _SHARD_BYTES // math.prod(self.info.features["image"].shape)))
        count = -(-n // at_once)
        bounds = [n * i // count for i in range(count + 1)]
        examples = self._examples(split)

        def shard(number: int) -> Iterator[tuple[int, dict[str, Any]]]:
            yield from itertools.islice(examples, bounds[number + 1] - bounds[number])
            if number == count - 1:
                yield from examples  # there is none, but the array's checksum is compared

        return [functools.partial(shard, i) for i in range(count)]

    def _examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images = _npz_stream.rows(self._path, f"{split}_images")
        labels, hashes = (self._index[f"{split}_{kind}"] for kind in ("labels", "hashes"))
        described = f"{self.name} {self.builder_config.name} {split}"
        bar = tqdm(images, total=len(labels), desc=described, unit="image", disable=None, leave=False)
        for number, image in enumerate(bar):
            hashes[number] = np.frombuffer(hashlib.blake2b(image, digest_size=_HASH_BYTES).digest(), np.uint8)
            yield number, {"image": _png(image), "label": labels[number]}

    def _log_download_bytes(self) -> None:
        """Says nothing: TFDS would print sizes that it does not know."""

    def _log_download_done(self) -> None:
        """Says nothing: the caller does."""


def _png(image: np.ndarray) -> bytes:
    """Returns an image as PNG; TFDS's own encoder asks for TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **_PNG)
    return file.getvalue()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process writes in a folder; when a process ends, however it does, others may."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning("Another process prepares %s; waiting until it is done.", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


BUILDERS: dict[str, type[_MedMNIST]] = {
    name: type(info.python_class, (_MedMNIST,), {"name": name, "__module__": __name__, "__doc__": f"{name}."})
    for name, info in medmnist_info.INFO.items()
}
"""Name → TFDS builder."""


def build(dataset: str, size: int, path: Path, root: Path, *, verified: bool) -> Path:
    """Makes the TFDS dataset of a file that has the right layout.

    Args:
      dataset: such as `"bloodmnist"`.
      size: 28, 64, 128 or 224.
      path: of the file, named as MedMNIST names it.
      root: where TFDS keeps its datasets.
      verified: whether it is known to be the official file; kept in the dataset's `metadata.json`.

    Returns:
      The folder of the dataset.

    Raises:
      InputError: the file is damaged, or the folder cannot be written.
    """
    builder = BUILDERS[dataset](config=str(size), data_dir=root, file_format="array_record")
    builder.info.metadata["verified"] = verified
    config = tfds.download.DownloadConfig(manual_dir=path.parent, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_dir=root / "downloads", download_config=config)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "() failed: " not in str(error):  # else it is ArrayRecord's of its file
            raise
        found = f"cannot be written ({reason(error)})"
        raise fail(str(builder.data_dir), found, "Make room or choose another data_dir.") from error
    return Path(builder.data_dir)


def read_index(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels, int32 [n] or int8 [n, c], and hashes of the images, uint8 [n, b], of a split of a prepared set.

    Raises:
      InputError: the file cannot be read.
    """
    path = folder / INDEX
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[f"{split}_labels"]), np.asarray(file[f"{split}_hashes"])
    except Exception as error:  # NumPy and zipfile have many
        raise fail(str(path), f"cannot be read ({reason(error)})", AGAIN) from error
