"""Which patches are drawn, and into which split: NumPy only, and pure but for the generator that is handed in.

A source image (or volume) is divided into boxes with a gap between any two. Each box belongs to one split, and a patch
belongs to a box only if its whole footprint lies inside. So no pixel under a test patch, nor any within the gap around
it, is under a train or val patch. `draw` proves that for what it drew before it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

PATCH = 28
SPLITS = ("train", "val", "test")
Chosen = dict[str, np.ndarray]


class Candidates(NamedTuple):
    """Patches that could be drawn, in the source's own pixels.

    Attributes:
      lower: int [m, a], first pixel of each footprint along the `a` axes that the boxes divide.
      upper: int [m, a], the pixel after its last.
      labels: int [m], class of each.
      points: float [m, p], where each is; two drawn patches of one class and split keep a distance in this space.
    """

    lower: np.ndarray
    upper: np.ndarray
    labels: np.ndarray
    points: np.ndarray


def grid_boxes(lower: Sequence[int], upper: Sequence[int], counts: Sequence[int], gap: int) -> np.ndarray:
    """Returns equal boxes on a grid, `gap` pixels apart, that fill [lower, upper).

    Args:
      lower: first pixel along each axis.
      upper: the pixel after the last along each axis.
      counts: number of boxes along each axis.
      gap: pixels between neighbours, at least 0.

    Returns:
      int [n, a, 2], start and stop of each box along each axis.

    Raises:
      ValueError: a box would be empty.
    """
    edges = []
    for low, high, count in zip(lower, upper, counts, strict=True):
        side = (high - low - gap * (count - 1)) // count
        if side < 1:
            raise ValueError(f"{count} boxes with gaps of {gap} do not fit into [{low}, {high})")
        starts = low + np.arange(count) * (side + gap)
        edges.append(np.stack([starts, starts + side], axis=-1))
    index = np.stack(np.meshgrid(*[np.arange(count) for count in counts], indexing="ij"), axis=-1)
    index = index.reshape(-1, len(counts))
    return np.stack([edges[axis][index[:, axis]] for axis in range(len(counts))], axis=1)


def clearance(lower: np.ndarray, upper: np.ndarray, other_lower: np.ndarray, other_upper: np.ndarray) -> int:
    """Returns the fewest pixels that lie between any footprint and any of the others; negative if two overlap.

    Two footprints are as far apart as they are along the axis on which they are farthest apart.

    Args:
      lower: int [m, a], first pixels.
      upper: int [m, a], pixels after the last.
      other_lower: int [k, a].
      other_upper: int [k, a].
    """
    between = np.maximum(other_lower[None] - upper[:, None], lower[:, None] - other_upper[None])
    return int(between.max(axis=-1).min())


def owner(lower: np.ndarray, upper: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns, for each footprint, the index of the box that holds it wholly, or -1: int [m]."""
    starts, stops = boxes[..., 0], boxes[..., 1]
    inside: np.ndarray = np.all((lower[:, None] >= starts) & (upper[:, None] <= stops), axis=-1)
    return np.where(inside.any(axis=1), inside.argmax(axis=1), -1)


def assign_boxes(
    available: np.ndarray, counts: Mapping[str, int], rng: np.random.Generator, *, tries: int = 2000
) -> np.ndarray:
    """Returns the split of each box, as an index into `SPLITS`: the best of `tries` random assignments.

    The best one gives the scarcest pair of class and split the most room for each example that is wanted of it.

    Args:
      available: int [n, c], room for examples of each class in each box, from `room`.
      counts: examples wanted of each class, for each split.
      rng: source of randomness.
      tries: assignments looked at.

    Returns:
      int [n].
    """
    wanted = np.array([counts[split] for split in SPLITS], float)
    best, best_score = np.zeros(len(available), int), -1.0
    for _ in range(tries):
        split = rng.choice(len(SPLITS), size=len(available), p=wanted / wanted.sum())
        held = np.stack([available[split == s].sum(axis=0) for s in range(len(SPLITS))])
        score = float((held / wanted[:, None]).min())
        if score > best_score:
            best, best_score = split, score
    return best


def spread(
    points: np.ndarray, count: int, rng: np.random.Generator, *, start: float, floor: float, pool: int = 12000
) -> np.ndarray:
    """Returns the indices of `count` points that lie far from each other, or of fewer if there is no room.

    Points are taken in random order if they keep a distance from all taken before. The distance begins at `start`
    and shrinks by a tenth, never below `floor`, until enough were found.

    Args:
      points: float [m, p].
      count: how many are wanted.
      rng: source of randomness.
      start: first distance that is tried.
      floor: least distance.
      pool: most points that are looked at, chosen at random.
    """
    order = rng.permutation(len(points))[:pool]
    distance = start
    while True:
        taken: list[int] = []
        kept = np.empty((count, points.shape[1]))
        for index in order:
            if len(taken) == count:
                break
            if not taken or ((kept[: len(taken)] - points[index]) ** 2).sum(axis=1).min() >= distance**2:
                kept[len(taken)] = points[index]
                taken.append(int(index))
        if len(taken) == count or distance <= floor:
            return np.sort(np.array(taken, int))
        distance = max(floor, 0.9 * distance)


def room(candidates: Candidates, home: np.ndarray, boxes: int, floor: float) -> np.ndarray:
    """Returns roughly how many examples of each class each box has room for: int [n, c].

    That is the number of cells of side `floor` with a candidate in them: pixels that lie close together count once.

    Args:
      candidates: what can be drawn.
      home: int [m], from `owner`.
      boxes: number of boxes, `n`.
      floor: least distance between two points.
    """
    held = home >= 0
    cells = np.floor(candidates.points[held] / floor).astype(int)
    cells = np.unique(np.column_stack([home[held], candidates.labels[held], cells]), axis=0)
    available = np.zeros((boxes, int(candidates.labels.max()) + 1), int)
    np.add.at(available, (cells[:, 0], cells[:, 1]), 1)
    return available


def draw(
    candidates: Candidates,
    boxes: np.ndarray,
    counts: Mapping[str, int],
    rng: np.random.Generator,
    *,
    gap: int,
    floor: float,
) -> Chosen:
    """Returns which candidates go into which split.

    Args:
      candidates: what can be drawn.
      boxes: int [n, a, 2], from `grid_boxes`.
      counts: examples of each class, for each split.
      rng: source of randomness.
      gap: pixels that lie at least between patches of different splits.
      floor: least distance between the points of two patches of one class and split.

    Returns:
      For each split the chosen indices, in the order of the classes.

    Raises:
      RuntimeError: there are too few candidates, or what was drawn is not apart.
    """
    home = owner(candidates.lower, candidates.upper, boxes)
    classes = int(candidates.labels.max()) + 1
    split_of_box = assign_boxes(room(candidates, home, len(boxes), floor), counts, rng)
    split_of = np.where(home >= 0, split_of_box[home], -1)
    chosen: Chosen = {}
    for number, split in enumerate(SPLITS):
        parts = []
        for label in range(classes):
            members = np.flatnonzero((split_of == number) & (candidates.labels == label))
            picked = members[spread(candidates.points[members], counts[split], rng, start=5 * floor, floor=floor)]
            if len(picked) < counts[split]:
                raise RuntimeError(f"class {label}: {len(picked)} {split} patches found, {counts[split]} wanted")
            parts.append(picked)
        chosen[split] = np.concatenate(parts)
    for first, second in (("test", "train"), ("test", "val"), ("val", "train")):
        ends = [array[chosen[split]] for split in (first, second) for array in (candidates.lower, candidates.upper)]
        if clearance(*ends) < gap:
            raise RuntimeError(f"{first} and {second} patches are only {clearance(*ends)} pixels apart, not {gap}")
    return chosen


def centred(rows: np.ndarray, columns: np.ndarray, labels: np.ndarray, scale: int = 1) -> Candidates:
    """Returns the candidates whose centre pixel (the one after the middle) is at the given rows and columns.

    Args:
      rows: int [m], row of the centre in the image that patches are cut from.
      columns: int [m].
      labels: int [m].
      scale: source pixels for each pixel of that image; footprints are in source pixels.
    """
    corner = np.stack([rows, columns], axis=-1) - PATCH // 2
    return Candidates(corner * scale, (corner + PATCH) * scale, labels, corner.astype(float))


def cut(image: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Returns the patch of `image` [h, w] whose first pixel is at `corner` (row, column): [28, 28]."""
    row, column = corner
    return image[row : row + PATCH, column : column + PATCH]


def block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    """Returns `image` [h, w, ...] with each block of `factor` x `factor` pixels averaged; an odd rest is dropped."""
    height, width = (side // factor for side in image.shape[:2])
    blocks = image[: height * factor, : width * factor].astype(float)
    return blocks.reshape(height, factor, width, factor, *image.shape[2:]).mean(axis=(1, 3))
