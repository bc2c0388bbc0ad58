"""NIfTI volumes, cut into slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from transferjax._validate import fail
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

SUFFIXES = (".nii", ".nii.gz")
PERCENTILES = (0.5, 99.5)
"""Without a window, these percentiles of a volume's values become 0 and 255."""
MAX_VOXELS = 2**30
"""Most voxels of a volume, which is unpacked in memory as a whole."""

_GZIP_FACTOR = 1032  # deflate cannot pack more densely
_volumes = Recent(max_bytes=2**29)


def read_header(path: str, options: Options) -> Header:
    """Returns how many slices a volume gives and their size, without reading its voxels.

    Raises:
      InputError: it is not a NIfTI volume, has several volumes or no real numbers, or claims more than it can hold.
    """
    image = _opened(path)
    shape = _canonical_shape(image)
    count = shape.pop(options.nifti_axis)
    width, height = shape
    check_pixels(path, height, width)
    return Header(-(-count // options.nifti_stride), height, width)


def read_frame(path: str, frame: int | None, options: Options) -> np.ndarray:
    """Reads one slice as uint8 [h, w, 3].

    The volume is first brought to the nearest of the axis-parallel orientations (RAS: the axes point to the patient's
    right, front and top), without interpolation. Slices are counted towards the right, the front or the top, and are
    shown as radiologists see them: front up in axial slices, head up in the others; the patient's right is on the
    image's left in axial and coronal slices, the front is on the left in sagittal ones. Voxels are taken as square.

    Without a window, the percentiles 0.5 and 99.5 of the whole volume become 0 and 255, so that its slices are
    comparable; if they are equal, as where nearly everything is background, the smallest and the biggest value do. What
    is not finite becomes 0.

    Args:
      path: the file.
      frame: which of the slices that `read_header` counts.
      options: window, axis and stride.
    """
    header = read_header(path, options)
    place = chosen_frame(path, frame, header.frames) * options.nifti_stride
    status = file_status(path)
    key = (path, status.st_mtime_ns, status.st_size, options.window)
    volume = _volumes.get(key, lambda: _volume(path, options.bounds))
    plane = np.take(volume, place, axis=options.nifti_axis)
    return repeated(np.flip(plane).T)


def _opened(path: str) -> Any:
    """Returns the nibabel image, its voxels unread, after all checks that its header allows."""
    try:
        import nibabel
    except ImportError as error:
        found = "NIfTI needs the package nibabel, which is not installed"
        raise fail(path, found, "Run: pip install 'transferjax[medical]'.") from error

    status = file_status(path)
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one; CIFTI's surfaces are not
        raise fail(path, f"holds no volume of voxels ({type(image).__name__})", "Remove the file.")
    shape = image.shape
    if any(size > 1 for size in shape[3:]):
        found = f"holds several volumes ({' x '.join(map(str, shape))})"
        raise fail(path, found, "Save each as a file of its own, see nibabel.four_to_three.")
    if len(shape) < 2:
        raise fail(path, f"{len(shape)} axes, no image", "Remove the file.")
    dtype = image.get_data_dtype()
    if dtype.kind not in "buif":
        raise fail(path, f"its voxels are no real numbers ({dtype})", "Save it with one number per voxel.")
    voxels = int(np.prod(shape, dtype=object))
    if voxels > MAX_VOXELS:
        found = f"{voxels} voxels ({' x '.join(map(str, shape))}), more than the {MAX_VOXELS} that are read"
        raise fail(path, found, "Cut it into parts; if it should be small, its header is damaged.")
    holds = status.st_size * (_GZIP_FACTOR if path.lower().endswith(".gz") else 1)
    if voxels * dtype.itemsize > holds:
        found = f"its header claims {voxels} voxels, the file is too small for them ({status.st_size} bytes)"
        raise fail(path, found, "Replace or remove the file.")
    return image


def _orientation(image: Any) -> np.ndarray:
    """Returns which axis each of the three axes becomes in RAS, and its direction: [3, 2] as nibabel has it."""
    import nibabel

    orientation = nibabel.io_orientation(image.affine)
    if np.isnan(orientation).any():
        found = "its affine matrix does not say how the volume lies"
        raise fail(image.get_filename(), found, "Repair its sform or qform.")
    return orientation


def _canonical_shape(image: Any) -> list[int]:
    """Returns the volume's shape in RAS."""
    shape = [*image.shape, 1][:3]
    canonical = [0, 0, 0]
    for size, axis in zip(shape, _orientation(image)[:, 0].astype(int), strict=True):
        canonical[axis] = size
    return canonical


def _volume(path: str, bounds: tuple[float, float] | None) -> np.ndarray:
    """Reads a volume as uint8 in RAS. Its stored numbers are widened slab by slab only: they can be many."""
    import nibabel

    image = _opened(path)
    stored = np.asarray(image.dataobj.get_unscaled())
    stored = stored.reshape([*stored.shape, 1][:3], order="F")
    slope, offset = float(image.dataobj.slope), float(image.dataobj.inter)
    if bounds is None:
        low, high = sorted(value * slope + offset for value in _robust_range(stored))  # a slope may be negative
    else:
        low, high = bounds
    shown = np.empty(stored.shape, np.uint8, order="F")
    for k in range(stored.shape[2]):
        shown[:, :, k] = to_bytes(stored[:, :, k].astype(np.float64) * slope + offset, low, high)
    return nibabel.apply_orientation(shown, _orientation(image))


def _robust_range(stored: np.ndarray) -> tuple[float, float]:
    """Returns the percentiles of what is finite; the extremes if they are equal."""
    finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
    if finite.size == 0:
        return 0.0, 0.0
    low, high = (float(value) for value in np.percentile(finite, PERCENTILES))
    return (low, high) if low < high else (float(finite.min()), float(finite.max()))
