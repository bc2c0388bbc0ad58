"""DICOM images, as their files say they should be shown."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from transferjax._validate import fail, reason
from transferjax.data._dicom_grey import facts_of_frame, shown, value_range
from transferjax.data._formats import (
    Header,
    Options,
    Recent,
    check_pixels,
    chosen_frame,
    file_status,
    repeated,
    to_bytes,
)
from transferjax.data._jpeg import DECODER_DEPENDENCIES

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom", ".ima")

_CONVERT = "Remove the file, or convert its pixels."
# One decoder for each compression, tried out on damaged pixels: of those that pydicom would try by itself, some end the
# whole process then.
_OWN = "transferjax"
_PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG Baseline
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    **dict.fromkeys(DECODER_DEPENDENCIES, _OWN),
}
# It logs tracebacks of what it then raises; these would stand between the lines of a progress bar.
logging.getLogger("pydicom.pixels.decoders.base").setLevel(logging.CRITICAL)
_adding = threading.Lock()
_ranges = Recent(max_bytes=2**20)


def has_magic(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file says at its beginning that it is DICOM; such files often have no suffix."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_header(path: str, options: Options) -> Header:
    """Returns how many images a file holds and their size, without reading their pixels.

    Raises:
      InputError: it is not DICOM, holds no image or one of an unknown kind, claims more pixels than it can hold, or is
        compressed in a way for which no decoder is installed.
    """
    dataset = _opened(path)
    return Header(_count(dataset), int(dataset.Rows), int(dataset.Columns))


def read_frame(path: str, frame: int | None, options: Options) -> np.ndarray:
    """Reads one image as uint8 [h, w, 3].

    Grey values go through the modality's rescaling or table, then through the first window or table of values of
    interest (a table wins over a window); what the standard wants per frame is taken per frame. Without any of these,
    values of at most 8 bits keep the range of their bits, so that images stay comparable; of wider ones, the smallest
    and the biggest value of all the file's frames become 0 and 255, padding not counted. MONOCHROME1 is inverted.
    Palettes and YBR become RGB; coloured values of more than 8 bits are scaled from the range of these bits.
    Pixels are taken as square; overlays and colour profiles are left out.

    Args:
      path: the file.
      frame: which of the images.
      options: a window takes the place of the file's.

    References:
      DICOM PS3.3, C.7.6.3 (Image Pixel), C.11.1 (Modality LUT) and C.11.2 (VOI LUT).
    """
    from pydicom.pixels import apply_color_lut

    dataset = _opened(path)
    frame = chosen_frame(path, frame, _count(dataset))
    values = _decoded(path, dataset, frame)
    if dataset.SamplesPerPixel == 3:
        return values if dataset.BitsStored == 8 else to_bytes(values, 0, 2**dataset.BitsStored - 1)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)[..., :3]
        return colours if colours.dtype == np.uint8 else to_bytes(colours, 0, 2**16 - 1)
    facts = _facts(path, dataset)(frame)

    def range_of_file() -> np.ndarray:
        if _count(dataset) == 1:
            return value_range(values, facts)
        return _ranges.get(_version(path), lambda: _range_of_file(path, dataset))

    grey = shown(path, values, facts, options, range_of_file)
    return repeated(255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey)


def _opened(path: str) -> Dataset:
    """Returns all but the pixels, after all checks that this allows; the transfer syntax is filled in if missing."""
    try:
        import pydicom
    except ImportError as error:
        found = "DICOM needs the package pydicom, which is not installed"
        raise fail(path, found, "Run: pip install 'transferjax[medical]'.") from error

    status = file_status(path)
    with open(path, "rb") as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)  # forced: old files lack the preamble
        ended = not file.read(1)
    if "Rows" not in dataset and not has_magic(path):
        raise fail(path, "is no DICOM image", "Replace or remove the file.")
    syntax = dataset.file_meta.get("TransferSyntaxUID") or _implied_syntax(dataset)
    dataset.file_meta.TransferSyntaxUID = syntax
    if not dataset.get("Rows") or not dataset.get("Columns") or (ended and not syntax.is_deflated):
        raise fail(path, f"holds no image (modality {dataset.get('Modality') or 'unknown'})", "Remove the file.")
    check_pixels(path, dataset.Rows, dataset.Columns)
    _check_kind(path, dataset)
    _check_size(path, dataset, status.st_size)
    _plugin(path, syntax)
    return dataset


def _implied_syntax(dataset: Dataset) -> Any:
    """Returns the transfer syntax of a file that does not name it: that in which its header could be read."""
    from pydicom import uid

    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _count(dataset: Dataset) -> int:
    """Returns the number of frames; single images often do not name it, or as 0."""
    return int(dataset.get("NumberOfFrames") or 1)


def _check_kind(path: str, dataset: Dataset) -> None:
    """Raises unless the pixels are grey, of a palette or of three colours."""
    photometric = dataset.get("PhotometricInterpretation") or "none"
    samples = dataset.get("SamplesPerPixel")
    single = samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    if not single and not (samples == 3 and photometric.startswith(("RGB", "YBR"))):
        raise fail(path, f"{samples} samples per pixel, photometric interpretation {photometric}", _CONVERT)


def _check_size(path: str, dataset: Dataset, size: int) -> None:
    """Raises if the frames cannot be in a file of this size."""
    syntax, frames = dataset.file_meta.TransferSyntaxUID, _count(dataset)
    if syntax.is_deflated:
        return
    least = 8 * frames  # bytes of a compressed frame's item alone
    if not syntax.is_encapsulated:
        # YBR_FULL_422 keeps two samples per pixel instead of three
        samples = 2 if dataset.PhotometricInterpretation == "YBR_FULL_422" else dataset.SamplesPerPixel
        least = frames * dataset.Rows * dataset.Columns * samples * dataset.BitsAllocated // 8
    if frames < 1 or least > size:
        found = f"claims {frames} frames of {dataset.Rows} x {dataset.Columns} pixels, but has only {size} bytes"
        raise fail(path, found, "Replace or remove the file.")


def _plugin(path: str, syntax: Any) -> str:
    """Returns the name of pydicom's plugin that decodes a transfer syntax; "" for pixels that are not compressed.

    Raises:
      InputError: there is none, or it is not installed.
    """
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise fail(path, f"its pixels are coded as {syntax.name}, which cannot be read", _CONVERT) from error
    if not syntax.is_encapsulated:
        return ""
    plugin = _PLUGINS.get(syntax)
    if plugin is None:
        raise fail(path, f"its pixels are coded as {syntax.name}, which cannot be read", _CONVERT)
    if plugin == _OWN:
        _add_own(decoder)
    if plugin not in decoder.available_plugins:
        needed = next(text for text in decoder.missing_dependencies if text.startswith(plugin))
        found = f"compressed as {syntax.name}, for which a decoder is missing ({needed})"
        raise fail(path, found, "Run: pip install 'transferjax[medical]'.")
    return plugin


def _add_own(decoder: Any) -> None:
    """Tells a decoder of pydicom of `transferjax.data._jpeg`, once."""
    with _adding:
        missing = [text.split(" ")[0] for text in decoder.missing_dependencies]  # "<plugin> - requires <packages>"
        if _OWN not in (*decoder.available_plugins, *missing):
            decoder.add_plugin(_OWN, ("transferjax.data._jpeg", "decode_frame"))


@contextlib.contextmanager
def _telling_why(path: str) -> Iterator[None]:
    """Shortens what pydicom says when its decoder gave up: the cause, without words about all plugins."""
    try:
        yield
    except RuntimeError as error:
        cause = reason(error).rpartition("available plugins: ")[2]
        raise fail(path, f"cannot be decoded ({cause})", "Replace or remove the file.") from error


def _decoded(path: str, dataset: Dataset, frame: int) -> np.ndarray:
    """Returns the stored values of one frame: [h, w], or [h, w, 3] in RGB."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_deflated:  # the whole file is compressed, so there is no reading a part of it
        return pixel_array(dcmread(path), index=frame)
    with _telling_why(path):
        return pixel_array(path, index=frame, transfer_syntax_uid=syntax, decoding_plugin=_plugin(path, syntax))


def _facts(path: str, dataset: Dataset) -> Callable[[int], Dataset]:
    """Returns a function from a frame to what is needed to show it."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return functools.partial(facts_of_frame, dataset)
    return _facts_of_all(*_version(path)).__getitem__


def _version(path: str) -> tuple[str, int, int]:
    """Returns what changes when the file does."""
    status = file_status(path)
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=8)
def _facts_of_all(path: str, _modified: int, _size: int) -> list[Dataset]:
    """Returns the facts of each frame; kept, since the long list of frames would be taken apart for each of them."""
    dataset = _opened(path)
    return [facts_of_frame(dataset, frame) for frame in range(_count(dataset))]


def _range_of_file(path: str, dataset: Dataset) -> np.ndarray:
    """Returns the range of values over all frames, which are decoded one after the other."""
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels

    syntax, facts = dataset.file_meta.TransferSyntaxUID, _facts(path, dataset)
    if syntax.is_deflated:
        frames = iter_pixels(dcmread(path))
    else:
        frames = iter_pixels(path, transfer_syntax_uid=syntax, decoding_plugin=_plugin(path, syntax))
    with _telling_why(path):
        lows, highs = np.transpose([value_range(values, facts(frame)) for frame, values in enumerate(frames)])
    return np.array([np.fmin.reduce(lows), np.fmax.reduce(highs)])  # NaN only where all are
