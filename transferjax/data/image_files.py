"""Many image files as one set of images of one size, of which only headers are read at first."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from tqdm import tqdm

from transferjax._files import sha256
from transferjax._lazy import LazyImages
from transferjax._validate import InputError, fail
from transferjax.data import reading

SIZE_IF_MIXED = 224
"""What images of several sizes are brought to if nothing else is asked for: what most networks were trained on."""

_THREADS = min(16, os.cpu_count() or 1)
_LISTED = 5


class ImageFiles(NamedTuple):
    """The images of some files.

    Attributes:
      images: all frames of the first readable file, then those of the second, and so on.
      files: int64 [n], which file each image is of, counted in the list that was given.
    """

    images: LazyImages
    files: np.ndarray


def open_files(
    source: str,
    files: Sequence[Path],
    *,
    others: Sequence[Path] = (),
    image_size: int | None = None,
    skip_unreadable: bool = False,
    options: reading.Options = reading.DEFAULTS,
) -> ImageFiles:
    """Reads the headers of files, so that what cannot be an image is known before anything long begins.

    Args:
      source: what messages call the whole.
      files: images in any format of `reading.read_image`; each frame of a file is an image.
      others: files of the other splits, which get the same size.
      image_size: height and width to bring all images to; None for their own size if they and the others share one,
        else `SIZE_IF_MIXED`, and a warning says so.
      skip_unreadable: leave out what cannot be read, and say so; without, it is an error. All images are decoded once
        to find it out.
      options: how to read what can be read in several ways.

    Raises:
      InputError: a file that is no image, or no file at all can be read.
    """
    if not files:
        raise fail(source, "has no images", "Give at least one.")
    check = _decoded_header if skip_unreadable else reading.read_header
    label = "Checking images" if skip_unreadable else "Reading headers"
    headers = _each(lambda path: check(path, options=options), files, label, keep_going=skip_unreadable)
    readable = [i for i, header in enumerate(headers) if isinstance(header, reading.Header)]
    if len(readable) < len(files):
        _tell_left_out(source, [str(header) for header in headers if isinstance(header, InputError)], len(files))
    kept = [headers[i] for i in readable]
    own = {(header.height, header.width) for header in kept}
    if image_size is not None:
        size = (image_size, image_size)
    else:
        size = _common_size(source, own if len(own) > 1 else own | _sizes(others, check, options))
    frames = np.array([header.frames for header in kept], np.int64)
    places = np.repeat(np.array(readable, np.int64), frames)
    frame_of = np.concatenate([np.arange(count) for count in frames]) if len(frames) else np.empty(0, np.int64)

    def read(number: int) -> np.ndarray:
        path = files[places[number]]
        image = reading.read_image(path, frame=int(frame_of[number]), image_size=resize, options=options)
        if image.shape[:2] != size:
            found = f"is {image.shape[0]} x {image.shape[1]} pixels now, its header said {size[0]} x {size[1]}"
            raise fail(str(path), found, "Do not change files while they are read.")
        return image

    hashing: dict[int, threading.Lock] = {}

    @functools.cache  # a file may hold hundreds of frames
    def digest(place: int) -> bytes:
        with open(files[place], "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    def fingerprint(number: int) -> bytes:
        place, how = int(places[number]), f"frame {frame_of[number]}, {size}, {options}"
        with hashing.setdefault(place, threading.Lock()):  # threads ask for the frames of one file at the same time
            content = digest(place)
        return sha256(content, how.encode()).encode()

    resize = None if own == {size} else size[0]
    images = LazyImages(read, rows=np.arange(len(places)), size=size, fingerprint=fingerprint)
    return ImageFiles(images, places)


def files_as_groups(files: np.ndarray, numbers: np.ndarray) -> np.ndarray | None:
    """Returns groups int32 [n] of images that come from one file, such as slices; None if each has its own.

    Args:
      files: int [n], see `ImageFiles`.
      numbers: int, of each file: its own over all splits.
    """
    return None if len(np.unique(files)) == len(files) else numbers[files].astype(np.int32)


def _decoded_header(path: Path, *, options: reading.Options) -> reading.Header:
    header = reading.read_header(path, options=options)
    for frame in range(header.frames):
        reading.read_image(path, frame=frame, options=options)
    return header


def _each(fn: Callable[[Path], Any], files: Sequence[Path], label: str, *, keep_going: bool) -> list[Any]:
    """Returns what `fn` returns for each file, in order; errors too, or raises the first of them."""

    def of_file(path: Path) -> Any:
        try:
            return fn(path)
        except InputError as error:
            return error

    pool = ThreadPoolExecutor(_THREADS)
    found = []
    try:
        results: Iterable[Any] = pool.map(of_file, files)
        for result in tqdm(results, total=len(files), desc=label, unit="file", disable=None, leave=False):
            if isinstance(result, InputError) and not keep_going:
                raise result
            found.append(result)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _tell_left_out(source: str, problems: list[str], count: int) -> None:
    if len(problems) == count:
        raise fail(source, f"none of its {count} images can be read ({problems[0]})", "Give images.")
    more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    listed = "\n  ".join(problems[:_LISTED])
    logging.warning("%s: %d of %d files are left out:\n  %s%s", source, len(problems), count, listed, more)


def _sizes(
    files: Sequence[Path], check: Callable[..., reading.Header], options: reading.Options
) -> set[tuple[int, int]]:
    """Returns heights and widths; what cannot be read is told when its split is opened."""
    headers = _each(lambda path: check(path, options=options), files, "Reading other splits' headers", keep_going=True)
    return {(header.height, header.width) for header in headers if isinstance(header, reading.Header)}


def _common_size(source: str, sizes: set[tuple[int, int]]) -> tuple[int, int]:
    """Returns the height and width that all images get."""
    different = sorted(sizes)
    if len(different) == 1:
        return different[0]
    (h, w), (tall, wide) = different[0], different[-1]
    logging.warning(
        "%s: images of %d sizes (height x width, from %d x %d to %d x %d); each is resized to %d x %d. "
        "Give image_size to choose another.",
        source, len(different), h, w, tall, wide, SIZE_IF_MIXED, SIZE_IF_MIXED,
    )  # fmt: skip
    return SIZE_IF_MIXED, SIZE_IF_MIXED
