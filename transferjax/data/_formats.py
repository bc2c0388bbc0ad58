"""What the readers of all file formats share: options, limits, messages, and how grey values get 8 bits."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

import numpy as np

from transferjax._validate import InputError, fail, positive, reason

MAX_PIXELS = 2**27
"""Most pixels of one image (11585 by 11585): a damaged or hostile header may claim any number."""

_REPLACE = "Replace or remove the file."


class Header(NamedTuple):
    """What a file says of its images before their pixels are read.

    Attributes:
      frames: how many images it holds.
      height: of each of them, as `read_image` returns it without `image_size`.
      width: likewise.
    """

    frames: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How files are read whose values or images can be taken in several ways.

    Attributes:
      window: centre and width of the values that become 0..255: centre − width / 2 gives 0, centre + width / 2 gives
        255. In the units of the file: Hounsfield units for a CT. It takes the place of the window in a DICOM file, of
        the percentiles of a NIfTI volume and of the whole range of 16-bit grey, and makes floats readable. Images with
        8 bits and coloured ones are taken as they are.
      nifti_axis: across which axis a NIfTI volume is cut: 0 gives sagittal slices, 1 coronal, 2 axial ones.
      nifti_stride: take every so manieth slice.
    """

    window: tuple[float, float] | None = None
    nifti_axis: int = 2
    nifti_stride: int = 1

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.window is not None:
            centre, width = self.window
            if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
                raise fail("window", f"{self.window}", "Give centre and width, two numbers; the width is above 0.")
        if self.nifti_axis not in (0, 1, 2):
            remedy = "Give 0 for sagittal slices, 1 for coronal or 2 for axial ones."
            raise fail("nifti_axis", f"{self.nifti_axis} is unknown", remedy)
        positive("nifti_stride", self.nifti_stride)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The values that become 0 and 255, if there is a window."""
        if self.window is None:
            return None
        centre, width = self.window
        return centre - width / 2, centre + width / 2


DEFAULTS = Options()


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns whatever is raised inside into an `InputError` that names the file: decoders raise nearly anything."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.strerror is None:  # Pillow's and gzip's own, not the system's
            raise _undecodable(path, error) from error
        remedy = "Remove the link." if error.errno == errno.ELOOP else "Check the path and its rights."
        raise fail(path, f"cannot be read ({error.strerror})", remedy) from error
    except Exception as error:
        raise _undecodable(path, error) from error


def _undecodable(path: str, error: Exception) -> InputError:
    return fail(path, f"cannot be decoded ({reason(error)})", _REPLACE)


def file_status(path: str) -> os.stat_result:
    """Returns the status of a file; raises `InputError` if it is empty or no file (a pipe would be waited for)."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
        raise fail(path, kind, "Give the path of an image.")
    if status.st_size == 0:
        raise fail(path, "is empty (0 bytes)", _REPLACE)
    return status


def check_pixels(path: str, height: int, width: int) -> None:
    """Raises `InputError` if an image has no pixels or more than `MAX_PIXELS`."""
    if height < 1 or width < 1:
        raise fail(path, f"{height} x {width} pixels (height x width)", _REPLACE)
    if height * width > MAX_PIXELS:
        raise too_big(path, f"{height} x {width} pixels (height x width)")


def too_big(path: str, found: str) -> InputError:
    """Returns the error for an image with more than `MAX_PIXELS`."""
    remedy = "Cut it into tiles or make it smaller; if it should be small, its header is damaged."
    return fail(path, f"{found}, more than the {MAX_PIXELS} that are read", remedy)


def chosen_frame(path: str, frame: int | None, frames: int) -> int:
    """Returns the number of the image to read: the only one if `frame` is None; raises `InputError` if out of range."""
    if frame is None:
        if frames > 1:
            raise fail(path, f"holds {frames} images", f"Name the one to read: frame=0 to frame={frames - 1}.")
        return 0
    if not 0 <= frame < frames:
        raise fail(path, f"has no frame {frame}, it holds {frames}", f"Give frame=0 to frame={frames - 1}.")
    return frame


def to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns values as uint8 of the same shape: `low` becomes 0, `high` 255, with rounding; NaN becomes 0.

    `low` may be above `high`. If they are equal there is nothing to show, and all becomes 0.
    """
    if low == high:
        return np.zeros(values.shape, np.uint8)
    scaled = np.subtract(values, low, dtype=np.float64)
    scaled *= 255
    scaled /= high - low
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    return np.nan_to_num(scaled, copy=False, nan=0).astype(np.uint8)


def repeated(grey: np.ndarray) -> np.ndarray:
    """Returns grey [h, w] as three equal channels [h, w, 3]."""
    return np.repeat(grey[..., None], 3, axis=2)


class Recent:
    """Keeps the arrays that were asked for last, up to a number of bytes, and always the very last one.

    Many threads may ask. One makes an array while the others wait: threads that read slices of one volume then read it
    once, and no two big volumes are unpacked at the same time.
    """

    def __init__(self, max_bytes: int) -> None:
        """Starts with nothing kept."""
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns the array kept under `key`, or what `make` returns."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
                while len(self._kept) > 1 and self._bytes() > self._max_bytes:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _bytes(self) -> int:
        return sum(array.nbytes for array in self._kept.values())
