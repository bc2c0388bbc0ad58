"""Our convolutions against XLA's: values and both gradients, every way, on every shape a network may have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from transferjax.models import _layers, _winograd
from transferjax.models.torch_layers import batch_normalised

NUMBERS = ("NHWC", "HWIO", "NHWC")
ONE, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
# images, kernel, strides, padding, way: what residual networks have at 28 to 224 pixels, and what else there is
SHAPES = [
    ((5, 56, 56, 64), (3, 3, 64, 64), (1, 1), ONE, "winograd"),  # in two parts, the second of which reaches back
    ((2, 7, 7, 32), (3, 3, 32, 48), (1, 1), ONE, "winograd"),
    ((3, 4, 5, 32), (3, 3, 32, 32), (1, 1), ONE, "winograd"),
    ((1, 4, 4, 256), (3, 3, 256, 256), (1, 1), ONE, "xla"),
    ((2, 2, 2, 40), (3, 3, 40, 40), (1, 1), ONE, "taps"),
    ((2, 1, 1, 40), (3, 3, 40, 32), (1, 1), ONE, "taps"),
    ((2, 4, 4, 8), (3, 3, 8, 12), (2, 2), ONE, "taps"),
    ((2, 3, 4, 8), (3, 3, 8, 12), (2, 2), ONE, "taps"),
    ((2, 2, 2, 8), (3, 3, 8, 12), (2, 2), ONE, "taps"),
    ((2, 6, 5, 3), (7, 7, 3, 8), (2, 2), ((3, 3), (3, 3)), "taps"),
    ((2, 14, 14, 16), (3, 3, 16, 32), (2, 2), ONE, "xla"),
    ((2, 5, 6, 16), (3, 3, 16, 32), (2, 2), ONE, "xla"),
    ((2, 28, 28, 3), (7, 7, 3, 8), (2, 2), ((3, 3), (3, 3)), "xla"),
    ((2, 8, 9, 16), (1, 1, 16, 8), (2, 2), NONE, "pointwise"),
    ((2, 8, 9, 16), (1, 1, 16, 8), (1, 1), NONE, "pointwise"),
    ((2, 9, 8, 4), (3, 3, 4, 4), (1, 1), ONE, "xla"),
]


def xla(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NUMBERS)


def arrays(images, kernel, out, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in (images, kernel, out)]


def out_shape(images, kernel, strides, padding):
    struct = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (images, kernel)]
    return jax.eval_shape(lambda x, k: xla(x, k, strides, padding), *struct).shape


@pytest.mark.parametrize(("images", "kernel", "strides", "padding", "way"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_is_xla_s_and_so_are_its_gradients(images, kernel, strides, padding, way, dtype):
    """float32 against float64: Winograd's rounding is the largest."""
    expected_way = "xla" if way == "winograd" and dtype == np.float64 else way
    if way != "pointwise":  # which is no way of `convolve`
        assert _layers.way_of(images, kernel, strides, padding, np.dtype(dtype)) == expected_way
    tolerance = {np.float64: 1e-12, np.float32: 5e-5 if way == "winograd" else 2e-6}[dtype]
    with jax.enable_x64(True):
        x, k, pulls = arrays(images, kernel, out_shape(images, kernel, strides, padding))
        expected, back = jax.vjp(lambda x, k: xla(x, k, strides, padding), x, k)
        wanted = [expected, *back(pulls)]
        narrow = [array.astype(dtype) for array in (x, k, pulls)]

        @jax.jit
        def ours(x, k, pulls):
            value, back = jax.vjp(lambda x, k: _layers.conv_general_dilated(x, k, strides, padding), x, k)
            return [value, *back(pulls)]

        for found, exact in zip(ours(*narrow), wanted, strict=True):
            assert found.dtype == dtype
            np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * float(jnp.abs(exact).max()))


@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    seed=st.integers(0, 1000),
)
def test_tap_by_tap_any_convolution(size, window, strides, padding, seed):
    if any(n + sum(pads) < taps for n, pads, taps in zip(size, padding, window, strict=True)):
        return
    with jax.enable_x64(True):
        images, kernel = (2, *size, 3), (*window, 3, 2)
        x, k, pulls = arrays(images, kernel, out_shape(images, kernel, strides, padding), seed)
        expected, back = jax.vjp(lambda x, k: xla(x, k, strides, padding), x, k)
        found, ours = jax.vjp(lambda x, k: _layers._by_taps(x, k, strides, padding), x, k)
        for one, other in zip((found, *ours(pulls)), (expected, *back(pulls)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "b"), [(28, 2), (17, 3), (4, 1), (64, 1)])
def test_winograd_is_exact_in_float64(size, b):
    with jax.enable_x64(True):
        x, k, _ = arrays((b, size, size + 1, 5), (3, 3, 5, 7), (1,))
        np.testing.assert_allclose(_winograd.convolve(x, k), xla(x, k, (1, 1), ONE), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("size", "b"), [(28, 2), (17, 3), (4, 1), (64, 5)])
def test_winograd_s_kernel_gradient_is_exact_in_float64(size, b):
    """Also in several parts, the last of which reaches back."""
    with jax.enable_x64(True):
        x, k, pulls = arrays((b, size, size + 1, 50), (3, 3, 50, 30), (b, size, size + 1, 30))
        _, back = jax.vjp(lambda k: xla(x, k, (1, 1), ONE), k)
        found = _winograd.kernel_gradient(x, pulls)
        np.testing.assert_allclose(found, back(pulls)[0], rtol=0, atol=1e-10)


def test_batch_normalised_has_the_gradient_of_its_definition():
    def by_definition(x, scale, bias):
        axes = tuple(range(x.ndim - 1))
        mean, var = jnp.mean(x, axes), jnp.var(x, axes)
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, pulls = (jnp.asarray(rng.standard_normal((3, 4, 5, 6)) * 2 + 1) for _ in range(2))
        scale, bias = (jnp.asarray(rng.standard_normal(6)) for _ in range(2))
        expected, back = jax.vjp(by_definition, x, scale, bias)
        found, ours = jax.vjp(lambda *a: batch_normalised(*a, 1e-5)[0], x, scale, bias)
        for one, other in zip((found, *ours(pulls)), (expected, *back(pulls)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_what_is_not_plain_goes_to_xla_as_it_is():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 9, 4)), jnp.float32)
    for options in (
        {"feature_group_count": 2},
        {"kernel_dilation": 2},
        {"input_dilation": 2, "padding": 1},
        {"padding": "VALID"},
        {"strides": 2},
        {"padding": "CIRCULAR"},
    ):
        theirs = nn.Conv(6, (3, 3), **options)
        ours = nn.Conv(6, (3, 3), conv_general_dilated=_layers.conv_general_dilated, **options)
        variables = theirs.init(jax.random.key(0), x)
        np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_and_only_cpu_has_ways_of_its_own(platform):
    """Elsewhere there is one convolution, and nothing of Winograd's."""
    images, kernel, strides, padding, _ = SHAPES[0]
    structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (images, kernel)]
    lowered = export.export(jax.jit(lambda x, k: _layers.convolve(x, k, strides, padding)), platforms=[platform])
    text = lowered(*structs).mlir_module()
    assert ("stablehlo.convolution" in text) == (platform != "cpu")
    assert ("dot_general" in text) == (platform == "cpu")


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (3, 3, 0), (3, 3, 1), (5, 2, 2)]
)
@pytest.mark.parametrize("size", [(7, 8), (6, 5), (12, 12)])
def test_max_pool_is_flax_s_and_so_is_its_gradient(window, stride, padding, size):
    """Also where several pixels are the largest."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 4, (2, *size, 3)), jnp.float32)

    def theirs(x):
        return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))

    expected, back = jax.vjp(theirs, x)
    found, ours = jax.vjp(lambda x: _layers.max_pool(x, window, stride, padding), x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(_layers.max_pool(x, window, stride, padding), expected)
    pulls = jnp.asarray(rng.integers(1, 9, expected.shape), jnp.float32)
    np.testing.assert_array_equal(ours(pulls)[0], back(pulls)[0])


def test_max_pool_hides_no_nan():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    for pooled in (_layers.max_pool(x, 3, 2, 1), jax.vjp(lambda x: _layers.max_pool(x, 3, 2, 1), x)[0]):
        assert np.isnan(pooled).all()
