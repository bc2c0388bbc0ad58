"""Data sets in folders: one sub-folder per class, or `train`, `val` and `test` with one sub-folder per class each."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from transferjax._validate import InputError, fail
from transferjax.data._checks import SPLITS, checked_dataset, enough_per_class
from transferjax.data._resize import resized
from transferjax.types import TargetDataset

IMAGE_SUFFIXES = frozenset(
    [".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"]
)
_THREADS = 4
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def load_folder(path: str | os.PathLike[str], *, split: str = "train", image_size: int | None = None) -> TargetDataset:
    """Loads the images of one split of a folder.

    Class names are the sub-folders' names, sorted. If the folder has a sub-folder `train` which has sub-folders itself,
    then `train`, `val` and `test` are splits, and a class is one that any of them has. Otherwise everything is
    `train`. Files come in sorted order. Hidden files, files without an image's suffix and folders below a
    class are not read. Images are taken as `read_image` says.

    Args:
      path: the folder.
      split: `"train"`, `"val"` or `"test"`.
      image_size: make every image this high and this wide; without it all have to be of one size.

    Returns:
      The data set, named as the folder is.

    Raises:
      InputError: no such split, a class without enough images, an image that cannot be decoded, or images of several
        sizes; the message names the folder or the file.
    """
    root = Path(path)
    folder, class_names = _classes(root, split)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = _image_files(folder / name)
        files += found
        labels += [label] * len(found)
    numbers = np.array(labels, np.int32)
    enough_per_class(str(folder), numbers, class_names)  # before reading them
    images = _read_all(files, image_size)
    return checked_dataset(
        str(folder), name=root.resolve().name, images=images, labels=numbers, class_names=class_names
    )


def read_image(path: str | os.PathLike[str], *, image_size: int | None = None) -> np.ndarray:
    """Reads one image as uint8 [h, w, 3].

    The camera's orientation (EXIF) is applied. Grey is repeated; palettes and CMYK become RGB; transparency is dropped;
    16-bit grey is divided by 257, so that 65535 becomes 255.

    Args:
      path: the file.
      image_size: make it this high and this wide: bilinear, antialiased.

    Raises:
      InputError: it cannot be decoded, it holds several images, or values of an unknown range (floats, 32 bits).
    """
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with its preview
                raise fail(str(path), f"holds {frames} images", "Save each as a file of its own.")
            image.load()
            rgb = _as_rgb(str(path), image)
            return np.array(rgb if image_size is None else resized(rgb, image_size))
    except InputError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise fail(str(path), f"cannot be decoded ({reason})", "Replace or remove the file.") from error


def _as_rgb(path: str, image: Image.Image) -> Image.Image:
    """Returns the image upright and in mode RGB."""
    source_format = image.format
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and source_format in ("PNG", "PPM")):
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float64) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floats"
        raise fail(path, f"holds {kind}, whose range is not known", "Save it with 8 bits per channel.")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _sub_folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise fail(str(folder), found, "Check the path and its rights.") from error


def _classes(root: Path, split: str) -> tuple[Path, list[str]]:
    """Returns the folder whose sub-folders are the classes of a split, and the names of the classes."""
    top = _sub_folders(root)
    if "train" in top and _sub_folders(root / "train"):
        splits = [name for name in SPLITS if name in top]
        if split not in splits:
            raise fail(str(root), f"no sub-folder {split!r}", f"Choose a split that it has: {', '.join(splits)}.")
        return root / split, sorted({name for other in splits for name in _sub_folders(root / other)})
    if split != "train":
        remedy = "Use split='train', or put the classes' folders below train/, val/ and test/."
        raise fail(str(root), f"has no splits, so no {split!r}", remedy)
    if not top:
        raise fail(str(root), "has no sub-folders", "Put the images of each class into a sub-folder of its name.")
    return root, top


def _image_files(folder: Path) -> list[Path]:
    """Returns the images of one class, sorted by name; none if its folder is missing (another split has the class)."""
    if not folder.is_dir():
        return []
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise fail(str(folder), found, "Check the path and its rights.") from error
    files = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.is_dir()]
    if not files:
        others = ", ".join(sorted({entry.suffix or entry.name for entry in entries})[:5])
        raise fail(
            str(folder),
            f"no images in it (only: {others})" if others else "is empty",
            "Add PNG, JPEG, TIFF or BMP files, or remove the folder.",
        )
    return files


def _read_all(files: list[Path], image_size: int | None) -> np.ndarray:
    """Reads the files as uint8 [n, h, w, 3], with a progress bar on a terminal."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        results = pool.map(lambda file: read_image(file, image_size=image_size), files)
        images: np.ndarray = np.empty(0, np.uint8)
        for i, image in enumerate(tqdm(results, total=len(files), desc="Reading images", unit="image", disable=None)):
            if i == 0:
                images = np.empty((len(files), *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                (h, w), (h0, w0) = image.shape[:2], images.shape[1:3]
                found = f"{h} x {w} pixels (height x width), but {files[0]} has {h0} x {w0}"
                raise fail(str(files[i]), found, "Give image_size to bring all images to one size.")
            images[i] = image
        return images
    finally:
        pool.shutdown(cancel_futures=True)
