"""Gradients of ResNet-18 at full width and real sizes: what the small networks of `test_taps` leave open.

    pytest -m slow tests/gradients/test_at_size.py

Takes some minutes and up to 8 GB.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.gradients import networks
from transferjax import data, models
from transferjax.gradients import kernel_gradients
from transferjax.models import _winograd
from transferjax.models.preprocessing import normalize

pytestmark = pytest.mark.slow
PATHS = (("conv1", "kernel"), ("layer1_0", "conv1", "kernel"))
ALL = ("batch", "norms")


def found(module, variables, images, labels, paths, **options):
    fast = jax.jit(functools.partial(kernel_gradients, module, paths=paths, **options))
    return fast(variables, images, labels)


def in_float64(module, variables, images, labels, paths):
    """Without Winograd, which float64 never takes; a few images at a time."""
    with jax.enable_x64(True):
        wide = [
            jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), part) for part in (variables, images)
        ]
        result = found(module, *wide, labels, paths, wanted=ALL, micro_batch=8)
        return np.asarray(result.norms), [np.asarray(leaf) for leaf in result.batch]


def winograd_s_layers(monkeypatch):
    """Counts the convolutions, forwards and backwards, that go by Winograd's way."""
    counted = []
    original = _winograd.convolve
    monkeypatch.setattr(_winograd, "convolve", lambda *arguments: counted.append(1) or original(*arguments))
    return counted


def compared(module, variables, images, labels, paths):
    norms, batch = in_float64(module, variables, images, labels, paths)
    ours = found(module, variables, images, labels, paths, wanted=ALL)
    assert norms.min() > 0
    np.testing.assert_allclose(ours.norms, norms, rtol=1e-4)
    for narrow, wide in zip(ours.batch, batch, strict=True):
        np.testing.assert_allclose(np.linalg.norm(narrow), np.linalg.norm(wide), rtol=1e-4)


@pytest.mark.parametrize(("size", "b"), [(128, 12), (224, 8), (64, 183)])
def test_norms_by_winograd_at_real_sizes(size, b, monkeypatch):
    module, variables, images = networks.resnet(size=size, width=64, b=b, dtype=np.float32)
    counted = winograd_s_layers(monkeypatch)
    compared(module, variables, images, jnp.arange(b) % 4, PATHS)
    assert len(counted) > 4


@pytest.mark.parametrize("source", ["nuclei", "digits", "textures"])
def test_norms_on_trained_weights(source, monkeypatch):
    source = models.load(source)
    target = data.load("histology").take(np.arange(0, 450, 19))
    images = normalize(jnp.asarray(target.images), source.normalization)
    module, variables = models.headless(source)
    monkeypatch.setattr(_winograd, "pays", lambda inputs, kernel: True)
    counted = winograd_s_layers(monkeypatch)
    compared(module, variables, images, jnp.asarray(target.labels), source.first_two_kernels)
    assert len(counted) > 4


def test_the_paper_s_batch_in_parts():
    """183 images of 28 pixels: the ratio of the batch gradient's norms does not depend on the parts."""
    module, variables, images = networks.resnet(size=28, width=64, b=183, dtype=np.float32)
    labels = jnp.arange(183) % 11

    def ratio(micro_batch):
        first, second = found(module, variables, images, labels, PATHS, micro_batch=micro_batch).batch
        return float(jnp.linalg.norm(second.ravel()) / jnp.linalg.norm(first.ravel()))

    whole = ratio(None)
    for micro_batch in (16, 50):
        np.testing.assert_allclose(ratio(micro_batch), whole, rtol=1e-5)


def test_memory_of_the_whole_network_does_not_grow_with_the_batch():
    module, variables, _ = networks.resnet(size=28, width=64, b=1, dtype=np.float32)

    def temporaries(b):
        images = jax.ShapeDtypeStruct((b, 28, 28, 3), np.float32)
        labels = jax.ShapeDtypeStruct((b,), np.int32)
        fast = functools.partial(kernel_gradients, module, paths=PATHS, micro_batch=16, wanted=ALL)
        return jax.jit(fast).lower(variables, images, labels).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(512) < 1.2 * temporaries(64)
