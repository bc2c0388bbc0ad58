"""`photos`, `digits` and `faces`: the tasks that are not medical."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn import datasets

from experiments.demo_tasks import patches, sources

GAP = 16
FLOOR = 6  # of the photograph's pixels
TILE = 90
LEAST_CONTRAST = 2.5  # standard deviation in grey levels: an empty sky shows nothing of the photograph
SCALES = (1, 2)
PHOTO_COUNTS = {"train": 100, "val": 26, "test": 50}
PHOTOS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
}
DIGIT_COUNTS = {"train": 100, "val": 24, "test": 50}  # there are only 174 eights
FACE_COUNTS = {"train": 59, "val": 12, "test": 25}
FACE_CLASSES = ("no face", "face")


def _one_photo(image: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the patches of one photograph, half of them from the image reduced by two: [n, 28, 28] a split."""
    levels = [image if scale == 1 else patches.block_mean(image, scale) for scale in SCALES]
    parts = []
    for number, (level, scale) in enumerate(zip(levels, SCALES, strict=True)):
        half = patches.PATCH // 2
        axes = [np.arange(half, side - half + 1, 3) for side in level.shape]
        rows, columns = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        found = patches.centred(rows, columns, np.full(len(rows), number), scale)
        contrast = np.array([patches.cut(level, corner // scale).std() for corner in found.lower])
        found = found._replace(points=found.lower.astype(float))
        parts.append(patches.Candidates(*(array[contrast >= LEAST_CONTRAST] for array in found)))
    candidates = patches.Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    boxes = patches.grid_boxes((0, 0), image.shape, [max(2, side // TILE) for side in image.shape], GAP)
    counts = {split: count // len(SCALES) for split, count in PHOTO_COUNTS.items()}
    chosen = patches.draw(candidates, boxes, counts, rng, gap=GAP, floor=FLOOR)

    def picture(i: int) -> np.ndarray:
        number = candidates.labels[i]
        return patches.cut(levels[number], candidates.lower[i] // SCALES[number])

    return {split: np.stack([picture(i) for i in picked]) for split, picked in chosen.items()}


def photos(rng: np.random.Generator) -> sources.Task:
    """Returns `photos`: from which of scikit-image's photographs was the patch cut?"""
    taken = [_one_photo(sources.grey(sources.photograph(file)), rng) for file in PHOTOS.values()]
    images = {split: np.concatenate([one[split] for one in taken]) for split in patches.SPLITS}
    labels = {split: np.repeat(np.arange(len(PHOTOS)), PHOTO_COUNTS[split]) for split in patches.SPLITS}
    return sources.make_task("photos", tuple(PHOTOS), images, labels, rng)


def _stratified(
    name: str,
    class_names: tuple[str, ...],
    pictures: np.ndarray,
    labels: np.ndarray,
    counts: dict[str, int],
    rng: np.random.Generator,
) -> sources.Task:
    """Returns the task of independent pictures, split at random within each class: `counts` a class and split."""
    ends = np.cumsum([0, *(counts[split] for split in patches.SPLITS)])
    chosen: dict[str, list[np.ndarray]] = {split: [] for split in patches.SPLITS}
    for label in range(len(class_names)):
        order = rng.permutation(np.flatnonzero(labels == label))
        for split, start, stop in zip(patches.SPLITS, ends[:-1], ends[1:], strict=True):
            chosen[split].append(order[start:stop])
    picked = {split: np.concatenate(parts) for split, parts in chosen.items()}
    return sources.make_task(
        name, class_names, {s: pictures[p] for s, p in picked.items()}, {s: labels[p] for s, p in picked.items()}, rng
    )


def digits(rng: np.random.Generator) -> sources.Task:
    """Returns `digits`: scikit-learn's handwritten digits, 8 x 8 pixels enlarged, in the 17 greys that they have."""
    bunch = datasets.load_digits()
    small = bunch.images.astype(np.uint8)
    pictures = np.stack([sources.resize(image, Image.Resampling.BILINEAR) for image in small]) * (255 / 16)
    names = tuple(str(digit) for digit in range(10))
    return _stratified("digits", names, pictures, bunch.target, DIGIT_COUNTS, rng)


def faces(rng: np.random.Generator) -> sources.Task:
    """Returns `faces`: the pictures of scikit-image's `lfw_subset` that show something, 25 x 25 pixels enlarged."""
    crops = np.round(255 * np.load(sources.package_file("skimage", "data", "lfw_subset.npy"))).astype(np.uint8)
    labels = np.repeat([1, 0], len(crops) // 2)  # faces come first there
    seen: set[bytes] = set()
    keep = []
    for index, crop in enumerate(crops):
        if crop.std() >= 2 and not {crop.tobytes(), crop[:, ::-1].tobytes()} & seen:
            keep.append(index)
            seen.add(crop.tobytes())
    pictures = np.stack([sources.resize(crops[index], Image.Resampling.BILINEAR) for index in keep])
    return _stratified("faces", FACE_CLASSES, pictures, labels[keep], FACE_COUNTS, rng)
