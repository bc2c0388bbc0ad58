"""Gradients from one backward pass against the definition, and the definition against the batch's gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gradients import networks
from transferjax import InputError, gradients
from transferjax._patches import Geometry, example_gradients, squared_norms
from transferjax.gradients import kernel_gradients
from transferjax.types import ModelOutput

LABELS = jnp.asarray([0, 1, 0, 1, 2, 2, 0, 1, 2])
ALL = ("batch", "norms", "squares", "directions")
MIXED = tuple((name, "kernel") for name in networks.LAYERS)
RESNET = (("conv1", "kernel"), ("layer1_0", "conv1", "kernel"), ("layer2_0", "downsample_conv", "kernel"))


def batch_gradients(module, variables, images, paths, loss):
    """By plain jax.grad of everything."""

    def of(params):
        return loss(module.apply({**variables, "params": params}, images).features, LABELS)

    found = traverse_util.flatten_dict(jax.jit(jax.grad(of))(variables["params"]))
    return [found[path] for path in paths]


def losses(d):
    rng = np.random.default_rng(5)
    kernel, bias = jnp.asarray(rng.standard_normal((d, 3))), jnp.asarray(rng.standard_normal(3))
    return {"triplet": gradients.triplet_loss, "cross_entropy": gradients.on_head(kernel, bias)}


@pytest.mark.parametrize(
    ("network", "loss"),
    [
        ("mixed", "cross_entropy"),
        ("resnet", "triplet"),
        pytest.param("mixed", "triplet", marks=pytest.mark.slow),
        pytest.param("short", "cross_entropy", marks=pytest.mark.slow),
    ],
)
def test_is_the_definition_and_adds_up_to_the_batch_s(network, loss):
    """To nine digits in float64; the whole and in parts of four, the last of which is filled up."""
    paths = MIXED if network == "mixed" else RESNET
    with jax.enable_x64(True):
        module, variables, images = getattr(networks, network)()
        chosen = losses(9 if network == "mixed" else 16)[loss]
        by_definition = functools.partial(gradients.example_gradients, module, paths=paths, loss=chosen)
        defined = jax.jit(by_definition)(variables, images, LABELS)
        whole = batch_gradients(module, variables, images, paths, chosen)
        for micro_batch in (None, 4):
            fast = jax.jit(
                functools.partial(
                    kernel_gradients,
                    module,
                    paths=paths,
                    loss=chosen,
                    wanted=ALL,
                    num_classes=3,
                    micro_batch=micro_batch,
                ),
            )
            found = fast(variables, images, LABELS)
            for index, path in enumerate(paths):
                shares = np.asarray(defined[path])
                norms = np.sqrt(np.sum(shares.reshape(9, -1) ** 2, axis=1))
                assert norms.max() > 0
                close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9 * np.abs(shares).max())
                close(shares.sum(axis=0), whole[index])
                close(found.batch[index], whole[index])
                close(found.norms[:, index], norms)
                close(found.squares[index], (shares**2).sum(axis=0))
                unit = shares / np.where(norms > 0, norms, 1).reshape(-1, *[1] * (shares.ndim - 1))
                np.testing.assert_allclose(
                    found.directions[index], [unit[c == LABELS].sum(axis=0) for c in range(3)], rtol=1e-8, atol=1e-8
                )
            if network != "short":
                continue
            alone = functools.partial(kernel_gradients, module, paths=paths, loss=chosen, micro_batch=micro_batch)
            norms = jax.jit(functools.partial(alone, wanted=("norms",)))(variables, images, LABELS).norms
            np.testing.assert_allclose(norms, found.norms, rtol=1e-9, atol=1e-12)
            (batch, *_), nothing = alone(variables, images, LABELS)[1:3]
            np.testing.assert_allclose(batch, found.batch[0], rtol=1e-9, atol=1e-9 * float(jnp.abs(batch).max()))
            assert nothing is None


@pytest.mark.parametrize("network", ["mixed", pytest.param("short", marks=pytest.mark.slow)])
def test_norms_in_float32(network):
    paths = MIXED if network == "mixed" else RESNET[:2]
    module, variables, images = getattr(networks, network)(dtype=np.float32)
    fast = jax.jit(functools.partial(kernel_gradients, module, paths=paths, wanted=("norms", "batch")))
    narrow = fast(variables, images, LABELS)
    with jax.enable_x64(True):
        wide = [
            jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), part) for part in (variables, images)
        ]
        exact = np.asarray(fast(*wide, LABELS).norms)
        whole = [np.asarray(part) for part in batch_gradients(module, *wide, paths, gradients.triplet_loss)]
    np.testing.assert_allclose(narrow.norms, exact, rtol=1e-4, atol=1e-4 * float(exact.max()))
    for found, expected in zip(narrow.batch, whole, strict=True):
        np.testing.assert_allclose(np.linalg.norm(found), np.linalg.norm(expected), rtol=1e-4)


SIZES = st.integers(1, 4)


@settings(max_examples=8, deadline=None)
@given(
    window=st.tuples(SIZES, SIZES),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    groups=st.integers(1, 3),
    channels=st.integers(1, 2),
    outputs=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_any_convolution(window, strides, dilation, padding, groups, channels, outputs, seed):
    """Shares and norms by Gram matrices, against JAX's derivative of one example after the other."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((3, 7, 8, groups * channels)))
        kernel = jnp.asarray(rng.standard_normal((*window, channels, groups * outputs)))

        def convolve(kernel, x):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                strides,
                padding,
                rhs_dilation=dilation,
                feature_group_count=groups,
                dimension_numbers=numbers,
            )

        out = convolve(kernel, x)
        pulls = jnp.asarray(rng.standard_normal(out.shape))
        geometry = Geometry(
            kernel=kernel.shape,
            strides=strides,
            padding=padding,
            dilation=dilation,
            groups=groups,
            positions=out.shape[1] * out.shape[2],
        )
        expected = [jax.vjp(lambda k, i=i: convolve(k, x[i : i + 1]), kernel)[1](pulls[i : i + 1])[0] for i in range(3)]
        found = example_gradients(x, pulls, geometry)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
        norms = np.sum(np.square(expected), axis=(1, 2, 3, 4))
        np.testing.assert_allclose(squared_norms(x, pulls, geometry), norms, rtol=1e-8, atol=1e-10)


def test_the_way_of_fewer_operations_is_taken():
    """Gram matrices for a dense layer and few positions, shares for many."""
    dense = Geometry(kernel=(512, 10))
    assert dense.gram_flops < dense.flops / 5
    early = Geometry(kernel=(3, 3, 64, 64), padding=((1, 1), (1, 1)), positions=56 * 56)
    late = Geometry(kernel=(3, 3, 64, 64), padding=((1, 1), (1, 1)), positions=49)
    assert early.gram_flops > 20 * early.flops
    assert late.gram_flops < late.flops


@pytest.mark.slow
def test_no_other_parameter_s_gradient_is_formed():
    """The program's operations are about those of the forward pass and of activations' gradients."""
    module, variables, images = networks.short(dtype=np.float32, size=64, width=16)

    def flops(fn):
        return jax.jit(fn).lower(variables, images, LABELS).compile().cost_analysis()["flops"]

    forward = flops(lambda v, x, y: module.apply(v, x).features)
    two = flops(functools.partial(kernel_gradients, module, paths=RESNET[:1]))
    everything = flops(
        lambda v, x, y: jax.grad(lambda p: gradients.triplet_loss(module.apply({**v, "params": p}, x).features, y))(
            v["params"]
        )
    )
    assert two < 2.2 * forward
    assert two < 0.9 * everything


@pytest.mark.slow
def test_memory_does_not_grow_with_the_batch():
    module, variables, _ = networks.short(dtype=np.float32, size=28, width=64)

    def temporaries(b):
        images = jax.ShapeDtypeStruct((b, 28, 28, 3), np.float32)
        labels = jax.ShapeDtypeStruct((b,), np.int32)
        fast = functools.partial(kernel_gradients, module, paths=RESNET[:2], micro_batch=16, wanted=("batch", "norms"))
        return jax.jit(fast).lower(variables, images, labels).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(512) < 1.2 * temporaries(64)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        layer = nn.Conv(3, (3, 3), name="shared")
        nn.Conv(3, (3, 3), padding="CIRCULAR", name="circular")(images)
        nn.ConvTranspose(3, (3, 3), name="transposed")(images)
        x = nn.LayerNorm(name="norm")(layer(layer(images)))
        return ModelOutput(x[:, 0, 0, :0], jnp.mean(x, axis=(1, 2)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("shared", "kernel"), "shared is called more than once"),
        (("circular", "kernel"), "padding 'CIRCULAR'"),
        (("transposed", "kernel"), "transposed is a ConvTranspose"),
        (("norm", "scale"), "norm/scale: not a kernel"),
        (("absent", "kernel"), "no parameter absent/kernel"),
    ],
)
def test_what_has_no_fast_way_is_refused_by_name(path, message):
    module = Twice()
    images = jnp.ones((4, 6, 6, 3))
    variables = module.init(jax.random.key(0), images)
    with pytest.raises(InputError, match=message):
        kernel_gradients(module, variables, images, jnp.asarray([0, 0, 1, 1]), paths=[path])


def test_wrong_wishes():
    module, variables, images = networks.mixed(dtype=np.float32)
    with pytest.raises(InputError, match="wanted: 'norm' is unknown"):
        kernel_gradients(module, variables, images, LABELS, paths=MIXED, wanted=("norm",))
    with pytest.raises(InputError, match="Give num_classes"):
        kernel_gradients(module, variables, images, LABELS, paths=MIXED, wanted=("directions",))
    with pytest.raises(InputError, match="paths: none"):
        kernel_gradients(module, variables, images, LABELS, paths=[])


def test_the_definition_takes_any_parameter():
    module, variables, images = networks.mixed(dtype=np.float32)
    paths = [("grouped", "bias"), ("dense", "kernel")]
    found = gradients.example_gradients(module, variables, images, LABELS, paths=paths)
    whole = batch_gradients(module, variables, images, paths, gradients.triplet_loss)
    for path, expected in zip(paths, whole, strict=True):
        np.testing.assert_allclose(jnp.sum(found[path], axis=0), expected, rtol=1e-3, atol=1e-6)
