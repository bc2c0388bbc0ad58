"""`nuclei`, `histology` and `retina`: patches of one image each; what is at the centre?"""

from __future__ import annotations

import numpy as np
import tifffile
from scipy import ndimage
from skimage import color, filters, morphology

from experiments.demo_tasks import patches, sources

GAP = 16
FLOOR = 6
COUNTS = {"train": 150, "val": 30, "test": 60}
NUCLEI_CLASSES = ("background", "border", "nucleus")
HISTOLOGY_CLASSES = ("pale tissue", "haematoxylin nucleus", "DAB positive")
RETINA_CLASSES = ("no vessel", "vessel nearby", "vessel")


def _from_labels(
    name: str,
    class_names: tuple[str, ...],
    image: np.ndarray,
    labels: np.ndarray,
    grid: tuple[int, int],
    rng: np.random.Generator,
) -> sources.Task:
    """Returns the task whose patches are centred on the labelled pixels of one image.

    Args:
      name: the task's name.
      class_names: one for each label.
      image: [h, w] in [0, 255].
      labels: int [h, w], -1 where no patch may be centred.
      grid: number of regions along both axes.
      rng: source of randomness.
    """
    half = patches.PATCH // 2
    inside = np.zeros(labels.shape, bool)
    inside[half : labels.shape[0] - half + 1, half : labels.shape[1] - half + 1] = True
    rows, columns = np.nonzero(inside & (labels >= 0))
    candidates = patches.centred(rows, columns, labels[rows, columns])
    boxes = patches.grid_boxes((0, 0), image.shape, grid, GAP)
    chosen = patches.draw(candidates, boxes, COUNTS, rng, gap=GAP, floor=FLOOR)
    images = {s: np.stack([patches.cut(image, candidates.lower[i]) for i in p]) for s, p in chosen.items()}
    return sources.make_task(name, class_names, images, {s: candidates.labels[p] for s, p in chosen.items()}, rng)


def nuclei_labels(mask: np.ndarray) -> np.ndarray:
    """Returns 0 background, 1 border, 2 nucleus, -1 in between, from the numbered nuclei: int [h, w].

    The border is the outermost pixel of a nucleus and the pixel outside it, a nucleus is 4 pixels and more inside, the
    background is 5 to 16 pixels from the nearest nucleus, so that one can be seen in the patch.
    """
    inside = np.zeros(mask.shape)
    for number in np.unique(mask[mask > 0]):
        inside = np.maximum(inside, ndimage.distance_transform_edt(mask == number))
    outside = ndimage.distance_transform_edt(mask == 0)
    labels = np.full(mask.shape, -1)
    labels[(outside >= 5) & (outside <= 16)] = 0
    labels[(inside == 1) | (outside == 1)] = 1
    labels[inside >= 4] = 2
    return labels


def nuclei(rng: np.random.Generator) -> sources.Task:
    """Returns `nuclei`, from the fluorescence image and the mask that stardist ships."""
    image, mask = (
        tifffile.imread(sources.package_file("stardist", "data", "images", f"{kind}2d.tif")) for kind in ("img", "mask")
    )
    return _from_labels("nuclei", NUCLEI_CLASSES, image, nuclei_labels(mask), (5, 5), rng)


def histology_labels(image: np.ndarray) -> np.ndarray:
    """Returns 0 pale tissue, 1 haematoxylin nucleus, 2 DAB positive, -1 where unclear: int [h, w].

    Pale tissue has a nucleus near and no DAB: so the empty lumen, as pale, is left out.

    Args:
      image: uint8 [h, w, 3], stained with haematoxylin and DAB.
    """
    stains = color.rgb2hed(image)
    blue, brown = (ndimage.gaussian_filter(stains[..., channel], 1.0) for channel in (0, 2))
    blue_high, brown_high = filters.threshold_otsu(blue), filters.threshold_otsu(brown)
    nucleus = (blue > 1.1 * blue_high) & (brown < 0.65 * brown_high)
    nucleus = morphology.remove_small_objects(nucleus, max_size=24)
    positive = (brown > 1.25 * brown_high) & (blue < blue_high)
    from_nucleus = ndimage.distance_transform_edt(~nucleus)
    from_brown = ndimage.distance_transform_edt(brown < 0.7 * brown_high)
    pale = (blue < 0.6 * blue_high) & (brown < 0.4 * brown_high)
    labels = np.full(blue.shape, -1)
    labels[pale & (from_nucleus >= 3) & (from_nucleus <= 12) & (from_brown >= 8)] = 0
    labels[ndimage.binary_erosion(nucleus)] = 1
    labels[ndimage.binary_erosion(positive)] = 2
    return labels


def histology(rng: np.random.Generator) -> sources.Task:
    """Returns `histology`, from scikit-image's immunohistochemistry slide; colour labels it, grey is stored."""
    image = sources.photograph("ihc.png")
    return _from_labels("histology", HISTOLOGY_CLASSES, sources.grey(image), histology_labels(image), (5, 5), rng)


def retina_labels(green: np.ndarray) -> np.ndarray:
    """Returns 0 no vessel in the patch, 1 vessel nearby, 2 vessel at the centre, -1 elsewhere: int [h, w].

    Vessels are dark ridges by Sato's filter: what is above the lower threshold and hangs together with something
    above the upper one. The disc's rim, the marker on it and the optic disc are left out.

    Args:
      green: float [h, w], the green channel, in which vessels show best.
    """
    disc = ndimage.binary_opening(ndimage.gaussian_filter(green, 2) > 15, iterations=20)
    rim = ndimage.distance_transform_edt(disc)
    bright = ndimage.gaussian_filter(green, 6)
    optic = ndimage.binary_dilation(bright > 0.75 * bright.max(), iterations=25)
    allowed = (rim > 25) & ~optic
    ridge = np.where(disc & (rim > 6), filters.sato(green, sigmas=(1.5, 2, 3, 4), black_ridges=True), 0)
    low, high = np.percentile(ridge[allowed], (82, 93))
    vessel = filters.apply_hysteresis_threshold(ridge, low, high)
    vessel = morphology.remove_small_objects(vessel, max_size=79)
    line = morphology.skeletonize(vessel)
    strong = ndimage.binary_dilation(line, np.ones((3, 3))) & (ridge > high)
    away = ndimage.distance_transform_edt(~vessel)
    seen = ndimage.maximum_filter((vessel | (ridge > high)).astype(np.uint8), patches.PATCH - 2)
    near_strong = ndimage.distance_transform_edt(~strong) <= 12
    labels = np.full(green.shape, -1)
    labels[seen == 0] = 0
    labels[(away >= 5) & near_strong] = 1
    labels[strong] = 2
    labels[~allowed] = -1
    return labels


def retina(rng: np.random.Generator) -> sources.Task:
    """Returns `retina`, from the green channel of scikit-image's fundus photograph, reduced by two."""
    green = patches.block_mean(sources.photograph("retina.jpg")[..., 1], 2)
    return _from_labels("retina", RETINA_CLASSES, green, retina_labels(green), (6, 6), rng)
