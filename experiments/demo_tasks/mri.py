"""`mri_tissue` and `mri_plane`, from the MNI152 T1 template that nilearn ships.

The template is an exact mirror image of itself along x. Regions therefore span all of x and are apart in y and z
only, so that the mirror image of a test voxel is no more in training than the voxel; and patches are centred on one
side alone, so that no split holds a patch together with its mirror image.
"""

from __future__ import annotations

import nibabel
import numpy as np
from PIL import Image
from scipy import ndimage

from experiments.demo_tasks import patches, sources

MIDDLE = 98  # the plane of symmetry, a voxel of 197
BRAIN_Y = (27, 208)
BRAIN_Z = (0, 155)
GAP = 4
TISSUE_CLASSES = ("other tissue", "grey matter", "white matter")
TISSUE_COUNTS = {"train": 150, "val": 30, "test": 60}
PLANE_CLASSES = ("axial", "coronal", "sagittal")
PLANE_COUNTS = {"train": 110, "val": 25, "test": 50}
CROP = 48  # mm, for mri_plane
NEAR_MIDDLE = 20  # mm: axial and coronal crops show the fissure between the halves


def _volume(kind: str) -> np.ndarray:
    """Returns the T1 image or a tissue map as stored: uint8 [197, 233, 189], x to the right, y forward, z up."""
    path = sources.package_file("nilearn", "datasets", "data", f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
    return np.asanyarray(nibabel.Nifti1Image.from_filename(path).dataobj)


def tissue_labels(t1: np.ndarray, grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Returns 0 other tissue (fluid, mostly), 1 grey and 2 white matter where it pays to ask, -1 elsewhere.

    A pixel has a class if its share in the maps is above one half, and is kept if other tissues are near: of the
    5 x 5 pixels around it a fifth to four fifths must be of its own class. Deep inside white matter the question
    would be trivial.

    Args:
      t1: float [x, y, z] in [0, 255], 0 outside the brain.
      grey: float [x, y, z], share of grey matter in [0, 1].
      white: float [x, y, z], share of white matter in [0, 1].
    """
    labels = np.full(t1.shape, -1)
    for label, share in enumerate((1 - grey - white, grey, white)):
        mine = (share > 0.5) & (t1 > 0)
        company = ndimage.uniform_filter(mine.astype(float), size=(5, 5, 1))
        labels[mine & (company >= 0.2) & (company <= 0.8)] = label
    return labels


def tissue(rng: np.random.Generator) -> sources.Task:
    """Returns `mri_tissue`: axial patches of 56 x 56 mm at 2 mm per pixel; which tissue is the centre pixel?"""
    t1, grey, white = (patches.block_mean(_volume(kind), 2) for kind in ("t1", "gm", "wm"))
    labels = tissue_labels(t1, grey / 255, white / 255)
    brain = ndimage.binary_erosion(t1 > 0, np.ones((3, 3, 1)))
    brain &= ndimage.uniform_filter((t1 > 0).astype(float), size=(patches.PATCH, patches.PATCH, 1)) >= 0.3
    labels[~brain] = -1
    labels[: patches.PATCH // 2] = -1
    labels[MIDDLE // 2 + 1 :] = -1
    x, y, z = np.nonzero(labels >= 0)
    inside = (y >= patches.PATCH // 2) & (y + patches.PATCH // 2 <= t1.shape[1])
    x, y, z = x[inside], y[inside], z[inside]
    candidates = patches.Candidates(
        z[:, None], z[:, None] + 1, labels[x, y, z], np.stack([2.0 * x, 2.0 * y, z], axis=-1)
    )
    boxes = patches.grid_boxes(BRAIN_Z[:1], BRAIN_Z[1:], (10,), GAP)
    chosen = patches.draw(candidates, boxes, TISSUE_COUNTS, rng, gap=GAP, floor=6)
    half = patches.PATCH // 2

    def picture(i: int) -> np.ndarray:
        plane = t1[x[i] - half : x[i] + half, y[i] - half : y[i] + half, z[i]]
        return plane.T[::-1]  # forehead at the top, as radiology shows it; the centre pixel moves one row up

    images = {split: np.stack([picture(i) for i in picked]) for split, picked in chosen.items()}
    picked_labels = {split: candidates.labels[picked] for split, picked in chosen.items()}
    return sources.make_task("mri_tissue", TISSUE_CLASSES, images, picked_labels, rng)


def _crops(t1: np.ndarray, normal: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the after-last voxel of crops across axis `normal`, mostly brain: int [m, 3] each."""
    extent = np.full(3, CROP)
    extent[normal] = 1
    lows, highs = np.array([0, BRAIN_Y[0], BRAIN_Z[0]]), np.array([t1.shape[0], BRAIN_Y[1], BRAIN_Z[1]])
    axes = [np.arange(lows[a], highs[a] - extent[a] + 1, 2 if a == normal else 3) for a in range(3)]
    lower = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    centre = lower[:, 0] + extent[0] // 2
    lower = lower[(centre <= MIDDLE) & ((centre >= MIDDLE - NEAR_MIDDLE) | (normal == 0))]
    filled = np.array([(t1[tuple(slice(a, b) for a, b in zip(o, o + extent, strict=True))] > 0).mean() for o in lower])
    lower = lower[filled >= 0.6]
    return lower, lower + extent


def plane(rng: np.random.Generator) -> sources.Task:
    """Returns `mri_plane`: crops of 42 x 42 mm, reduced to 28 x 28 pixels; which way was the head cut?"""
    t1 = _volume("t1")
    across = [_crops(t1, normal) for normal in (2, 1, 0)]
    lower, upper = (np.concatenate([ends[side] for ends in across]) for side in (0, 1))
    labels = np.repeat(np.arange(3), [len(ends[0]) for ends in across])
    candidates = patches.Candidates(lower[:, 1:], upper[:, 1:], labels, (lower + upper) / 2)
    boxes = patches.grid_boxes((BRAIN_Y[0], BRAIN_Z[0]), (BRAIN_Y[1], BRAIN_Z[1]), (3, 2), GAP)
    chosen = patches.draw(candidates, boxes, PLANE_COUNTS, rng, gap=GAP, floor=5)

    def picture(i: int) -> np.ndarray:
        crop = np.squeeze(t1[tuple(slice(a, b) for a, b in zip(lower[i], upper[i], strict=True))])
        return sources.resize(np.ascontiguousarray(crop.T[::-1]), Image.Resampling.BOX)

    images = {split: np.stack([picture(i) for i in picked]) for split, picked in chosen.items()}
    return sources.make_task("mri_plane", PLANE_CLASSES, images, {s: labels[p] for s, p in chosen.items()}, rng)
