"""What is committed in `transferjax/data/demo` is what its README promises."""

import re
from pathlib import Path

import numpy as np
import pytest

import transferjax

DEMO = Path(transferjax.__file__).parent / "data" / "demo"
SPLITS = ("train", "val", "test")
CLASSES = {
    "mri_tissue": 3,
    "mri_plane": 3,
    "nuclei": 3,
    "histology": 3,
    "retina": 3,
    "digits": 10,
    "faces": 2,
    "photos": 12,
}
LIMIT = 4_000_000
LEAST = {"faces": (50, 10, 25), "digits": (100, 24, 50)}  # the README says why


def _load(task: str) -> dict[str, np.ndarray]:
    with np.load(DEMO / f"{task}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def _promised() -> dict[str, list[str]]:
    """Returns the cells of each line of README's table of counts, by task."""
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(\w+)` \| (\d+: .*) \|$", text, flags=re.MULTILINE)
    return {task: [cell.strip() for cell in rest.split("|")] for task, rest in lines}


def test_folder_holds_these_files_within_the_limit():
    expected = {f"{task}.npz" for task in CLASSES} | {"README.md", "__init__.py", "contact_sheet.png"}
    files = [path for path in DEMO.iterdir() if path.is_file()]
    assert {path.name for path in files} == expected
    assert sum(path.stat().st_size for path in files) <= LIMIT
    assert (DEMO / "contact_sheet.png").stat().st_size <= 400_000


@pytest.mark.parametrize("task", CLASSES)
def test_layout_is_medmnists(task):
    arrays = _load(task)
    assert set(arrays) == {"class_names", *(f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels"))}
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        assert images.dtype == labels.dtype == np.uint8
        assert images.shape == (len(labels), 28, 28)
        assert labels.shape == (len(images), 1)


@pytest.mark.parametrize("task", CLASSES)
def test_classes_are_named_and_balanced(task):
    arrays = _load(task)
    names = arrays["class_names"]
    assert names.dtype.kind == "U"
    assert len(set(names.tolist())) == len(names) == CLASSES[task]
    for split, least in zip(SPLITS, LEAST.get(task, (100, 25, 50)), strict=True):
        counts = np.bincount(arrays[f"{split}_labels"].ravel())
        assert len(counts) == CLASSES[task]
        assert counts.min() == counts.max() >= least


@pytest.mark.parametrize("task", CLASSES)
def test_readme_gives_the_counts_of_the_files(task):
    arrays = _load(task)
    classes, *per_class, total = _promised()[task]
    assert classes == f"{CLASSES[task]}: {', '.join(arrays['class_names'])}"
    for split, promised in zip(SPLITS, per_class, strict=True):
        assert (np.bincount(arrays[f"{split}_labels"].ravel()) == int(promised)).all()
    assert sum(len(arrays[f"{split}_images"]) for split in SPLITS) == int(total)


def test_readme_names_no_other_task():
    assert set(_promised()) == set(CLASSES)


@pytest.mark.parametrize("task", CLASSES)
def test_images_show_something_and_none_is_in_two_splits(task):
    arrays = _load(task)
    seen: dict[bytes, str] = {}
    for split in SPLITS:
        images = arrays[f"{split}_images"]
        assert images.reshape(len(images), -1).std(axis=1).min() > 1
        for image in images:
            for turned in (image, image[:, ::-1]):
                assert seen.setdefault(turned.tobytes(), split) == split
