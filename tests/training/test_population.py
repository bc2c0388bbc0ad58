"""Populations: as single runs, each member with its own end."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from tests.training import tiny
from transferjax._validate import InputError
from transferjax.training import groups
from transferjax.training.finetune import Where, fine_tune
from transferjax.training.prepare import Splits
from transferjax.training.recipes import FineTuning, Settings

# Ten epochs of three steps: thirty steps. The rates make some members stop early, others later.
RECIPE = FineTuning(epochs=10, patience=2, batch_size=8, augmentation="mild")
SIX = [
    Settings(learning_rate=0.05, momentum=0.9, weight_decay=1e-3, seed=0),
    Settings(learning_rate=0.05, momentum=0.0, weight_decay=0.0, seed=0),
    Settings(learning_rate=0.002, momentum=0.9, weight_decay=1e-2, seed=1),
    Settings(learning_rate=0.02, momentum=0.9, weight_decay=0.0, seed=2),
    Settings(learning_rate=0.2, momentum=0.0, weight_decay=1e-4, seed=3),
    Settings(learning_rate=0.001, momentum=0.0, weight_decay=0.0, seed=4),
]


@pytest.fixture(scope="module")
def singles():
    data, source = tiny.splits(), tiny.source()
    return [fine_tune(source, data, [settings], recipe=RECIPE)[0] for settings in SIX]


@pytest.mark.parametrize("way", ["singly", "together"])
def test_six_members_are_six_single_runs(singles, way):
    together = fine_tune(tiny.source(), tiny.splits(), SIX, recipe=RECIPE, where=Where(way=way))
    assert len({run.last_epoch for run in singles}) > 1, "members should end at different epochs"
    assert {run.status for run in singles} == {"stopped", "finished"} or len({r.last_epoch for r in singles}) > 2
    for one, ours in zip(singles, together, strict=True):
        assert (ours.source, ours.settings, ours.status) == (one.source, one.settings, one.status)
        assert (ours.last_epoch, ours.best_epoch) == (one.last_epoch, one.best_epoch)
        np.testing.assert_allclose(ours.history, one.history, atol=1e-5)
        for a, b in zip(jax.tree.leaves(ours.variables), jax.tree.leaves(one.variables), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        values = ("val_loss", "val_auc", "val_accuracy", "test_loss", "test_auc", "test_accuracy")
        np.testing.assert_allclose(*([getattr(run, name) for name in values] for run in (ours, one)), atol=1e-5)


def test_in_chunks_it_is_the_same(singles):
    where = Where(memory=1)
    chunks = fine_tune(tiny.source(), tiny.splits(), SIX[:2], recipe=RECIPE, where=where)
    for one, ours in zip(singles, chunks, strict=False):
        np.testing.assert_array_equal(ours.history, one.history)


def test_best_is_the_best_epoch_and_stopping_is_patient(singles):
    for run in singles:
        aucs = run.history[:, 2]
        assert run.best_epoch == int(np.argmax(aucs))
        assert run.val_auc == aucs[run.best_epoch]
        assert len(aucs) == run.last_epoch + 1
        if run.status == "stopped":
            assert run.last_epoch == run.best_epoch + RECIPE.patience
        else:
            assert run.last_epoch == RECIPE.epochs - 1


def test_the_loss_can_be_monitored():
    recipe = dataclasses.replace(RECIPE, monitor="loss", mode="probe", augmentation="none", epochs=6)
    (run,) = fine_tune(tiny.source(), tiny.splits(), SIX[:1], recipe=recipe)
    assert run.best_epoch == int(np.argmin(run.history[:, 1]))


@pytest.mark.parametrize("way", ["singly", "together"])
def test_a_loss_that_is_not_finite_ends_its_member_alone(way):
    recipe = dataclasses.replace(RECIPE, epochs=3, patience=9)
    settings = [SIX[0], Settings(learning_rate=1e30), SIX[3]]
    runs = fine_tune(tiny.source(), tiny.splits(), settings, recipe=recipe, where=Where(way=way))
    assert [run.status for run in runs] == ["finished", "failed", "finished"]
    failed = runs[1]
    assert failed.last_epoch == 0
    assert failed.variables is None
    assert np.isnan([failed.val_auc, failed.val_loss, failed.test_auc]).all()
    alone = fine_tune(tiny.source(), tiny.splits(), settings[:1], recipe=recipe, where=Where(way=way))
    np.testing.assert_allclose(runs[0].history, alone[0].history, atol=1e-5)


def test_sources_of_one_architecture_are_one_population():
    recipe = dataclasses.replace(RECIPE, epochs=2)
    sources = [tiny.source(seed) for seed in (0, 1)]
    seen = []
    together = fine_tune(
        sources, tiny.splits(), SIX[:2], recipe=recipe, on_epoch=lambda *told: seen.append(told[1].shape)
    )
    assert seen == [(4, 4)] * 2
    assert [run.source for run in together] == ["random 0"] * 2 + ["random 1"] * 2
    apart = [run for source in sources for run in fine_tune(source, tiny.splits(), SIX[:2], recipe=recipe)]
    for one, ours in zip(apart, together, strict=True):
        np.testing.assert_allclose(ours.history, one.history, atol=1e-5)
    assert np.abs(together[0].history - together[2].history).max() > 1e-3


def test_the_working_members():
    def rows(*running):
        return groups.working(np.array(running, bool)).tolist()

    assert rows(1, 1, 1, 1, 1) == [0, 1, 2, 3, 4]
    assert rows(1, 0, 1, 0, 1) == [0, 1, 2, 3, 4]
    assert rows(0, 0, 1, 0, 1) == [2, 4]
    assert rows(0, 0, 0, 1, 0, 0, 0, 0) == [3]
    assert rows(0, 1, 1, 0, 0, 1, 0, 0) == [0, 1, 2, 5]  # one that does not run fills up


def test_heads_and_probes_leave_the_network_alone():
    data, source = tiny.splits(classes=3, n=36), tiny.source()
    settings = [Settings(learning_rate=0.5), Settings(learning_rate=0.05)]
    for mode in ("head", "probe"):
        recipe = FineTuning(mode=mode, epochs=12, patience=12, batch_size=12, dropout=0.0, augmentation="none")
        runs = fine_tune(source, data, settings, recipe=recipe)
        for run in runs:
            assert run.variables["params"].keys() == {"head"}
            assert run.variables["batch_stats"] == {}
            assert run.history[-1, 0] < run.history[0, 0]
        if mode == "head":
            as_head = runs
    for head, probe in zip(as_head, runs, strict=True):  # without augmentation they are the same
        np.testing.assert_allclose(head.history, probe.history, atol=1e-4)


def test_labels_of_several_kinds():
    data, source = tiny.splits(n=30, multilabel=True, classes=3), tiny.source()
    recipe = FineTuning(epochs=8, patience=8, batch_size=10, augmentation="none", dropout=0.0)
    (run,) = fine_tune(source, data, [Settings(learning_rate=0.05)], recipe=recipe)
    assert run.status == "finished"
    assert run.test_auc > 0.7
    assert run.history[-1, 0] < run.history[0, 0]


def test_lazy_images_are_as_good_as_others(lazy):
    data, source = tiny.splits(), tiny.source()
    recipe = dataclasses.replace(RECIPE, epochs=2)
    apart = Splits(**{name: lazy(getattr(data, name)) for name in ("train", "val", "test")})
    (one,), (other,) = (fine_tune(source, parts, SIX[:1], recipe=recipe) for parts in (data, apart))
    np.testing.assert_array_equal(one.history, other.history)
    assert one.test_auc == other.test_auc


@pytest.fixture
def lazy():
    from transferjax._lazy import LazyImages

    def made(dataset):
        images = dataset.images
        lazy = LazyImages(
            lambda row: images[row],
            rows=np.arange(len(images)),
            size=images.shape[1:3],
            fingerprint=lambda row: images[row].tobytes(),
        )
        return dataclasses.replace(dataset, images=lazy)

    return made


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sources": []}, "sources: none"),
        ({"settings": []}, "settings: none"),
        ({"val": "one class"}, "val: no class has both"),
        ({"test": "other classes"}, "test: has other classes"),
        ({"train": "one image"}, "train: 1 images"),
    ],
)
def test_what_cannot_be_trained(change, text):
    data = tiny.splits()
    if "val" in change:
        data = dataclasses.replace(data, val=data.val.take(np.flatnonzero(data.val.labels == 0)))
    if "test" in change:
        data = dataclasses.replace(data, test=dataclasses.replace(data.test, class_names=("a", "b")))
    if "train" in change:
        data = dataclasses.replace(data, train=data.train.take(np.array([0])))
    with pytest.raises(InputError, match=text):
        fine_tune(change.get("sources", tiny.source()), data, change.get("settings", SIX), recipe=RECIPE)
