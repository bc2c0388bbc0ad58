"""Makes augment_goldens.npz: what torchvision's v2 transforms make of a few pictures, with the parameters.

Run by hand, from the repository, by an interpreter that has torch, torchvision and scikit-image:

    python tests/data/augment_goldens.py

It was made with torch 2.13 and torchvision 0.28 on a CPU with AVX-512. There, as on those with AVX2 and on ARM,
PyTorch resizes uint8 images in whole numbers; elsewhere in float32, which makes some values of the crops differ by 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torchvision
from torchvision.transforms.v2 import functional

HERE = Path(__file__).parent
PHOTOS = HERE.parent.parent / "transferjax" / "data" / "demo" / "photos.npz"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Top, left, height, width, size of the result: smaller, larger, as it is, at an edge, of one pixel, flat.
BOXES = {
    "wide": [(0, 0, 96, 128, 56), (13, 22, 61, 83, 56), (40, 71, 33, 29, 56), (95, 127, 1, 1, 56), (10, 3, 80, 64, 56)],
    "grey": [(0, 0, 28, 28, 28), (3, 5, 21, 17, 28), (7, 2, 2, 25, 28), (0, 8, 27, 20, 12)],
    "odd": [(0, 0, 65, 65, 64), (31, 0, 32, 65, 64), (2, 9, 63, 56, 13)],
}
ANGLES = {"wide": [0.0, 3.3, 5.0, -20.0], "grey": [2.9, 4.6], "odd": [2.4, 5.0]}
FACTORS = [2.0, 0.5]


def pictures() -> dict[str, np.ndarray]:
    """Returns uint8 images [h, w, 3]: in colour, grey, of odd channels, nearly white, and too small to sharpen."""
    astronaut = skimage.data.astronaut()
    wide = astronaut[:384, 60:572].reshape(96, 4, -1, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    wide = np.pad(wide, ((0, 0), (0, 128 - wide.shape[1]), (0, 0)), mode="reflect")
    grey = np.load(PHOTOS)["train_images"][7]
    odd = wide[20:85, 30:95].copy()
    odd[..., 1] = 77
    odd[..., 2] = np.where(odd[..., 2] > 128, 140, 60)
    white = np.full((40, 40, 3), 255, np.uint8)
    white[3:9, 5:15] = wide[40:46, 50:60]
    return {"wide": wide, "grey": np.repeat(grey[..., None], 3, axis=2), "odd": odd, "white": white,
            "tiny": wide[50:52, 60:67]}  # fmt: skip


def to_torch(image: np.ndarray) -> torch.Tensor:
    """[h, w, 3] → [3, h, w]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def to_numpy(image: torch.Tensor) -> np.ndarray:
    """[3, h, w] → [h, w, 3]."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def chain(image: torch.Tensor, case: dict) -> torch.Tensor:
    """Applies all steps, in their order."""
    if case["flip"]:
        image = functional.horizontal_flip(image)
    image = functional.resized_crop(image, *case["box"], [case["size"]] * 2, antialias=True)
    image = functional.rotate(image, case["degrees"], fill=0.0)
    if case["sharpness"]:
        image = functional.adjust_sharpness(image, 2.0)
    if case["autocontrast"]:
        image = functional.autocontrast(image)
    return functional.equalize(image) if case["equalize"] else image


def main() -> None:
    """Writes the file."""
    arrays, chains = {}, []
    rng = np.random.default_rng(0)
    for name, picture in pictures().items():
        image = to_torch(picture)
        arrays[f"{name}/image"] = picture
        arrays[f"{name}/flip"] = to_numpy(functional.horizontal_flip(image))
        arrays[f"{name}/autocontrast"] = to_numpy(functional.autocontrast(image))
        arrays[f"{name}/equalize"] = to_numpy(functional.equalize(image))
        for factor in FACTORS:
            arrays[f"{name}/sharpness/{factor}"] = to_numpy(functional.adjust_sharpness(image, factor))
        for angle in ANGLES.get(name, []):
            arrays[f"{name}/rotate/{angle}"] = to_numpy(functional.rotate(image, angle, fill=0.0))
        for top, left, height, width, size in BOXES.get(name, []):
            found = functional.resized_crop(image, top, left, height, width, [size, size], antialias=True)
            arrays[f"{name}/crop/{top},{left},{height},{width},{size}"] = to_numpy(found)
        for _ in range(5 if name in ("wide", "odd") else 0):
            h, w, _ = picture.shape
            height, width = int(rng.integers(h // 3, h + 1)), int(rng.integers(w // 3, w + 1))
            top, left = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
            case = {"picture": name, "box": [top, left, height, width], "size": 40, "degrees": rng.uniform(0, 5)}
            case |= {step: bool(rng.random() < 0.6) for step in ("flip", "sharpness", "autocontrast", "equalize")}
            chains.append(case)
            arrays[f"chain/{len(chains) - 1}"] = to_numpy(chain(image, case))
    floats = functional.to_dtype(to_torch(arrays["chain/0"]), torch.float32, scale=True)
    arrays["chain/0/normalized"] = to_numpy(functional.normalize(floats, list(MEAN), list(STD)))
    made = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    np.savez_compressed(HERE / "augment_goldens.npz", **arrays, chains=json.dumps(chains), made=json.dumps(made))


if __name__ == "__main__":
    main()
