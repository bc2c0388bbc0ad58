"""Extraction against plain jax.grad, and a cache that is never trusted blindly."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.conftest import SHORT, rounded_products
from transferjax import InputError, extraction, metrics, models
from transferjax._compile import compiled
from transferjax._lazy import LazyImages
from transferjax.extraction import extract, passes
from transferjax.gradients import example_norms, triplet_loss
from transferjax.gradients.batches import batch_bounds
from transferjax.models import memory_per_image
from transferjax.models.preprocessing import normalize
from transferjax.types import Normalization, TargetDataset


@pytest.fixture(scope="module")
def source():
    return models.random_source("thin", SHORT, num_classes=5, seed=0, width=4)


def make_target(n=18, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.resize([0, 0, 1, 1, 1, 2, 2, 2, 0], n).astype(np.int32)  # triples in every batch of three
    images = rng.integers(0, 256, (n, 28, 28, 3)) // 2 + 5 * labels[:, None, None, None]
    return TargetDataset(name="t", images=images.astype(np.uint8), labels=labels, class_names=("a", "b", "c"))


def test_gradient_ratio_is_that_of_plain_jax_grad_on_all_parameters(source):
    target = make_target(20)
    pair = extract(source, target)
    assert pair.gradients.batch_norms.shape == (7, 2)

    @jax.jit
    def gradient(params, images, labels):
        def loss(params):
            variables = {**source.variables, "params": params}
            return triplet_loss(source.module.apply(variables, images).features, labels)

        return jax.grad(loss)(params)

    first, second = [], []
    for start, end in batch_bounds(20):
        images = normalize(jnp.asarray(target.images[start:end]), source.normalization)
        with jax.default_matmul_precision("highest"):
            grads = gradient(source.variables["params"], images, target.labels[start:end])
        first.append(np.linalg.norm(grads["conv1"]["kernel"]))
        second.append(np.linalg.norm(grads["layer1_0"]["conv1"]["kernel"]))
    assert sum(first) > 0
    np.testing.assert_allclose(pair.gradients.batch_norms, np.stack([first, second], axis=1), rtol=1e-4, atol=1e-7)
    ratio = metrics.score(pair, ["gradient_ratio"], jax.random.key(0))["gradient_ratio"]
    np.testing.assert_allclose(ratio, sum(second) / sum(first), rtol=1e-4)


def test_gradients_of_examples(source, tmp_path, runs):
    """By definition, batch by batch; kept in the cache; none of classes for label sets."""
    target = make_target(21)  # seven batches of one size: one program
    pair = extract(source, target, gradients="example", cache_dir=tmp_path)
    known = pair.example_gradients
    assert [known.norms.shape, known.signal_to_noise.shape, known.alignment.shape] == [(21, 2), (7, 2), (7, 2, 2)]
    for start, end in batch_bounds(21):
        images = normalize(jnp.asarray(target.images[start:end]), source.normalization)
        labels = jnp.asarray(target.labels[start:end])
        with jax.default_matmul_precision("highest"):
            expected = example_norms(source.module, source.variables, images, labels, paths=source.first_two_kernels)
        np.testing.assert_allclose(known.norms[start:end], expected, rtol=1e-4, atol=1e-6)
    assert np.all(np.abs(known.alignment) <= 1 + 1e-5)
    batch = extract(source, target).gradients.batch_norms
    np.testing.assert_allclose(pair.gradients.batch_norms, batch, rtol=1e-4, atol=1e-8)
    before = len(runs)
    assert same(pair, extract(source, target, gradients="example", cache_dir=tmp_path))
    assert len(runs) == before
    sets = dataclasses.replace(target, labels=np.eye(3, dtype=np.int8)[target.labels], task="multilabel")
    assert extract(source, sets, gradients="example").example_gradients.alignment is None


def test_a_batch_too_large_for_the_memory_goes_in_parts(source):
    """With the same result but for rounding, one image at a time."""
    target = make_target(36)
    whole, parts = extract(source, target, gradients="example"), extract(source, target, gradients="example", memory=1)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    ratios = [metrics.score(pair, ["gradient_ratio"], jax.random.key(0))["gradient_ratio"] for pair in (whole, parts)]
    np.testing.assert_allclose(*ratios, rtol=1e-5)


def lazy(target, log=None):
    """The same images, read when they are asked for."""

    def read(number):
        if log is not None:
            log.append(number)
        return target.images[number]

    images = LazyImages(
        read, rows=np.arange(len(target)), size=target.images.shape[1:3], fingerprint=lambda number: b"%d" % number
    )
    return dataclasses.replace(target, images=images)


@pytest.mark.parametrize("gradients", [None, "batch", "example"])
@pytest.mark.parametrize("several", [False, True])
def test_images_in_files_are_read_in_parts(source, gradients, several):
    target = make_target(36)
    if several:
        labels = np.random.default_rng(0).integers(-1, 2, (36, 3)).astype(np.int8)
        target = dataclasses.replace(target, labels=labels, task="multilabel")
    log = []
    whole = extract(source, target, gradients=gradients)
    budget = 4 * memory_per_image(source.module, source.variables, (28, 28, 3))  # batches of six in parts of three
    streamed = extract(source, lazy(target, log), gradients=gradients, memory=budget)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(streamed), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    assert sorted(log) == sorted(list(range(36)) * (2 if gradients else 1))


def test_the_last_part_is_filled_up_without_effect(source):
    target = make_target(35)  # batches of five, in parts of two
    budget = 2 * memory_per_image(source.module, source.variables, (28, 28, 3))
    whole, streamed = (extract(source, one, gradients="example", memory=budget) for one in (target, lazy(target)))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(streamed), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_images_in_files_have_a_cache_too(source, tmp_path, runs):
    for _ in range(2):
        extract(source, lazy(make_target()), cache_dir=tmp_path)
    assert len(runs) == 1


def test_an_image_that_cannot_be_read_ends_the_extraction(source):
    def read(number):
        raise InputError(f"image {number} is damaged")

    images = LazyImages(read, rows=np.arange(18), size=(28, 28), fingerprint=lambda number: b"")
    with pytest.raises(InputError, match="image 0 is damaged"):
        extract(source, dataclasses.replace(make_target(), images=images))


def test_identical_images_give_finite_gradients(source):
    target = make_target()
    images = target.images.copy()
    images[:7] = images[0]
    norms = extract(source, dataclasses.replace(target, images=images)).gradients.batch_norms
    assert np.isfinite(norms).all()
    assert norms.max() > 0


def test_a_batch_of_one_class_has_no_gradient(source):
    target = make_target()
    before = extract(source, target).gradients.batch_norms
    batch = int(np.argmax(before[:, 0]))
    labels = target.labels.copy()
    labels[3 * batch : 3 * batch + 3] = 1
    after = extract(source, dataclasses.replace(target, labels=labels)).gradients.batch_norms
    assert np.all(before[batch] > 0)
    assert not np.any(after[batch])
    np.testing.assert_array_equal(np.delete(after, batch, axis=0), np.delete(before, batch, axis=0))


def test_features_and_logits_are_the_network_s(source):
    target = make_target()
    images = normalize(jnp.asarray(target.images), source.normalization)
    expected = jax.jit(source.module.apply)(source.variables, images)
    for pair in (extract(source, target), extract(source, target, gradients=None, batch_size=7)):
        np.testing.assert_allclose(pair.features, expected.features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(pair.logits, expected.logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(pair.labels, target.labels)
        assert pair.num_classes == 3


def test_normalization_is_the_source_s(source):
    images = jnp.asarray([[[[0, 51, 255]]]], jnp.uint8)
    scaled = normalize(images, Normalization(mean=(0.0, 0.2, 0.5), std=(1.0, 0.5, 0.25)))
    np.testing.assert_allclose(scaled[0, 0, 0], [0, 0, 2], atol=1e-6)
    other = dataclasses.replace(source, normalization=Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    assert not np.allclose(extract(other, make_target()).features, extract(source, make_target()).features)


def test_too_few_examples(source):
    with pytest.raises(InputError, match="17 are too few"):
        extract(source, make_target(17))


def test_weights_that_overflow_are_named(source):
    variables = jax.tree.map(lambda leaf: leaf * np.float32(1e30), source.variables)
    with pytest.raises(InputError, match="features: not finite at example 0"):
        extract(dataclasses.replace(source, variables=variables), make_target())


@pytest.fixture
def runs(monkeypatch):
    """Counts how often the network is really run."""
    counted = []
    run = extraction.run_batches

    def counting(*args, **kwargs):
        counted.append(1)
        return run(*args, **kwargs)

    monkeypatch.setattr(extraction, "run_batches", counting)
    return counted


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_cache_gives_the_same_bits(source, tmp_path, runs):
    pair = extract(source, make_target(), cache_dir=tmp_path / "new")
    assert same(pair, extract(source, make_target(), cache_dir=tmp_path / "new"))
    assert len(runs) == 1
    assert [file.suffix for file in (tmp_path / "new").iterdir()] == [".safetensors"]


def test_the_cache_knows_what_it_depends_on(source, tmp_path, runs):
    target = make_target()
    other_weights = models.random_source("thin", SHORT, num_classes=5, seed=1, width=4)
    relabelled = dataclasses.replace(target, labels=((target.labels + 1) % 3).astype(np.int32))
    extract(source, target, cache_dir=tmp_path)
    for changed_source, changed_target, options in (
        (other_weights, target, {}),
        (dataclasses.replace(source, normalization=Normalization(mean=(0.5, 0.5, 0.5))), target, {}),
        (source, relabelled, {}),
        (source, make_target(seed=1), {}),
        (source, target, {"gradients": None}),
        (source, target, {"gradients": None, "batch_size": 8}),
    ):
        before = len(runs)
        extract(changed_source, changed_target, cache_dir=tmp_path, **options)
        assert len(runs) == before + 1
    assert len(list(tmp_path.iterdir())) == len(runs)


def test_several_labels(source, tmp_path, runs):
    """One each is as classes are; if another is more alike, so is the gradient; if it is unknown, there is none."""
    target = make_target()
    sets = np.eye(3, dtype=np.int8)[target.labels]
    classes = extract(source, target)
    one_each = extract(source, dataclasses.replace(target, labels=sets, task="multilabel"), cache_dir=tmp_path)
    assert one_each.multilabel
    assert one_each.num_classes == 3
    np.testing.assert_array_equal(one_each.labels, sets)
    np.testing.assert_allclose(one_each.gradients.batch_norms, classes.gradients.batch_norms, rtol=1e-4, atol=1e-8)
    found = [one_each.gradients.batch_norms]
    for first in ([0, 1, 0], [-1, -1, -1]):
        changed = np.concatenate([[first], sets[1:]]).astype(np.int8)
        pair = extract(source, dataclasses.replace(target, labels=changed, task="multilabel"), cache_dir=tmp_path)
        found.append(pair.gradients.batch_norms)
        np.testing.assert_array_equal(found[-1][1:], found[0][1:])
    assert len(runs) == 4
    assert found[0][0, 0] != found[1][0, 0] > 0
    assert not np.any(found[2][0])


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "other"])
def test_a_damaged_cache_file_is_computed_again(source, tmp_path, runs, damage):
    target = make_target()
    pair = extract(source, target, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    else:  # a whole file, but of other inputs
        extract(source, make_target(seed=1), cache_dir=tmp_path / "other")
        path.write_bytes(next((tmp_path / "other").iterdir()).read_bytes())
        runs.pop()
    assert same(pair, extract(source, target, cache_dir=tmp_path))
    assert len(runs) == 2  # and what was written then is used again
    assert same(pair, extract(source, target, cache_dir=tmp_path))
    assert len(runs) == 2


def test_an_interrupted_write_leaves_nothing(source, tmp_path, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction.safetensors.numpy, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(source, make_target(), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_both_passes_lower_for(source, platform):
    module = source.module.clone(num_classes=0)
    params = {name: leaf for name, leaf in source.variables["params"].items() if name != "fc"}
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), {**source.variables, "params": params}
    )
    images, labels = jax.ShapeDtypeStruct((4, 28, 28, 3), np.uint8), jax.ShapeDtypeStruct((4,), np.int32)
    with jax.default_matmul_precision("highest"):  # as in `run_batches`
        forward = export.export(compiled(passes.forward, ("module",)), platforms=[platform])(
            variables, images, source.normalization, module=module
        )
    assert rounded_products(forward) == []
    assert forward.out_avals[0].shape == (4, 8)
    backward = compiled(passes.forward_backward, passes.STATIC)
    for micro_batch in (4, 2):
        with jax.default_matmul_precision("highest"):
            both = export.export(backward, platforms=[platform])(
                variables,
                images,
                labels,
                source.normalization,
                module=module,
                kernels=source.first_two_kernels,
                gradients="example",
                micro_batch=micro_batch,
                num_classes=3,
            )
        assert rounded_products(both) == []
        assert [value.shape for value in both.out_avals] == [(2, 2), (2,), (4, 8), (4, 2), (2,)]


def test_sources_of_one_architecture_share_one_program(source):
    backward = compiled(passes.forward_backward, passes.STATIC)
    extract(source, make_target())
    before = backward._cache_size()
    other = models.random_source("other", SHORT, num_classes=9, seed=3, width=4)
    extract(other, make_target())
    assert backward._cache_size() == before
