"""What is in prepared TFDS datasets: images, decoded when they are asked for, and labels; without TensorFlow."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from transferjax._lazy import LazyImages
from transferjax._validate import InputError, fail, reason
from transferjax.data._resize import resized

AGAIN = "Remove the dataset's folder and prepare it again."

_THREADS = min(16, os.cpu_count() or 1)
_BLOCK = 64  # examples read by one call, which costs as much as reading ten
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Returns the folder where TFDS keeps its datasets: the one given, or TFDS's default."""
    return Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir).expanduser()


def opened_folder(folder: Path) -> tfds.core.DatasetBuilder:
    """Returns the dataset in a folder; raises `InputError` if its description cannot be read."""
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS and protocol buffers have many
        raise fail(str(folder), f"cannot be read ({reason(error)})", AGAIN) from error


class Records:
    """The examples of a split of a dataset in the format ArrayRecord, which several threads can read at random."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        """Opens the files; raises `InputError` if one is missing."""
        self.name = f"{builder.data_dir}, {split}"
        for instruction in builder.info.splits[split].file_instructions:
            if not os.path.isfile(instruction.filename):
                raise fail(str(instruction.filename), "is not there", AGAIN)
        self._source = builder.as_data_source(
            split, file_format="array_record", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )

    def __len__(self) -> int:
        """The number of examples n."""
        return len(self._source)

    def read(self, numbers: Sequence[int]) -> list[Any]:
        """Returns examples: name of a feature → its values as they are stored.

        Raises:
          InputError: one cannot be read; the message names it, or those that were read together.
        """
        try:
            return [
                tf_example_pb2.Example.FromString(data).features.feature
                for data in self._source.__getitems__(list(numbers))
            ]
        except Exception as error:  # ArrayRecord and protocol buffers have many
            if len(numbers) > 1:
                return [self.read([number])[0] for number in numbers]
            raise fail(f"{self.name}, example {numbers[0]}", f"cannot be read ({reason(error)})", AGAIN) from error

    def mapped(self, function: Callable[[int, Any], Any]) -> Iterator[Any]:
        """Yields `function(number, example)` of all examples in order; called in threads."""

        def block(start: int) -> list[Any]:
            numbers = range(start, min(start + _BLOCK, len(self)))
            return [function(number, example) for number, example in zip(numbers, self.read(numbers), strict=True)]

        pool = ThreadPoolExecutor(_THREADS)
        try:
            for results in pool.map(block, range(0, len(self), _BLOCK)):
                yield from results
        finally:
            pool.shutdown(cancel_futures=True)


class RecordImages(LazyImages):
    """The images of examples. Those asked for together are read together, which costs a fraction."""

    def __init__(
        self,
        records: Records,
        *,
        key: str,
        size: tuple[int, int],
        resize: int | None = None,
        hashes: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        """Keeps how to read.

        Args:
          records: the examples.
          key: of their image.
          size: height and width of all images; or, with `resize`, of any.
          resize: make every image this high and this wide: bilinear, antialiased.
          hashes: uint8 [n, b] of all examples' pixels, if they are known; else those of the encoded images are taken.
          rows: the examples' numbers; None for all.
        """
        self._options: dict[str, Any] = {"key": key, "size": size, "resize": resize, "hashes": hashes}
        self._records, self._key, self._size, self._resize, self._hashes = records, key, size, resize, hashes
        super().__init__(
            lambda number: self._decoded(number, records.read([number])[0]),
            rows=np.arange(len(records)) if rows is None else rows,
            size=size if resize is None else (resize, resize),
            fingerprint=self._hash,
        )

    def take(self, rows: slice | np.ndarray) -> RecordImages:
        """Returns the images of these rows, unread."""
        return RecordImages(self._records, **self._options, rows=self._rows[rows])

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        block = min(_BLOCK, max(1, -(-len(numbers) // _THREADS)))

        def fill(start: int) -> None:
            some = numbers[start : start + block].tolist()
            for place, (number, example) in enumerate(zip(some, self._records.read(some), strict=True), start):
                images[place] = self._decoded(number, example)

        pool = ThreadPoolExecutor(_THREADS)
        try:
            list(pool.map(fill, range(0, len(numbers), block)))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or ctrl-C the rest is not read
        return images

    def _decoded(self, number: int, example: Any) -> np.ndarray:
        argument = f"{self._records.name}, image {number}"
        with _opened(argument, image_bytes(example, self._key)) as image:
            rgb = _as_rgb(argument, image)
        if self._resize is not None:
            return np.asarray(resized(rgb, self._resize))
        if (rgb.height, rgb.width) != self._size:
            (h, w), (h0, w0) = (rgb.height, rgb.width), self._size
            raise fail(argument, f"{h} x {w} pixels (height x width) instead of {h0} x {w0}", AGAIN)
        return np.asarray(rgb)

    def _hash(self, number: int) -> bytes:
        if self._hashes is not None:
            known = self._hashes[number].tobytes()
        else:
            data = image_bytes(self._records.read([number])[0], self._key)
            known = hashlib.blake2b(data, digest_size=16).digest()
        return known if self._resize is None else known + self._resize.to_bytes(4, "little")


def image_bytes(example: Any, key: str) -> bytes:
    """Returns the encoded image of an example, empty if it has none."""
    return b"".join(example[key].bytes_list.value)


def size_of(argument: str, data: bytes) -> tuple[int, int]:
    """Returns height and width of an encoded image, of which only the head is read."""
    with _opened(argument, data) as image:
        return image.height, image.width


def _opened(argument: str, data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise _undecodable(argument, error) from error


def _as_rgb(argument: str, image: Image.Image) -> Image.Image:
    """Returns an image in mode RGB: grey repeated, transparency dropped."""
    if image.mode not in _EIGHT_BIT:
        raise fail(argument, f"has mode {image.mode!r}, not 8 bits per channel", "Choose a dataset of 8-bit images.")
    try:
        return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")
    except Exception as error:
        raise _undecodable(argument, error) from error


def _undecodable(argument: str, error: Exception) -> InputError:
    return fail(argument, f"cannot be decoded ({reason(error)})", AGAIN)
