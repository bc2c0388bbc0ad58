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
from flax import linen as nn

from tests.gradients import networks
from transferjax import data, gradients, models
from transferjax.gradients import kernel_gradients
from transferjax.models import _winograd, resnet
from transferjax.models.preprocessing import normalize

pytestmark = pytest.mark.slow
PATHS = (("conv1", "kernel"), ("layer1_0", "conv1", "kernel"))
ALL = ("batch", "norms")


def found(module, variables, images, labels, paths, **options):
    fast = jax.jit(functools.partial(kernel_gradients, module, paths=paths, **options))
    return fast(variables, images, labels)


def in_float64(module, variables, images, labels, paths, **options):
    """Without Winograd, which float64 never takes; a few images at a time."""
    with jax.enable_x64(True):
        wide = [
            jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), part) for part in (variables, images)
        ]
        result = found(module, *wide, labels, paths, wanted=ALL, micro_batch=8, **options)
        return np.asarray(result.norms), [np.asarray(leaf) for leaf in result.batch]


def winograd_s_layers(monkeypatch):
    """Counts the convolutions, forwards and backwards, that go by Winograd's way."""
    counted = []
    original = _winograd.convolve
    monkeypatch.setattr(_winograd, "convolve", lambda *arguments: counted.append(1) or original(*arguments))
    return counted


def errors(module, variables, images, labels, paths, **options):
    """Of the norms in float32, relative: of the examples' (to the largest) and of the batch's."""
    norms, batch = in_float64(module, variables, images, labels, paths, **options)
    assert norms.min() > 0
    ours = found(module, variables, images, labels, paths, wanted=ALL, **options)
    of_batch = [
        abs(np.linalg.norm(narrow) / np.linalg.norm(wide) - 1) for narrow, wide in zip(ours.batch, batch, strict=True)
    ]
    return np.max(np.abs(np.asarray(ours.norms) - norms) / norms.max()), max(of_batch)


def compared(module, variables, images, labels, paths, monkeypatch):
    """Within 1e-4 of float64; or, where a ReLU that flips costs more, no further off than twice XLA's convolutions."""
    by_winograd = errors(module, variables, images, labels, paths)
    monkeypatch.setattr(_winograd, "pays", lambda inputs, kernel: False)
    jax.clear_caches()
    by_xla = errors(module, variables, images, labels, paths)
    print(f"errors by Winograd {by_winograd}, by XLA {by_xla}")
    assert by_winograd[0] < max(1e-4, 2 * by_xla[0])
    assert by_winograd[1] < max(1e-4, 2 * by_xla[1])


@pytest.mark.parametrize(("size", "b"), [(128, 12), (224, 8), (64, 183)])
def test_norms_by_winograd_at_real_sizes(size, b, monkeypatch):
    module, variables, images = networks.resnet(size=size, width=64, b=b, dtype=np.float32)
    counted = winograd_s_layers(monkeypatch)
    compared(module, variables, images, jnp.arange(b) % 4, PATHS, monkeypatch)
    assert len(counted) > 4


@pytest.mark.parametrize(("size", "b"), [(128, 12), (224, 8), (64, 183)])
def test_without_kinks_norms_by_winograd_are_exact(size, b, monkeypatch):
    """To 1e-4: with a smooth activation and without pooling, rounding is all that differs."""
    monkeypatch.setattr(nn, "relu", nn.silu)
    monkeypatch.setattr(resnet, "max_pool", lambda x, window, stride, padding: nn.avg_pool(x, (2, 2), (2, 2)))
    jax.clear_caches()
    module, variables, images = networks.resnet(size=size, width=64, b=b, dtype=np.float32)
    counted = winograd_s_layers(monkeypatch)
    kernel, bias = jax.random.normal(jax.random.key(0), (512, 4)) / 20, jnp.zeros(4)
    labels = jnp.arange(b) % 4
    loss = gradients.on_head(kernel, bias)
    of_examples, of_batch = errors(module, variables, images, labels, PATHS, loss=loss)
    assert of_examples < 1e-4
    assert of_batch < 1e-4
    assert len(counted) > 4


@pytest.mark.parametrize("source", ["nuclei", "digits", "photos"])
def test_norms_on_trained_weights(source, monkeypatch):
    source = models.load(source)
    target = data.load("histology").take(np.arange(0, 450, 19))
    images = normalize(jnp.asarray(target.images), source.normalization)
    module, variables = models.headless(source)
    monkeypatch.setattr(_winograd, "pays", lambda inputs, kernel: True)
    jax.clear_caches()
    counted = winograd_s_layers(monkeypatch)
    compared(module, variables, images, jnp.asarray(target.labels), source.first_two_kernels, monkeypatch)
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
