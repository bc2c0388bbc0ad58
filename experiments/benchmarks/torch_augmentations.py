"""What a torchvision user writes for the suite `augmentations`. Run by the user's interpreter, with torchvision.

    <python> experiments/benchmarks/torch_augmentations.py <seconds> <images.npy> <recipe as JSON> <threads> <way> ...

Prints one line of JSON for each way: the seconds for as many images as the file, uint8 [b, h, w, 3], holds, to a batch
of normalised floats, by the clock and of this process's threads together. The ways:

    single    image after image, each with its own parameters, in one thread
    images    the same, PyTorch using all threads for each image
    loader    the same in a DataLoader with a worker for each thread: what a training script does
    together  all images at once, with the same parameters: for comparison, since that is another augmentation

Needs nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.transforms import v2


class Endless(torch.utils.data.Dataset):
    """The images again and again, augmented."""

    def __init__(self, images: torch.Tensor, transform: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Takes uint8 [b, 3, h, w]."""
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        """Returns more than is ever asked for."""
        return 10**9

    def __getitem__(self, index: int) -> torch.Tensor:
        """Returns one, normalised."""
        return self.transform(self.images[index % len(self.images)])


def transforms(recipe: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the recipe as torchvision spells it."""
    steps = [
        v2.RandomHorizontalFlip(recipe["flip"]),
        v2.RandomResizedCrop(recipe["size"], scale=recipe["scale"], ratio=recipe["ratio"], antialias=True),
        v2.RandomRotation(recipe["degrees"]),
    ]
    if recipe["sharpness"]:
        steps.append(v2.RandomAdjustSharpness(recipe["sharpness_factor"], p=recipe["sharpness"]))
    if recipe["autocontrast"]:
        steps.append(v2.RandomAutocontrast(recipe["autocontrast"]))
    if recipe["equalize"]:
        steps.append(v2.RandomEqualize(recipe["equalize"]))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    return v2.Compose(steps)


def caller(way: str, images: torch.Tensor, recipe: dict[str, Any], threads: int) -> Callable[[], torch.Tensor]:
    """Returns what makes one batch."""
    augment = transforms(recipe)
    if way in ("single", "images"):
        return lambda: torch.stack([augment(image) for image in images])
    if way == "together":
        return lambda: augment(images)
    if way != "loader":
        raise ValueError(f"way: {way!r} is unknown. Choose from: single, images, loader, together.")
    loader = torch.utils.data.DataLoader(Endless(images, augment), batch_size=len(images), num_workers=threads)
    batches = iter(loader)
    for _ in range(2 * threads + 1):  # until those that are prepared while nothing is asked for are used up
        next(batches)
    return lambda: next(batches)


def main(way: str, seconds: float, path: str, recipe: dict[str, Any], threads: int) -> None:
    """Measures one way and prints it."""
    torch.manual_seed(0)
    torch.set_num_threads(1 if way == "single" else threads)
    images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()
    run = caller(way, images, recipe, threads)
    run()
    times: list[float] = []
    start, spent = time.perf_counter(), time.process_time()
    while len(times) < 3 or (len(times) < 200 and time.perf_counter() - start < seconds):
        began = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - began)
    if tuple(result.shape) != (len(images), 3, recipe["size"], recipe["size"]) or result.dtype != torch.float32:
        raise ValueError(f"result: {result.dtype} of shape {tuple(result.shape)} was not asked for.")
    # A loader's batches come in bursts, one of each worker: of these only the mean says something.
    typical = np.mean(times) if way == "loader" else np.median(times)
    print(
        json.dumps({
            "seconds": float(typical),
            "cpu": None if way == "loader" else (time.process_time() - spent) / len(times),
            "calls": len(times),
            "threads": threads,
            "version": f"torch {torch.__version__}, torchvision {torchvision.__version__}",
        }),
        flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[5:]:
        main(name, float(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
