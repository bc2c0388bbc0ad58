"""One image of one file as 8-bit RGB, whatever the file's format."""

from __future__ import annotations

import os
import re
from types import ModuleType

import numpy as np
from PIL import Image, ImageOps

from transferjax._validate import fail, positive
from transferjax.data import dicom, nifti
from transferjax.data._formats import (
    DEFAULTS,
    MAX_PIXELS,
    Header,
    Options,
    check_pixels,
    chosen_frame,
    file_status,
    naming,
    to_bytes,
    too_big,
)
from transferjax.data._resize import resized

__all__ = [
    "DEFAULTS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Header",
    "Options",
    "is_image_file",
    "is_image_name",
    "read_header",
    "read_image",
]

# fmt: off
_PICTURE_SUFFIXES = (  # what Pillow reads
    ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"
)
# fmt: on
IMAGE_SUFFIXES = frozenset([*_PICTURE_SUFFIXES, *dicom.SUFFIXES, *nifti.SUFFIXES])
# Pillow knows more formats than one would take from strangers: PostScript runs programs.
_PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_SWAPS_SIDES = (5, 6, 7, 8)  # EXIF orientations


def is_image_name(name: str) -> bool:
    """Returns whether a file's name ends like an image's; capital letters do not matter."""
    return name.lower().endswith(tuple(IMAGE_SUFFIXES))


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file's name ends like an image's or it begins like a DICOM file, which often has no suffix.

    Raises:
      InputError: the file cannot be read.
    """
    path = os.fspath(path)
    if is_image_name(path):
        return True
    with naming(path):
        file_status(path)
        return dicom.has_magic(path)


def read_header(path: str | os.PathLike[str], *, options: Options = DEFAULTS) -> Header:
    """Returns how many images a file holds and their size, without reading their pixels.

    Args:
      path: the file, as for `read_image`.
      options: as for `read_image`.

    Raises:
      InputError: the file cannot be read, is empty or no image, its header is damaged or claims more than `MAX_PIXELS`
        per image, its images differ in size, or what it holds cannot be shown. The pixels may be damaged all the same.
    """
    path = os.fspath(path)
    with naming(path):
        file_status(path)
        special = _special(path)
        return special.read_header(path, options) if special else _picture_header(path, options)


def read_image(
    path: str | os.PathLike[str],
    *,
    frame: int | None = None,
    image_size: int | None = None,
    options: Options = DEFAULTS,
) -> np.ndarray:
    """Reads one image as uint8 [h, w, 3].

    Pictures (PNG, JPEG, TIFF, BMP, WebP ...): the camera's orientation (EXIF) is applied, of a PNG only where it stands
    before the pixels. Grey is repeated; palettes and CMYK become RGB; transparency is dropped; 16-bit grey is divided
    by 257, so that 65535 becomes 255, or goes through the window. Of a TIFF with fewer bits the largest value that they
    can hold becomes 255, and one whose 0 is white is inverted; of a PNG nobody can tell how many bits are used: give a
    window. The pages of a TIFF are its frames; an animation is refused.

    DICOM: see `transferjax.data.dicom.read_frame`. NIfTI: see `transferjax.data.nifti.read_frame`; its frames are
    slices.

    Args:
      path: the file. Its suffix tells its format; without a known one it is DICOM if it begins so, else a picture.
      frame: which of its images, from 0; None if it has to be the only one.
      image_size: make it this high and this wide: bilinear, antialiased.
      options: how to read what can be read in several ways.

    Raises:
      InputError: it cannot be decoded, has no such frame, is too big (`MAX_PIXELS`), or holds values of an unknown
        range (floats or 32 bits without a window); the message names the file.
    """
    path = os.fspath(path)
    if image_size is not None:
        positive("image_size", image_size)
    with naming(path):
        file_status(path)
        special = _special(path)
        image = special.read_frame(path, frame, options) if special else _picture(path, frame, options)
        if image_size is None:
            return image
        return np.array(resized(Image.fromarray(image), image_size))


def _special(path: str) -> ModuleType | None:
    """Returns the module that reads the file, or None for a picture."""
    lower = path.lower()
    if lower.endswith(nifti.SUFFIXES):
        return nifti
    if lower.endswith(dicom.SUFFIXES):
        return dicom
    return None if is_image_name(path) or not dicom.has_magic(path) else dicom


def _opened(path: str, options: Options) -> Image.Image:
    """Opens a picture, its pixels unread, and checks its size and the range of its values."""
    try:
        image = Image.open(path, formats=_PICTURE_FORMATS)
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+ pixels", str(error))
        raise too_big(path, count.group() if count else "too many pixels") from error
    check_pixels(path, image.height, image.width)
    if image.mode == "F" or (image.mode == "I" and not _is_sixteen_bit(image)):
        kind = "32-bit whole numbers" if image.mode == "I" else "floats"
        if options.window is None:
            remedy = "Save it with 8 bits per channel, or give a window (centre, width)."
            raise fail(path, f"holds {kind}, whose range is not known", remedy)
    return image


def _is_sixteen_bit(image: Image.Image) -> bool:
    """Returns whether it is grey of 16 bits, for which Pillow has several modes."""
    return image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _count(path: str, image: Image.Image) -> int:
    """Returns the number of frames; raises if it is an animation."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":  # MPO: a camera's JPEG with its preview
        return 1
    if image.format != "TIFF":
        raise fail(path, f"holds {frames} images", "Save each as a file of its own.")
    return frames


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; of a PNG, one behind the pixels is not looked for, since they were decoded then."""
    if image.format == "PNG" and not image.info.keys() & {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}:
        return 1
    exif = Image.Image.getexif(image)  # not PNG's own, which decodes
    return exif.get(0x0112, 1)


def _picture_header(path: str, options: Options) -> Header:
    with _opened(path, options) as image:
        frames = _count(path, image)
        sizes = {_upright_size(image)}
        for page in range(1, frames):
            image.seek(page)
            sizes.add(_upright_size(image))
            check_pixels(path, image.height, image.width)
        if len(sizes) > 1:
            listed = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:5])
            found = f"its {frames} images differ in size (height x width: {listed})"
            raise fail(path, found, "Save those to use as files of their own.")
        return Header(frames, *sizes.pop())


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns height and width after the orientation is applied."""
    swapped = _orientation(image) in _SWAPS_SIDES
    if swapped and image.format == "TIFF":  # whose size Pillow swaps at opening or at loading, as its version is
        image = ImageOps.exif_transpose(image)
        return image.height, image.width
    return (image.width, image.height) if swapped else (image.height, image.width)


def _picture(path: str, frame: int | None, options: Options) -> np.ndarray:
    """Reads a picture as uint8 [h, w, 3]."""
    with _opened(path, options) as image:
        chosen = chosen_frame(path, frame, _count(path, image))
        if chosen:
            image.seek(chosen)
            check_pixels(path, image.height, image.width)
        upright = _orientation(image) == 1
        black, white = _range(image, options)
        image.load()
        return np.array(_as_rgb(image if upright else ImageOps.exif_transpose(image), black, white))


def _range(image: Image.Image, options: Options) -> tuple[float, float]:
    """Returns which values of more than 8 bits become 0 and 255."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose values can have 12 bits, or be white where they are 0
    bits = max(tags.get(_BITS_PER_SAMPLE, (16,)))
    low, high = options.bounds or (0, 2 ** (bits if 8 < bits < 16 else 16) - 1)
    return (high, low) if tags.get(_PHOTOMETRIC) == 0 else (low, high)


def _as_rgb(image: Image.Image, black: float, white: float) -> Image.Image:
    """Returns the image in mode RGB."""
    if image.mode in (*_SIXTEEN_BIT, "I", "F"):
        low, high = black, white
        image = Image.fromarray(to_bytes(np.asarray(image), low, high))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")
