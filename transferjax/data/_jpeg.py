"""A decoder for pydicom of the JPEG kinds that Pillow lacks: more than 8 bits, lossless, JPEG-LS and JPEG 2000.

pydicom finds it by `Decoder.add_plugin`, see `transferjax.data.dicom`. Of the decoders with a free licence that pydicom
itself knows, GDCM ends the whole process on damaged pixels, CharLS takes seconds over a frame that is cut off, and
OpenJPEG gigabytes for one with a wrong size. Here such frames are refused, and imagecodecs decodes the others.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from transferjax._validate import InputError

_NEEDS = ("imagecodecs>=2024.6.1",)
_JPEG = (
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless, any predictor
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first predictor
    "1.2.840.10008.1.2.4.80",  # JPEG-LS, lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS, near lossless
)
_JPEG_2000 = (
    "1.2.840.10008.1.2.4.90",  # JPEG 2000, lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000, lossless
    "1.2.840.10008.1.2.4.202",  # High-Throughput JPEG 2000, lossless, resolution by resolution
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
)
DECODER_DEPENDENCIES = dict.fromkeys(_JPEG + _JPEG_2000, _NEEDS)
"""What is needed for which transfer syntax; pydicom asks for this name."""

_JPEG_LS = 0xF7
_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)  # among the markers C0 to CF


def is_available(uid: str) -> bool:
    """Returns whether it can decode this transfer syntax here."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None


def decode_frame(stream: bytes, runner: Any) -> bytes:
    """Returns the values of one compressed frame, as pydicom's decoders do.

    Args:
      stream: the frame: JPEG, JPEG-LS or JPEG 2000.
      runner: pydicom's record of what the file says of its pixels; it is told of what form the values are.

    Raises:
      InputError: the stream is cut off or does not have the size that the file says. Decoders would make a picture of
        it, or take the memory and time that a wrong size asks for.
    """
    import imagecodecs

    jpeg_2000 = runner.transfer_syntax in _JPEG_2000
    marker, size = (None, _sizes(stream)) if jpeg_2000 else _frame_header(stream)
    said = (runner.rows, runner.columns, runner.samples_per_pixel)
    if size != said:
        raise InputError(f"the compressed image has rows, columns and samples {size} instead of {said}")
    if jpeg_2000:
        values = imagecodecs.jpeg2k_decode(stream, planar=False)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # JPEG 2000's own, which decoding undoes
            runner.set_option("photometric_interpretation", "RGB")
    elif not stream.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # padding may follow the end
        raise InputError("the compressed image is cut off")
    elif marker == _JPEG_LS:
        values = imagecodecs.jpegls_decode(stream)
    else:
        kept = None if size[2] == 1 else "RGB"  # from and to the same: pydicom changes colours itself
        values = imagecodecs.jpeg8_decode(stream, colorspace=kept, outcolorspace=kept)
    runner.set_option("bits_allocated", 8 * values.dtype.itemsize)
    if size[2] > 1:
        runner.set_option("planar_configuration", 0)
    return values.tobytes()


def _frame_header(stream: bytes) -> tuple[int, tuple[int, int, int]]:
    """Returns the marker of the frame header, and rows, columns and samples that stand there (ITU T.81, B.2.2)."""
    place = 2
    while place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        if marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER):
            return marker, (_number(stream, place + 5, 2), _number(stream, place + 7, 2), stream[place + 9])
        place += 2 + _number(stream, place + 2, 2)
    raise InputError("the compressed image has no header")


def _sizes(stream: bytes) -> tuple[int, int, int]:
    """Returns rows, columns and samples of a JPEG 2000 code stream, from its SIZ segment (ITU T.800, A.5.1)."""
    start = stream.find(b"\xff\x4f\xff\x51")  # a JP2 file has boxes before it
    if start < 0:
        raise InputError("the compressed image has no header")
    right, bottom, left, top = (_number(stream, start + place, 4) for place in (8, 12, 16, 20))
    return bottom - top, right - left, _number(stream, start + 40, 2)


def _number(data: bytes, place: int, length: int) -> int:
    return int.from_bytes(data[place : place + length], "big")
