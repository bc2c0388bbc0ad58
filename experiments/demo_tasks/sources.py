"""Where the pixels lie: files inside installed packages, read without importing the packages themselves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.demo_tasks import patches
from transferjax._validate import fail

PACKAGES = ("nibabel", "nilearn", "skimage", "sklearn", "stardist", "tifffile")
INSTALL = "Install them: pip install -e '.[demo-data]'"


class Task(NamedTuple):
    """One task, ready to be written.

    Attributes:
      name: what it is called.
      class_names: one for each label.
      images: for each split, uint8 [n, 28, 28].
      labels: for each split, uint8 [n, 1].
    """

    name: str
    class_names: tuple[str, ...]
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def make_task(
    name: str,
    class_names: tuple[str, ...],
    images: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    rng: np.random.Generator,
) -> Task:
    """Returns the task in MedMNIST's layout, each split shuffled.

    Args:
      name: what it is called.
      class_names: one for each label.
      images: for each split, [n, 28, 28] with values in [0, 255].
      labels: for each split, int [n].
      rng: source of randomness.
    """
    orders = {split: rng.permutation(len(labels[split])) for split in patches.SPLITS}
    return Task(
        name,
        class_names,
        {split: np.round(images[split]).astype(np.uint8)[order] for split, order in orders.items()},
        {split: labels[split].astype(np.uint8)[order][:, None] for split, order in orders.items()},
    )


def require() -> None:
    """Raises `InputError` if one of the packages that the pixels come from is missing."""
    missing = [name for name in PACKAGES if util.find_spec(name) is None]
    if missing:
        raise fail("packages", f"{', '.join(missing)} not found", INSTALL)


def package_file(package: str, *parts: str) -> Path:
    """Returns the path of a file inside an installed package; raises `InputError` if either is missing."""
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        raise fail("packages", f"{package} not found", INSTALL)
    path = Path(spec.origin).parent.joinpath(*parts)
    if not path.is_file():
        raise fail(package, f"this version has no file {'/'.join(parts)}", "Install the version that README.md names.")
    return path


def photograph(name: str) -> np.ndarray:
    """Returns a picture of scikit-image as it is: uint8 [h, w] or [h, w, 3]."""
    with Image.open(package_file("skimage", "data", name)) as picture:
        return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))


def grey(image: np.ndarray) -> np.ndarray:
    """Returns the luma of an RGB image, uint8 [h, w]; a grey one is returned as it is."""
    return image if image.ndim == 2 else np.asarray(Image.fromarray(image).convert("L"))


def resize(image: np.ndarray, method: Image.Resampling) -> np.ndarray:
    """Returns one grey picture, uint8 [h, w], as uint8 [28, 28]."""
    return np.asarray(Image.fromarray(image).resize((patches.PATCH, patches.PATCH), method))
