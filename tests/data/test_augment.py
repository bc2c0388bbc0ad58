"""Augmentation: torchvision's values (augment_goldens.py), what is drawn, and where it runs."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax._validate import InputError
from transferjax.data import _image_ops as ops
from transferjax.data import augment as augmenting
from transferjax.data.augment import PAPER, SMALL, Parameters, Recipe, apply, augment, draw
from transferjax.types import Normalization

GOLDENS = dict(np.load(Path(__file__).parent / "augment_goldens.npz"))
CHAINS, MADE_WITH = (json.loads(str(GOLDENS.pop(name))) for name in ("chains", "made"))
SINGLE = [name for name in GOLDENS if name.split("/")[0] != "chain" and name.split("/")[1] != "image"]
# Of these no value differs. Of a crop one in a million may, by 1; and of a turned image, where float32 cannot tell the
# nearer one of two pixels.
EXACT = ("flip", "sharpness", "autocontrast", "equalize")
IDENTITY = Recipe(flip=0, scale=(1, 1), ratio=(1, 1), degrees=(0, 0), sharpness=0, autocontrast=0, equalize=0)
COMPILED = {name: jax.jit(getattr(augmenting, name)) for name in (*EXACT, "rotate")}
CROP = jax.jit(augmenting.resized_crop, static_argnums=5)


def made(image, name):
    """What our step makes of an image, for the golden of this name."""
    _, step, *rest = name.split("/")
    if step == "crop":
        *box, size = map(int, rest[0].split(","))
        return CROP(image, *box, size)
    return COMPILED[step](image, *map(float, rest))


def differences(found, expected):
    """Of two images of bytes: the largest difference, and the share of pixels that differ."""
    found = np.asarray(found)
    assert found.dtype == expected.dtype == np.uint8
    assert found.shape == expected.shape
    apart = np.abs(found.astype(int) - expected.astype(int)).max(axis=-1)
    return apart.max(), np.mean(apart > 0)


def noise(shape, seed=0):
    """Images with all values, smooth enough to have something to sharpen."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (*shape[:-3], -(-shape[-3] // 4), -(-shape[-2] // 4), shape[-1]))
    smooth = coarse.repeat(4, axis=-3).repeat(4, axis=-2)[..., : shape[-3], : shape[-2], :]
    return (smooth + rng.integers(0, 56, shape)).astype(np.uint8)


@pytest.mark.parametrize("name", SINGLE)
def test_torchvision_makes_the_same(name):
    picture, step, *_ = name.split("/")
    largest, share = differences(made(GOLDENS[f"{picture}/image"], name), GOLDENS[name])
    # On an H200 autocontrast was off by one where a value is halfway between two.
    assert largest <= {"crop": 1, "rotate": 255}.get(step, jax.default_backend() != "cpu")
    assert share <= 1e-3


@pytest.mark.parametrize("step", ["flip", "crop", "rotate", "sharpness", "autocontrast", "equalize"])
def test_torchvision_makes_the_same_of_images_in_a_compiled_batch(step):
    name = next(name for name in SINGLE if name.startswith(f"grey/{step}"))
    image = GOLDENS["grey/image"]
    both = jax.jit(jax.vmap(functools.partial(made, name=name)))(np.stack([image, image[::-1]]))
    assert differences(both[0], GOLDENS[name])[1] <= 1e-3
    np.testing.assert_array_equal(both[1], made(image[::-1], name))


def batch_of(picture):
    """Images, parameters and what torchvision makes of them: all chains of a picture."""
    cases = {index: case for index, case in enumerate(CHAINS) if case["picture"] == picture}
    rows = [
        (case["flip"], *case["box"], case["degrees"], case["sharpness"], case["autocontrast"], case["equalize"])
        for case in cases.values()
    ]
    images = np.stack([GOLDENS[f"{picture}/image"]] * len(rows))
    return images, Parameters(*map(jnp.asarray, zip(*rows, strict=True))), [GOLDENS[f"chain/{i}"] for i in cases]


@pytest.mark.parametrize("picture", ["wide", "odd"])
def test_torchvision_makes_the_same_by_all_steps(picture):
    images, parameters, expected = batch_of(picture)
    found = apply(images, parameters, size=40, normalization=None)
    assert [share for share in map(differences, found, expected) if share[1] > 1e-3] == []


def test_all_steps_in_one_program_make_the_same():
    """What accelerators get, while CPUs get a program for each step; here with the single steps of CPUs."""
    images, parameters, _ = batch_of("odd")
    at_once = jax.jit(functools.partial(augmenting._at_once, augmenting.steps(40)))
    np.testing.assert_array_equal(at_once(images, parameters), apply(images, parameters, size=40, normalization=None))


def test_torchvision_normalizes_to_the_same():
    found = augmenting._normalized(GOLDENS["chain/0"], Normalization())
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, GOLDENS["chain/0/normalized"], atol=1e-5)


def test_the_goldens_are_of_use():
    """Each kind of step changes something, in a picture in colour; all that a chain can be made of occurs."""
    for name in SINGLE:
        picture, step, *_ = name.split("/")
        if picture == "grey" and step != "crop":
            assert differences(GOLDENS[name], GOLDENS["grey/image"])[1] > 0.1, name
    for step in ("flip", "sharpness", "autocontrast", "equalize"):
        assert {case[step] for case in CHAINS} == {True, False}
    assert {"torch", "torchvision"} == set(MADE_WITH)
    np.testing.assert_array_equal(GOLDENS["odd/image"][..., 1], 77)
    np.testing.assert_array_equal(GOLDENS["white/equalize"], GOLDENS["white/image"])
    np.testing.assert_array_equal(GOLDENS["tiny/sharpness/2.0"], GOLDENS["tiny/image"])


@pytest.mark.parametrize(("extent", "size", "axis"), [(40, 28, 0), (28, 28, 1), (20, 33, 1), (300, 12, 0)])
def test_both_ways_to_resample_are_one(extent, size, axis):
    image = noise((extent, 6, 3) if axis == 0 else (6, extent, 3))
    rng = np.random.default_rng(0)
    lengths = np.array([1, 2, extent, *rng.integers(1, extent + 1, 5)])
    starts = rng.integers(0, extent - lengths + 1)

    @jax.jit
    def both(starts, lengths):
        taps = jax.vmap(functools.partial(ops.taps_of, extent=extent, size=size))(starts, lengths)
        ways = (ops.resample_by_reading, ops.resample_by_product)
        return [jax.vmap(functools.partial(way, axis=axis), (None, 0))(image, taps).astype(int) for way in ways]

    by_reading, by_product = map(np.asarray, both(starts, lengths))
    if extent < 4 * size:
        np.testing.assert_array_equal(by_reading, by_product)
    assert np.abs(by_reading - by_product).max() <= 1  # where sums outgrow float32's whole numbers
    # Nothing outside the box has a weight.
    start, length = int(starts[-1]), int(lengths[-1])
    inside = slice(start, start + length)
    image = np.where(np.isin(np.arange(extent), np.r_[inside]).reshape((-1, 1, 1) if axis == 0 else (-1, 1)), image, 0)
    both.clear_cache()
    np.testing.assert_array_equal(both(starts, lengths)[0][-1], by_reading[-1])


def test_taps_are_a_partition_of_one():
    taps_of = jax.jit(functools.partial(ops.taps_of, 0, extent=50, size=28))
    for taps in map(taps_of, (1, 7, 28, 50)):
        assert taps.weights.max() < 2**15
        np.testing.assert_allclose(taps.weights.sum(axis=1) * taps.unit, 1, atol=2e-4)
        np.testing.assert_array_equal(taps.weights, np.round(taps.weights))


@pytest.mark.parametrize("shape", [(32, 32, 3), (7, 9, 1)])
def test_histograms_count(shape):
    image = noise(shape)
    image[..., 0] = 0  # what fills up the last word of bits, too
    expected = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(image, -1, 0)])
    for way in (ops.histogram, ops.histogram_by_adding, ops.histogram_by_bits):
        np.testing.assert_array_equal(jax.jit(way)(image), expected)
        np.testing.assert_array_equal(jax.jit(jax.vmap(way))(np.stack([image[::-1], image]))[1], expected)


def test_tables_are_looked_up():
    image, table = noise((9, 8, 3)), np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint8)
    expected = table[np.arange(3), image]
    for way in (ops.lookup, ops.lookup_by_reading, ops.lookup_by_product):
        np.testing.assert_array_equal(jax.jit(way)(image, table), expected)


def test_autocontrast_keeps_different_values_different():
    """So that equalize finds the same histogram, but for the values' names, before and after it."""
    low, high = np.triu_indices(256, k=1)
    counts = np.zeros((len(low), 256), np.int32)
    counts[np.arange(len(low)), low] = counts[np.arange(len(low)), high] = 1
    tables = np.asarray(jax.jit(ops.autocontrast_table)(counts)).astype(np.int16)
    values = np.arange(255)
    between = (low[:, None] <= values) & (values < high[:, None])
    assert (np.diff(tables, axis=1)[between] > 0).all()
    np.testing.assert_array_equal(tables[np.arange(len(low)), low], 0)
    assert (tables[np.arange(len(low)), high] >= 254).all()  # torchvision's float32 cuts some 254.99998


@pytest.mark.parametrize("picture", ["odd", "white"])
def test_one_table_does_both(picture):
    image = GOLDENS[f"{picture}/image"]
    nothing = Parameters(*[jnp.asarray(False)] * len(Parameters._fields))
    both = jax.jit(lambda image, parameters: ops.lookup(image, augmenting.tones(image, parameters)))
    for first, second in itertools.product((False, True), repeat=2):
        parameters = nothing._replace(autocontrast=jnp.asarray(first), equalize=jnp.asarray(second))
        expected = COMPILED["autocontrast"](image) if first else image
        expected = COMPILED["equalize"](expected) if second else expected
        np.testing.assert_array_equal(both(image, parameters), expected)


def drawn(count, recipe=PAPER, height=64, width=48, seed=0) -> Parameters:
    keys = jax.random.split(jax.random.key(seed), count)
    one = functools.partial(draw, recipe=recipe, height=height, width=width)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


def test_drawn_parameters_are_in_their_ranges():
    count, height, width = 4000, 64, 48
    found = drawn(count, height=height, width=width)
    assert (found.top >= 0).all()
    assert (found.left >= 0).all()
    assert (found.top + found.height <= height).all()
    assert (found.left + found.width <= width).all()
    # Rounding moves each side by a half at most.
    smallest, largest = (found.height - 0.5) * (found.width - 0.5), (found.height + 0.5) * (found.width + 0.5)
    assert (largest >= 0.08 * height * width).all()
    assert (smallest <= height * width).all()
    assert ((found.width + 0.5) / (found.height - 0.5) >= 3 / 4).all()
    assert ((found.width - 0.5) / (found.height + 0.5) <= 4 / 3).all()
    assert found.degrees.min() >= 0
    assert 4.9 < found.degrees.max() < 5
    assert found.degrees.mean() == pytest.approx(2.5, abs=0.1)
    for name in ("flip", "sharpness", "autocontrast", "equalize"):
        assert np.mean(getattr(found, name)) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(count)), name
    # Nothing goes with anything else.
    columns = np.stack([found.flip, found.top / (65 - found.height), found.degrees, found.sharpness,
                        found.autocontrast, found.equalize, found.left / (49 - found.width)])  # fmt: skip
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.1


def test_a_box_can_be_anywhere():
    found = drawn(3000, Recipe(scale=(0.7, 0.7), ratio=(1, 1)), height=10, width=10)
    assert set(found.height) == {8}  # 10 · √.7
    for places in (found.top, found.left):
        counts = np.bincount(places, minlength=3)
        assert counts.shape == (3,)
        assert np.abs(counts / 3000 - 1 / 3).max() < 0.04


@pytest.mark.parametrize(("height", "width", "box"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))])
def test_the_centre_is_taken_if_no_box_fits(height, width, box):
    """As torchvision's RandomResizedCrop has it, by whose code the boxes were computed by hand."""
    found = drawn(200, Recipe(scale=(0.9, 1.0)), height=height, width=width)
    boxes = np.stack([found.top, found.left, found.height, found.width], axis=1)
    np.testing.assert_array_equal(boxes, [box] * 200)


def test_never_and_always():
    found = drawn(300, Recipe(flip=0, sharpness=1, autocontrast=0, equalize=1))
    assert not found.flip.any()
    assert not found.autocontrast.any()
    assert found.sharpness.all()
    assert found.equalize.all()


def test_nothing_is_done_where_nothing_is_asked_for():
    images = noise((3, 20, 20, 3))
    found = augment(images, jax.random.key(0), size=20, recipe=IDENTITY, normalization=None)
    np.testing.assert_array_equal(found, images)


RUN = functools.partial(augment, size=16, normalization=None)


def test_an_image_depends_on_its_key_alone():
    images, keys = noise((5, 30, 26, 3)), jax.random.split(jax.random.key(3), 5)
    found = RUN(images, keys)
    np.testing.assert_array_equal(RUN(images, keys), found)
    others = np.concatenate([noise((4, 30, 26, 3), seed=1), images[3:4]])
    other_keys = jnp.concatenate([jax.random.split(jax.random.key(4), 4), keys[3:4]])
    np.testing.assert_array_equal(RUN(others, other_keys)[4], found[3])
    same = RUN(np.repeat(images[:1], 5, axis=0), keys)
    assert all(not np.array_equal(same[0], other) for other in same[1:])


def test_one_key_for_a_batch():
    images, key = noise((5, 30, 26, 3)), jax.random.key(7)
    folded = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))
    inner = jax.jit(lambda images, key: RUN(images, key).astype(int) + 1)  # in another program, too
    np.testing.assert_array_equal(inner(images, key), RUN(images, folded).astype(int) + 1)
    assert not np.array_equal(inner(images, jax.random.key(8)), inner(images, key))


def test_small_images_keep_their_tones():
    images = noise((40, 28, 28, 3))
    found = augment(images, jax.random.key(0), size=28, recipe=SMALL, normalization=None)
    assert found.shape == images.shape
    assert found.dtype == jnp.uint8
    means = np.asarray(found).mean(axis=(1, 2)) - images.mean(axis=(1, 2))
    assert np.abs(means).max() < 25  # but for what is cut off, and the corners that a turned image lacks


def test_normalization():
    images, keys = noise((5, 30, 26, 3)), jax.random.split(jax.random.key(3), 5)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    bytes_ = np.asarray(RUN(images, keys))
    found = RUN(images, keys, normalization=Normalization(mean=mean, std=std, channel_order="bgr", size=16))
    np.testing.assert_allclose(found, (bytes_[..., ::-1] / 255 - mean) / std, rtol=1e-4, atol=1e-5)


def test_accelerators_read_here_and_there_only_to_turn():
    arguments = jax.ShapeDtypeStruct((4, 40, 44, 3), jnp.uint8), jax.eval_shape(lambda: jax.random.key(0))
    run = jax.jit(functools.partial(augment, size=32))
    for platform in ("cuda", "tpu"):
        module = jax.export.export(run, platforms=[platform])(*arguments).mlir_module()
        assert "stablehlo.scatter" not in module, platform
        assert module.count("stablehlo.dot_general") == (2 if platform == "cuda" else 3), platform
        assert "stablehlo.popcnt" in module or "chlo.popcnt" in module, platform
    both = jax.export.export(run, platforms=["cuda", "tpu"])(*arguments)
    assert both.platforms == ("cuda", "tpu")
    assert both.out_avals[0].shape == (4, 32, 32, 3)


GOOD, KEY = np.zeros((2, 8, 8, 3), np.uint8), jax.random.key(0)


@pytest.mark.parametrize(
    ("images", "key", "size", "normalization", "told"),
    [
        (GOOD.astype(np.float32), KEY, 8, None, "images: float32 of shape"),
        (GOOD[0], KEY, 8, None, "images: uint8 of shape (8, 8, 3)"),
        (GOOD[..., :1], KEY, 8, None, "images"),
        (GOOD[:0], KEY, 8, None, "images"),
        (GOOD, jax.random.split(KEY, 3), 8, None, "key: shape (3,)"),
        (GOOD, jnp.zeros(2, jnp.uint32), 8, None, "key: uint32"),
        (GOOD, KEY, 0, None, "size: 0"),
        (GOOD, KEY, 8, Normalization(grey=True), "normalization"),
        (GOOD, KEY, 8, Normalization(size=9), "normalization"),
    ],
)
def test_bad_input(images, key, size, normalization, told):
    with pytest.raises(InputError) as error:
        augment(images, key, size=size, normalization=normalization)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    "options",
    [
        {"flip": 1.5}, {"equalize": -0.1}, {"autocontrast": float("nan")}, {"sharpness": 2}, {"scale": (0, 1)},
        {"scale": (0.5, 0.2)}, {"scale": (0.5, 1.2)}, {"ratio": (0, 1)}, {"ratio": (2, 1)}, {"degrees": (5, 0)},
        {"degrees": (0, 400)}, {"sharpness_factor": -1}, {"sharpness_factor": float("inf")},
    ],
)  # fmt: skip
def test_bad_recipe(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Recipe(**options)


@pytest.mark.torch
def test_torchvision_makes_the_same_of_large_images():
    """pip install torch torchvision: CPU builds of torch 2.13 and torchvision 0.28."""
    import torch
    from torchvision.transforms.v2 import functional

    rng = np.random.default_rng(0)
    shares: dict[str, list[float]] = {}

    def compared(step, found, expected, most):
        largest, share = differences(found, np.asarray(expected.permute(1, 2, 0)))
        assert largest <= most, step
        shares.setdefault(step, []).append(share)

    for index, (h, w) in enumerate([(256, 256), (500, 333), (224, 224), (1200, 900)] * 3):
        picture = noise((h, w, 3), seed=index)
        image = torch.from_numpy(picture).permute(2, 0, 1)
        height, width = int(rng.integers(h // 4, h + 1)), int(rng.integers(w // 4, w + 1))
        box = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1)), height, width
        expected = functional.resized_crop(image, *box, [224, 224], antialias=True)
        compared("crop", CROP(picture, *box, 224), expected, 1)
        image, picture = expected, expected.permute(1, 2, 0).numpy()
        angle, factor = float(rng.uniform(0, 5)), float(rng.uniform(0, 3))
        compared("rotate", COMPILED["rotate"](picture, angle), functional.rotate(image, angle, fill=0.0), 255)
        compared("sharpness", COMPILED["sharpness"](picture, factor), functional.adjust_sharpness(image, factor), 1)
        image = (image // int(rng.integers(1, 4)) + int(rng.integers(0, 60))).contiguous()
        picture = image.permute(1, 2, 0).numpy()
        compared("autocontrast", COMPILED["autocontrast"](picture), functional.autocontrast(image), 0)
        compared("equalize", COMPILED["equalize"](picture), functional.equalize(image), 0)
        compared("flip", COMPILED["flip"](picture), functional.horizontal_flip(image), 0)
    assert {step: np.mean(share) for step, share in shares.items() if np.mean(share) > 1e-4} == {}


@pytest.mark.torch
@pytest.mark.parametrize("recipe", [PAPER, SMALL])
def test_torchvision_draws_from_the_same_distributions(recipe):
    """pip install torch torchvision: CPU builds of torch 2.13 and torchvision 0.28."""
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms import v2

    torch.manual_seed(0)
    crop, turn = v2.RandomResizedCrop(224, scale=recipe.scale, ratio=recipe.ratio), v2.RandomRotation(recipe.degrees)
    image = torch.zeros(3, 200, 150, dtype=torch.uint8)
    theirs = [crop.make_params([image]) | turn.make_params([image]) for _ in range(3000)]
    ours = drawn(3000, recipe, height=200, width=150)
    for own, other in (*((name, name) for name in ("top", "left", "height", "width")), ("degrees", "angle")):
        assert ks_2samp(getattr(ours, own), [row[other] for row in theirs]).pvalue > 1e-3, own
