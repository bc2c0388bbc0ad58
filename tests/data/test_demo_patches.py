"""The choice of regions and patches, on which it rests that no test pixel is seen in training."""

import subprocess
import sys

import numpy as np
import pytest

from experiments.demo_tasks import patches

COUNTS = {"train": 12, "val": 4, "test": 6}


def _candidates(side: int = 400) -> patches.Candidates:
    rows, columns = (a.ravel() for a in np.meshgrid(np.arange(14, side - 13, 3), np.arange(14, side - 13, 3)))
    return patches.centred(rows, columns, (columns // 7) % 2)


def _boxes(side: int = 400) -> np.ndarray:
    return patches.grid_boxes((0, 0), (side, side), (4, 4), 16)


def test_grid_boxes_are_equal_inside_and_a_gap_apart():
    boxes = patches.grid_boxes((10, 0), (110, 53), (3, 2), 5)
    assert boxes.shape == (6, 2, 2)
    sides = boxes[..., 1] - boxes[..., 0]
    assert (sides == [30, 24]).all()
    assert (boxes[..., 0] >= [10, 0]).all()
    assert (boxes[..., 1] <= [110, 53]).all()
    for index in range(6):
        one, others = boxes[index : index + 1], np.delete(boxes, index, axis=0)
        assert patches.clearance(one[..., 0], one[..., 1], others[..., 0], others[..., 1]) >= 5


def test_grid_boxes_without_room_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        patches.grid_boxes((0,), (20,), (5,), 5)


@pytest.mark.parametrize(
    ("other", "expected"),
    [((0, 0), -28), ((27, 0), -1), ((28, 0), 0), ((31, 5), 3), ((31, 40), 12), ((-30, 3), 2)],
)
def test_clearance_is_the_gap_along_the_axis_that_parts_them(other, expected):
    here, there = np.array([[0, 0]]), np.array([other])
    assert patches.clearance(here, here + 28, there, there + 28) == expected
    assert patches.clearance(there, there + 28, here, here + 28) == expected


def test_clearance_is_that_of_the_nearest_pair():
    here = np.array([[0, 0], [100, 100]])
    there = np.array([[300, 0], [100, 131]])
    assert patches.clearance(here, here + 28, there, there + 28) == 3


def test_a_footprint_belongs_to_a_box_only_if_wholly_inside():
    boxes = patches.grid_boxes((0, 0), (100, 100), (2, 1), 10)  # rows 0 to 45 and 55 to 100
    lower = np.array([[0, 0], [17, 72], [18, 0], [40, 0], [55, 3], [54, 3], [55, 73]])
    assert patches.owner(lower, lower + 28, boxes).tolist() == [0, 0, -1, -1, 1, -1, -1]


def test_assignment_leaves_no_class_and_split_empty():
    available = np.array([[50, 0], [50, 0], [50, 3], [0, 9], [0, 9], [40, 9], [0, 0]])
    split = patches.assign_boxes(available, COUNTS, np.random.default_rng(0))
    held = np.stack([available[split == number].sum(axis=0) for number in range(3)])
    assert (held > 0).all()


def test_room_counts_what_lies_close_together_once():
    points = np.array([[0.0, 0.0], [1.0, 1.0], [10.0, 0.0], [11.0, 0.0], [0.0, 0.0]])
    candidates = patches.Candidates(points.astype(int), points.astype(int) + 28, np.array([0, 0, 0, 1, 1]), points)
    home = np.array([0, 0, 0, 1, -1])
    assert patches.room(candidates, home, 3, 5.0).tolist() == [[2, 0], [0, 1], [0, 0]]


def test_spread_keeps_the_least_distance():
    points = np.random.default_rng(1).uniform(0, 60, (3000, 2))
    taken = points[patches.spread(points, 50, np.random.default_rng(2), start=30, floor=4)]
    distances = np.sqrt(((taken[:, None] - taken[None]) ** 2).sum(axis=-1)) + 1e9 * np.eye(len(taken))
    assert len(taken) == 50
    assert distances.min() >= 4


def test_spread_returns_fewer_rather_than_closer():
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    assert len(patches.spread(points, 4, np.random.default_rng(0), start=20, floor=5)) == 2


def test_drawn_patches_have_their_counts_and_share_no_pixel():
    candidates = _candidates()
    chosen = patches.draw(candidates, _boxes(), COUNTS, np.random.default_rng(0), gap=16, floor=6)
    used = {split: np.zeros((400, 400), bool) for split in patches.SPLITS}
    for split, picked in chosen.items():
        assert np.bincount(candidates.labels[picked]).tolist() == [COUNTS[split]] * 2
        for row, column in candidates.lower[picked]:
            used[split][row : row + 28, column : column + 28] = True
    # Test pixels widened by 15 still meet none of the others: the gap is 16 wide.
    wide = np.zeros((400, 400), bool)
    for row, column in candidates.lower[chosen["test"]]:
        wide[max(0, row - 15) : row + 43, max(0, column - 15) : column + 43] = True
    assert not (wide & (used["train"] | used["val"])).any()
    assert not (used["train"] & used["val"]).any()


def test_drawing_is_repeatable_and_follows_the_seed():
    draws = [
        patches.draw(_candidates(), _boxes(), COUNTS, np.random.default_rng(seed), gap=16, floor=6)
        for seed in (3, 3, 4)
    ]
    assert all((draws[0][split] == draws[1][split]).all() for split in patches.SPLITS)
    assert any((draws[0][split] != draws[2][split]).any() for split in patches.SPLITS)


def test_drawing_refuses_boxes_that_lie_too_close():
    near = patches.grid_boxes((0, 0), (400, 400), (8, 8), 0)
    with pytest.raises(RuntimeError, match="pixels apart, not 40"):
        patches.draw(_candidates(), near, COUNTS, np.random.default_rng(0), gap=40, floor=1)


def test_drawing_refuses_too_few_candidates():
    with pytest.raises(RuntimeError, match="900 wanted"):
        patches.draw(_candidates(), _boxes(), {**COUNTS, "train": 900}, np.random.default_rng(0), gap=16, floor=6)


def test_scaled_footprints_are_in_source_pixels():
    found = patches.centred(np.array([14, 20]), np.array([14, 30]), np.zeros(2, int), scale=2)
    assert found.lower.tolist() == [[0, 0], [12, 32]]
    assert (found.upper - found.lower == 56).all()


def test_cut_puts_the_centre_at_fourteen():
    image = np.zeros((60, 60))
    image[30, 25] = 1
    found = patches.centred(np.array([30]), np.array([25]), np.zeros(1, int))
    patch = patches.cut(image, found.lower[0])
    assert patch.shape == (28, 28)
    assert patch[14, 14] == 1


def test_block_mean_drops_the_odd_rest():
    image = np.arange(25.0).reshape(5, 5)
    assert patches.block_mean(image, 2).tolist() == [[3.0, 5.0], [13.0, 15.0]]


def test_import_needs_none_of_the_packages_with_pictures():
    heavy = ("skimage", "nilearn", "nibabel")
    code = f"import sys, experiments.demo_tasks.patches; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
