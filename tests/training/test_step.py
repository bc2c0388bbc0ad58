"""Steps, losses and their programs; and PyTorch's trajectory."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax import export

from tests.conftest import SHORT, rounded_products
from tests.training import tiny
from transferjax import models
from transferjax.data.augment import SMALL
from transferjax.models import headless
from transferjax.training import groups, population, step
from transferjax.training.feed import Feed
from transferjax.training.network import Design, fresh_head, logits_of, training_logits
from transferjax.training.recipes import FineTuning, Settings
from transferjax.training.state import fresh_state, hyperparameters

GOLDEN = Path(__file__).parent / "goldens" / "sgd_trajectory.npz"
EPOCHS, STEPS, BATCH, SIZE, CLASSES = 4, 5, 8, 28, 3


@pytest.fixture(scope="module")
def trajectory():
    return dict(np.load(GOLDEN))


def variables_of(trajectory, when):
    keys = {key.removeprefix(f"{when}/"): value for key, value in trajectory.items() if key.startswith(f"{when}/")}
    return models.import_torch(SHORT, keys, width=4)


def test_twenty_steps_are_pytorch_s(trajectory, monkeypatch):
    generator = np.random.RandomState(0)  # as in the generator of the golden
    n = STEPS * BATCH
    images = generator.randint(0, 256, (n, SIZE, SIZE, 3)).astype(np.uint8)
    labels = generator.randint(0, CLASSES, n).astype(np.int32)
    orders = np.stack([generator.permutation(n) for _ in range(EPOCHS)])
    before, after = (variables_of(trajectory, when) for when in ("before", "after"))
    source = models.make_source("before", SHORT, before, options={"width": 4})
    module, variables = headless(source)
    params = {"network": variables["params"], "head": before["params"]["fc"]}
    settings = Settings(learning_rate=0.05, momentum=0.9, weight_decay=0.01)
    feed = Feed(images, labels, block_bytes=2 * BATCH * SIZE * SIZE * 3)  # in blocks of two steps, the last with one
    recipe = FineTuning(epochs=EPOCHS, batch_size=BATCH, dropout=0.0, augmentation="none")
    problem = population.Problem(
        design=Design(module=module, trains_network=True),
        frozen=None,
        train=feed,
        val=feed,
        normalization=source.normalization,
        size=SIZE,
        recipe=recipe,
    )
    monkeypatch.setattr(population, "_order", lambda _, epoch: orders[epoch])
    progress = population.train(
        problem, population.start([(params, variables["batch_stats"], settings)], epochs=EPOCHS)
    )
    state = progress.states
    np.testing.assert_allclose(progress.history[:, 0, 0], trajectory["losses"].mean(axis=1), atol=1e-5)
    np.testing.assert_allclose([0.05 * recipe.rate(epoch) for epoch in range(EPOCHS)], trajectory["rates"], atol=1e-12)
    network = {"params": {**state.params["network"], "fc": state.params["head"]}, "batch_stats": state.batch_stats}
    ours, theirs = (traverse_util.flatten_dict(tree) for tree in (network, after))
    moved = traverse_util.flatten_dict(before)
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path][0], leaf, atol=1e-5, err_msg="/".join(path))
        assert np.abs(leaf - moved[path]).max() > 1e-3, path
    last = dataclasses.replace(progress, best={"params": state.params, "batch_stats": state.batch_stats})
    logits = population.predict_best(problem, last, feed, np.array([True]))
    np.testing.assert_allclose(logits[0], trajectory["logits"], atol=1e-4)


def test_without_momentum_it_is_plain_sgd():
    params = {"head": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
    design = Design(module=None, trains_network=False)
    inputs, labels = jnp.array([[1.0, 2.0], [0.5, -1.0]]), jnp.array([0, 1])
    hyper = hyperparameters(Settings(learning_rate=0.1, momentum=0.0, weight_decay=0.5))
    state = fresh_state(params, {}, hyper)
    gradient = jax.grad(lambda head: step.mean_loss(inputs @ head["kernel"] + head["bias"], labels))
    wanted = params["head"]
    for rate in (1.0, 0.25):
        state, _ = step.train_step(state, hyper, rate, None, inputs, labels, None, jax.random.key(0), design=design)
        slope = gradient(wanted)
        wanted = jax.tree.map(lambda w, g, rate=rate: w - 0.1 * rate * (g + 0.5 * w), wanted, slope)
    for ours, theirs in zip(jax.tree.leaves(state.params["head"]), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_loss_leaves_missing_labels_out():
    logits = jnp.array([[2.0, -1.0], [0.3, 4.0]])
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    found = step.mean_loss(logits, jnp.array([[1, -1], [0, 1]]))
    assert float(found) == pytest.approx(-np.mean([np.log(p[0, 0]), np.log(1 - p[1, 0]), np.log(p[1, 1])]), rel=1e-5)
    assert float(step.mean_loss(logits, jnp.full((2, 2), -1))) == 0
    one_class = step.mean_loss(logits, jnp.array([0, 1]))
    assert float(one_class) == pytest.approx(np.mean([np.log1p(np.exp(-3)), np.log1p(np.exp(-3.7))]), rel=1e-5)


def prepared(seed=0, num_classes=2):
    source = tiny.source(seed)
    module, variables = headless(source)
    params = {"network": variables["params"], "head": fresh_head(seed, 8, num_classes)}
    return source, module, params, variables["batch_stats"]


def test_accumulated_gradients_are_the_batch_s():
    """Without BatchNorm in the way: on features."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((12, 5)).astype(np.float32), rng.integers(0, 3, 12)
    design = Design(module=None, trains_network=False)
    hyper = hyperparameters(Settings(learning_rate=0.3, weight_decay=0.01))
    state = fresh_state({"head": fresh_head(0, 5, 3)}, {}, hyper)
    once, parts = (
        step.train_step(state, hyper, 1.0, None, inputs, labels, None, jax.random.key(0), design=design, accumulate=a)
        for a in (1, 4)
    )
    assert float(once[1]) == pytest.approx(float(parts[1]), rel=1e-5)
    for a, b in zip(jax.tree.leaves(once[0]), jax.tree.leaves(parts[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_accumulation_moves_batchnorm_by_each_part():
    source, module, params, batch_stats = prepared()
    data = tiny.target(8)
    design = Design(module=module, trains_network=True)
    key = jax.random.key(0)
    hyper = hyperparameters(Settings(learning_rate=0.1))
    run = functools.partial(step.train_step, design=design, accumulate=2)
    state, _ = jax.jit(run)(
        fresh_state(params, batch_stats, hyper), hyper, 0.0, None, data.images, data.labels, source.normalization, key
    )
    forward = jax.jit(functools.partial(training_logits, design))
    wanted = batch_stats
    for part in (data.images[:4], data.images[4:]):
        _, wanted = forward(params, wanted, None, part, source.normalization, key)
    for a, b in zip(jax.tree.leaves(state.batch_stats), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_parameters_and_statistics_whole():
    source, module, params, batch_stats = prepared()
    data = tiny.target(16)
    found = {}
    for half in (False, True):
        design = Design(module=module, trains_network=True, precision="bfloat16" if half else "float32")
        hyper = hyperparameters(Settings(learning_rate=0.1))
        arguments = (
            fresh_state(params, batch_stats, hyper), hyper, 1.0, None, data.images, data.labels, source.normalization,
            jax.random.key(0),
        )  # fmt: skip
        program = jax.jit(functools.partial(step.train_step, design=design)).lower(*arguments)
        state, loss = program.compile()(*arguments)
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
        found[half] = float(loss), state
        assert ("bf16" in program.as_text()) == half
    assert found[True][0] == pytest.approx(found[False][0], rel=0.02)
    assert found[True][0] != found[False][0]
    for a, b in zip(*(jax.tree.leaves(found[half][1].batch_stats) for half in (True, False)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32"])
def test_only_who_asks_for_it_gets_rounded_products_on_a_gpu(precision):
    source, module, params, batch_stats = prepared()
    design = Design(module=module, trains_network=True, precision=precision)
    hyper = hyperparameters(Settings(learning_rate=0.1))
    program = jax.jit(functools.partial(step.train_step, design=design))
    images, labels = jax.ShapeDtypeStruct((4, 28, 28, 3), np.uint8), jax.ShapeDtypeStruct((4,), np.int32)
    exported = export.export(program, platforms=["cuda"])(
        fresh_state(params, batch_stats, hyper), hyper, 1.0, None, images, labels, source.normalization,
        jax.random.key(0),
    )  # fmt: skip
    assert bool(rounded_products(exported)) == (precision == "tensorfloat32")


def test_dropout_is_of_the_features_and_by_the_key():
    design = Design(module=None, trains_network=False, dropout=0.5)
    params = {"head": {"kernel": jnp.eye(400), "bias": jnp.zeros(400)}}
    inputs = jnp.ones((50, 400))

    def dropped(seed):
        return np.asarray(training_logits(design, params, {}, None, inputs, None, jax.random.key(seed))[0])

    first = dropped(0)
    assert set(np.unique(first)) == {0.0, 2.0}
    assert first.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(first, dropped(0))
    assert (first != dropped(1)).mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(logits_of(design, params, {}, None, inputs, None), inputs)


@pytest.mark.parametrize(("name", "has_own"), [("vgg11", True), ("mobilenet_v3_small", False), ("vit_b_16", False)])
def test_a_network_s_own_dropout_of_features_makes_way_for_ours(name, has_own):
    """VGG drops the features before its last layer. Its other dropout, further in, stays."""
    from transferjax.training.network import _last_dropout

    if name not in models.names():
        pytest.skip(f"no {name}")
    module = models.get(name).build(num_classes=0)
    assert (_last_dropout(module) is not None) == has_own


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("together", [False, True])
def test_the_programs_lower_for(platform, together):
    source, module, params, batch_stats = prepared(num_classes=3)
    design = Design(module=module, trains_network=True, dropout=0.5, precision="bfloat16" if together else "float32")
    progress = population.start([(params, batch_stats, Settings(learning_rate=0.1))] * 2, epochs=1)
    states, hyper = progress.states, progress.hyper
    if not together:
        states, hyper = jax.tree.map(lambda leaf: leaf[0], (states, hyper))
    images = jax.ShapeDtypeStruct((2, 4, 16, 16, 3), np.uint8)
    labels, flags = jax.ShapeDtypeStruct((2, 4), np.int32), jax.ShapeDtypeStruct((2,), bool)
    number, rate = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((), np.float32)
    told = (None, images, labels, flags, number, number, rate, source.normalization)
    running = (flags,) if together else ()
    train = groups._train_together if together else step.train_block
    train = functools.partial(train, design=design, accumulate=2)
    exported = export.export(jax.jit(train), platforms=[platform])(states, hyper, *running, *told)
    assert exported.platforms == (platform,)
    assert rounded_products(exported) == []
    predict = functools.partial(groups._predict_together if together else step.predict_block, design=design)
    arguments = (states.params, states.batch_stats, None, images, source.normalization)
    exported = export.export(jax.jit(predict), platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)
    assert rounded_products(exported) == []
    judge = groups._judge_together if together else step.judge
    assert export.export(jax.jit(judge), platforms=[platform])(
        exported.out_avals[0], jax.ShapeDtypeStruct((8,), np.int32)
    ).platforms == (platform,)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_augmentation_lowers_for(platform):
    run = functools.partial(step.augment_block, recipe=SMALL, size=16)
    number, key = jax.ShapeDtypeStruct((), np.int32), jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 4, 16, 16, 3), np.uint8)
    assert export.export(jax.jit(run), platforms=[platform])(images, number, number, key).platforms == (platform,)


def test_optax_is_asked_for_what_we_say():
    """`Settings` states the rule; this is it, written out."""
    from transferjax.training.state import Hyperparameters, optimizer

    hyper = Hyperparameters(learning_rate=0.5, momentum=0.9, weight_decay=0.1, seed=0)
    w, v = jnp.array([1.0, -2.0]), jnp.zeros(2)
    state = optimizer(hyper, 1.0).init(w)
    ours = w
    for slope in (jnp.array([0.3, 0.1]), jnp.array([-0.2, 0.4]), jnp.array([0.0, 1.0])):
        updates, state = optimizer(hyper, 1.0).update(slope, state, ours)
        ours = optax.apply_updates(ours, updates)
        g = slope + 0.1 * w
        v = 0.9 * v + g
        w = w - 0.5 * (g + 0.9 * v)
    np.testing.assert_allclose(ours, w, rtol=1e-6)
