"""Pre-training: its recipes, what becomes of random weights, and that an interruption changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from tests.training import tiny
from transferjax import models
from transferjax._validate import InputError
from transferjax.evaluation.classification import evaluate
from transferjax.training import PRETRAINING, FineTuning, Pretraining, Settings, Where, population, predict, pretrain
from transferjax.training.feed import Feed
from transferjax.training.network import Design

RECIPE = FineTuning(epochs=8, patience=8, batch_size=8, dropout=0.0, augmentation="none", sampling="class_balanced")
HOW = Pretraining(recipe=RECIPE, settings=Settings(learning_rate=0.05, weight_decay=1e-4))


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    tiny.source()  # registers the architecture


@pytest.fixture(scope="module")
def made():
    return pretrain(tiny.ARCHITECTURE, tiny.splits(), how=HOW)


def test_the_recipes():
    single, union, radimagenet = (PRETRAINING[name] for name in ("single", "leave_target_out", "radimagenet"))
    for how in PRETRAINING.values():
        assert (how.recipe.mode, how.recipe.dropout, how.settings.momentum) == ("all", 0, 0.9)
    assert (single.recipe.augmentation, single.recipe.schedule, single.recipe.sampling) == ("none", "cosine", "shuffle")
    assert (single.recipe.monitor, single.settings.weight_decay) == ("auc_loss", 5e-4)
    assert (union.settings.learning_rate, union.settings.weight_decay) == (0.1, 1e-4)
    assert (union.recipe.monitor, union.recipe.patience, union.recipe.sampling) == ("loss", 20, "class_balanced")
    assert [union.recipe.rate(epoch) for epoch in (0, 14, 15, 30)] == pytest.approx([1, 1, 0.1, 0.01])
    assert (radimagenet.recipe.patience, radimagenet.recipe.sampling) == (10, "shuffle")


def test_one_seed_is_for_all():
    how = PRETRAINING["single"].seeded(3)
    assert (how.recipe.data_seed, how.settings.seed) == (3, 3)
    assert how.seeded(0) == PRETRAINING["single"]


def test_what_cannot_be_pretrained():
    with pytest.raises(InputError, match="mode: 'probe'"):
        dataclasses.replace(HOW, recipe=dataclasses.replace(RECIPE, mode="probe"))
    with pytest.raises(InputError, match="sampling: 'often' is unknown"):
        FineTuning(sampling="often")
    with pytest.raises(InputError, match="architecture: mobilenet_v3_small has a head of several layers"):
        pretrain("mobilenet_v3_small", tiny.splits(), how=HOW)
    wild = dataclasses.replace(HOW, settings=Settings(learning_rate=1e30))
    with pytest.raises(
        InputError, match=r"learning_rate: 1e\+30: the loss of colours was not finite in epoch 1\. Take"
    ):
        pretrain(tiny.ARCHITECTURE, tiny.splits(), how=wild)


def problem(labels, **changes):
    feed = Feed(np.zeros((len(labels), 4, 4, 3), np.uint8), labels)
    return population.Problem(
        design=Design(module=None, trains_network=True), frozen=None, train=feed, val=feed, normalization=None, size=4,
        recipe=dataclasses.replace(RECIPE, **changes),
    )  # fmt: skip


def test_the_class_balanced_order_is_of_seed_and_epoch_and_balanced():
    labels = np.repeat([0, 1, 2], [600, 60, 6])
    orders = {
        (seed, epoch): population._batches(problem(labels, data_seed=seed), epoch).reshape(-1)
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({order.tobytes() for order in orders.values()}) == 4
    for (seed, epoch), order in orders.items():
        again = population._batches(problem(labels, data_seed=seed), epoch).reshape(-1)
        np.testing.assert_array_equal(order, again)
        assert len(order) == 666 // 8 * 8
        shares = np.bincount(labels[order]) / len(order)
        np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / 666))  # of the binomial distribution
    shuffled = population._batches(problem(labels, sampling="shuffle"), 0)
    assert len(np.unique(shuffled)) == shuffled.size


def test_of_several_labels_the_first_counts():
    labels = np.zeros((660, 3), np.int8)
    labels[:600, 0] = labels[600:, 1] = labels[:, 2] = 1
    order = population._batches(problem(labels), 0).reshape(-1)
    assert abs(labels[order, 0].mean() - 0.5) < 0.08


def test_of_equal_aucs_the_smaller_loss_is_better():
    auc, loss = np.float32([1, 1, 1, 0.999, 0.5]), np.float32([0.3, 0.2, 0.1999, 0.1, 0.01])
    history = np.stack([loss, loss, auc, auc])
    assert np.argsort(population._monitored(history, "auc_loss")).tolist() == [4, 3, 0, 1, 2]
    assert np.argmax(population._monitored(history, "loss")) == 4
    np.testing.assert_array_equal(population._monitored(history, "auc"), auc)
    assert np.isnan(population._monitored(np.float32([[1], [np.nan], [1], [1]]), "auc_loss")).all()


def test_the_monitored_value_chooses_the_epoch():
    how = dataclasses.replace(HOW, recipe=dataclasses.replace(RECIPE, monitor="auc_loss"))
    _, run = pretrain(tiny.ARCHITECTURE, tiny.splits(), how=how)
    _, loss, auc, _ = run.history.T.astype(np.float64)
    values = auc + 1e-5 / (1 + loss)
    assert run.best_epoch == np.argmax(values)


def test_random_weights_learn(made):
    source, run = made
    test = tiny.splits().test
    assert run.status == "finished"
    assert run.history[-1, 0] < run.history[0, 0]
    assert (source.name, source.architecture, source.head) == ("colours", tiny.ARCHITECTURE, "softmax")
    assert (source.num_train_examples, source.origin) == (24, "trained on colours, seed 0")
    probabilities = predict(source, test)
    assert probabilities.shape == (14, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    scores = evaluate(probabilities, test.labels, test.task)
    assert scores.auc == pytest.approx(run.test_auc)
    assert scores.auc > 0.75
    assert scores.accuracy == run.test_accuracy


def test_other_seeds_other_weights(made):
    source, _ = made
    again, _ = pretrain(tiny.ARCHITECTURE, tiny.splits(), how=HOW)
    other, _ = pretrain(tiny.ARCHITECTURE, tiny.splits(), how=HOW.seeded(1), name="other")
    assert again.weights_hash == source.weights_hash
    assert other.weights_hash != source.weights_hash
    assert other.name == "other"


def test_labels_of_several_kinds_make_sigmoids():
    splits = tiny.splits(n=30, multilabel=True, classes=3)
    source, run = pretrain(tiny.ARCHITECTURE, splits, how=HOW)
    assert source.head == "sigmoid"
    probabilities = predict(source, splits.test)
    assert np.abs(probabilities.sum(axis=1) - 1).max() > 0.1
    assert evaluate(probabilities, splits.test.labels, "multilabel").auc == pytest.approx(run.test_auc)


def test_a_source_without_a_head_predicts_nothing():
    source = tiny.source()
    params = {name: leaves for name, leaves in source.variables["params"].items() if name != "fc"}
    bare = models.make_source("bare", tiny.ARCHITECTURE, {**source.variables, "params": params})
    with pytest.raises(InputError, match="source: bare has no head"):
        predict(bare, tiny.target())


class StoppedError(Exception):
    pass


def test_what_was_interrupted_goes_on_to_the_same_bits(made, tmp_path):
    def run(until=None):
        seen = []

        def on_epoch(epoch, *_):
            seen.append(epoch)
            if epoch == until:
                raise StoppedError

        where = Where(folder=tmp_path, checkpoint_seconds=0)
        with contextlib.suppress(StoppedError):
            return seen, pretrain(tiny.ARCHITECTURE, tiny.splits(), how=HOW, where=where, watch=lambda _: on_epoch)
        return seen, None

    first, none = run(until=3)
    second, found = run()
    assert none is None
    assert (first, second) == ([0, 1, 2, 3], [3, 4, 5, 6, 7]), "it goes on after the last checkpoint"
    source, history = made[0], made[1].history
    np.testing.assert_array_equal(found[1].history, history)
    assert found[0].weights_hash == source.weights_hash
    assert jax.tree.all(jax.tree.map(np.array_equal, found[0].variables, source.variables))
    again, results = run()
    assert again == [], "the last checkpoint stays"
    assert results[0].weights_hash == source.weights_hash
