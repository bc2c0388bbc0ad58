from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from sklearn.metrics import accuracy_score, roc_auc_score, top_k_accuracy_score

from transferjax import InputError
from transferjax.evaluation.classification import auc, device_accuracy, device_auc, evaluate, top_k_accuracy

TASKS = ("multiclass", "binary", "multilabel")


@functools.partial(jax.jit, static_argnames="task")
def both(probabilities, labels, mask=None, *, task=None):
    """AUC and accuracy in one program."""
    options = {"task": task, "mask": mask}
    return jnp.stack([judge(probabilities, labels, **options) for judge in (device_auc, device_accuracy)])


def on_device(*arrays, task=None):
    return np.asarray(both(*arrays, task=task))


def made_up(task, n=60, c=4, *, digits=2, seed=0):
    """Probabilities float32 with many ties, and labels."""
    rng = np.random.default_rng(seed)
    if task == "multilabel":
        return rng.uniform(size=(n, c)).round(digits).astype(np.float32), rng.integers(0, 2, (n, c)).astype(np.int8)
    c = 2 if task == "binary" else c
    labels = rng.permutation(np.arange(n) % c)
    return rng.dirichlet(np.ones(c), n).round(digits).astype(np.float32), labels.astype(np.int32)


def by_pairs(scores, yes):
    """The AUC as it is defined: the share of pairs in the right order, equal ones half."""
    better = scores[yes][:, None].astype(np.float64) - scores[~yes].astype(np.float64)
    return np.mean((better > 0) + 0.5 * (better == 0))


def test_is_the_mean_of_one_against_the_rest():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    probabilities = rng.dirichlet(np.ones(3), 60)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr")
    assert auc(probabilities, labels) == pytest.approx(expected)
    scores = evaluate(probabilities, labels, "multiclass")
    assert scores.auc == pytest.approx(expected)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
    assert scores.skipped == ()


def test_two_classes():
    rng = np.random.default_rng(0)
    labels, second = rng.integers(0, 2, 40), rng.uniform(size=40)
    pair = np.stack([1 - second, second], axis=1)
    assert auc(pair, labels) == pytest.approx(roc_auc_score(labels, second))
    for probabilities in (pair, second[:, None]):
        scores = evaluate(probabilities, labels, "binary")
        assert scores.auc == pytest.approx(roc_auc_score(labels, second))
        assert scores.accuracy == pytest.approx(accuracy_score(labels, second > 0.5))
        assert scores.skipped == ()


def test_several_labels():
    probabilities, labels = made_up("multilabel", c=3)
    scores = evaluate(probabilities, labels, "multilabel")
    assert scores.auc == pytest.approx(roc_auc_score(labels, probabilities, average="macro"))
    assert scores.accuracy == pytest.approx(np.mean((probabilities > 0.5) == labels))


def test_missing_labels_are_left_out():
    probabilities, labels = made_up("multilabel", c=3)
    labels[:20, 0] = labels[5:40, 2] = -1
    scores = evaluate(probabilities, labels, "multilabel")
    kept = [(probabilities[labels[:, j] >= 0, j], labels[labels[:, j] >= 0, j] == 1) for j in range(3)]
    assert [len(y) for _, y in kept] == [40, 60, 25]
    assert scores.auc == pytest.approx(np.mean([by_pairs(p, y) for p, y in kept]))
    assert scores.accuracy == pytest.approx(np.mean([np.mean((p > 0.5) == y) for p, y in kept]))


def test_one_half_is_no():
    probabilities = np.array([[0.5], [0.5], [0.6]], np.float32)
    assert evaluate(probabilities, [0, 0, 1], "binary").accuracy == 1
    assert evaluate(probabilities, [1, 0, 1], "binary").accuracy == pytest.approx(2 / 3)
    assert on_device(probabilities, jnp.array([1, 0, 1]))[1] == pytest.approx(2 / 3)


def test_absent_classes_are_skipped_and_said():
    probabilities, labels = made_up("multiclass", c=5)
    present = ~np.isin(labels, [1, 4])
    probabilities, labels = probabilities[present], labels[present]
    scores = evaluate(probabilities, labels, "multiclass")
    assert scores.skipped == (1, 4)
    assert scores.auc == pytest.approx(np.mean([by_pairs(probabilities[:, j], labels == j) for j in (0, 2, 3)]))
    with pytest.raises(InputError, match=r"labels: examples per class: \[12, 0, 12, 12, 0\]"):
        auc(probabilities, labels)


def test_labels_of_one_kind_are_skipped_and_said():
    probabilities, labels = made_up("multilabel", c=5)
    labels[:, 0], labels[:, 2], labels[:, 3] = 1, -1, 0
    scores = evaluate(probabilities, labels, "multilabel")
    assert scores.skipped == (0, 2, 3)
    assert scores.auc == pytest.approx(roc_auc_score(labels[:, [1, 4]], probabilities[:, [1, 4]]))
    answered = [0, 1, 3, 4]  # one kind is enough for the accuracy
    assert scores.accuracy == pytest.approx(np.mean((probabilities > 0.5)[:, answered] == labels[:, answered]))


def test_undefined():
    with pytest.raises(InputError, match=r"\[4, 0\]"):
        auc(np.full((4, 2), 0.5), np.zeros(4, int))
    for labels, task in ((np.ones(4, int), "binary"), (np.full((4, 2), -1), "multilabel")):
        with pytest.raises(InputError, match="labels: no class has both examples"):
            evaluate(np.full((4, 2), 0.5), labels, task)
        assert np.isnan(on_device(np.full((4, 2), 0.5, np.float32), labels)[0])
    assert on_device(np.full((4, 2), 0.5, np.float32), np.ones(4, int))[1] == 0  # defined all the same
    assert np.isnan(on_device(np.full((4, 2), 0.5, np.float32), np.full((4, 2), -1))[1])


@pytest.mark.parametrize(
    ("probabilities", "labels", "task", "message"),
    [
        (np.zeros(4), [0] * 4, "binary", r"probabilities: shape \(4,\)"),
        (np.zeros((0, 2)), [], "binary", r"probabilities: shape \(0, 2\)"),
        (np.zeros((4, 2), int), [0] * 4, "binary", "probabilities: .*int64"),
        (np.zeros((4, 2)), [0] * 3, "binary", r"labels: shape \(3,\).*\[4\]"),
        (np.zeros((4, 2)), [0.0] * 4, "binary", "labels: .*float64"),
        (np.zeros((4, 2)), [[0, 1]] * 4, "multiclass", r"labels: shape \(4, 2\).*'multiclass'"),
        (np.zeros((4, 2)), [0] * 4, "multilabel", r"labels: shape \(4,\).*\[4, 2\].*'multilabel'"),
        (np.zeros((4, 3)), [0] * 4, "binary", "probabilities: 3 columns.*one or two"),
        (np.zeros((4, 1)), [0] * 4, "multiclass", "probabilities: 1 columns.*two or more"),
        (np.zeros((4, 2)), [0, 1, 2, 0], "multiclass", r"labels: 0\.\.2.*0\.\.1"),
        (np.zeros((4, 2)), [0, 1, -1, 0], "binary", r"labels: -1\.\.1.*0\.\.1"),
        (np.zeros((4, 2)), [[0, 2]] * 4, "multilabel", r"labels: 0\.\.2.*-1\.\.1"),
        (np.full((4, 2), -3.5), [0] * 4, "binary", r"probabilities: -3\.5\.\.-3\.5.*softmax"),
        (np.full((4, 2), 2.0), [0] * 4, "multiclass", r"probabilities: 2\.\.2"),
        (np.array([[0, 1], [0, np.nan]]), [0, 1], "binary", "probabilities: not finite at example 1"),
        (np.zeros((4, 2)), [0] * 4, "ordinal", "task: 'ordinal' is unknown.*multiclass"),
    ],
)
def test_bad_input(probabilities, labels, task, message):
    with pytest.raises(InputError, match=message):
        evaluate(probabilities, labels, task)


def test_top_k_is_scikit_learns():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(12), 200), rng.integers(0, 12, 200)
    for k in (1, 3, 5, 11):
        expected = top_k_accuracy_score(labels, probabilities, k=k, labels=np.arange(12))
        assert top_k_accuracy(probabilities, labels, k=k) == pytest.approx(expected)
    assert top_k_accuracy(probabilities, labels) == top_k_accuracy(probabilities, labels, k=5)


def test_top_k_with_ties_is_what_the_first_classes_get():
    probabilities, labels = np.full((8, 4), 0.25), np.array([0, 0, 1, 2, 2, 3, 3, 3])
    assert [top_k_accuracy(probabilities, labels, k=k) for k in (1, 2, 3)] == [2 / 8, 3 / 8, 5 / 8]
    probabilities, labels = made_up("multiclass", digits=1)
    assert top_k_accuracy(probabilities, labels, k=1) == evaluate(probabilities, labels, "multiclass").accuracy


@pytest.mark.parametrize(("k", "message"), [(0, "k: 0 is not positive"), (4, "k: 4.*less than the 4 classes")])
def test_top_k_needs_a_question(k, message):
    with pytest.raises(InputError, match=message):
        top_k_accuracy(*made_up("multiclass"), k=k)


@pytest.mark.parametrize("digits", [1, 8])
@pytest.mark.parametrize("task", TASKS)
def test_device_equals_host(task, digits):
    probabilities, labels = made_up(task, 61, digits=digits)
    expected = evaluate(probabilities, labels, task)
    np.testing.assert_allclose(on_device(probabilities, labels), expected[:2], rtol=0, atol=1e-6)


def test_device_follows_the_task_where_shapes_leave_it_open():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.uniform(size=(30, 2)).astype(np.float32), rng.integers(0, 2, 30)  # they sum to no 1
    for task in ("multiclass", "binary"):
        expected = evaluate(probabilities, labels, task)
        np.testing.assert_allclose(on_device(probabilities, labels, task=task), expected[:2], rtol=0, atol=1e-6)
    assert abs(np.diff([evaluate(probabilities, labels, task).auc for task in ("multiclass", "binary")])) > 0.01


def test_device_skips_and_leaves_out_as_the_host():
    probabilities, labels = made_up("multilabel", 61, c=6)
    labels[:30, 1] = labels[:, 4] = -1
    labels[:, 2], labels[:, 3] = 0, 1
    expected = evaluate(probabilities, labels, "multilabel")
    assert expected.skipped == (2, 3, 4)
    np.testing.assert_allclose(on_device(probabilities, labels), expected[:2], rtol=0, atol=1e-6)
    probabilities, labels = made_up("multiclass", 61, c=6)
    labels[np.isin(labels, [0, 3])] = 5
    expected = evaluate(probabilities, labels, "multiclass")
    assert expected.skipped == (0, 3)
    np.testing.assert_allclose(on_device(probabilities, labels), expected[:2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_masked_or_missing_is_as_if_it_were_not_there(task):
    probabilities, labels = made_up(task, 61)
    mask = np.arange(61) % 4 != 1
    expected = evaluate(probabilities[mask], labels[mask], task)[:2]
    probabilities[~mask] = np.nan
    np.testing.assert_allclose(on_device(probabilities, labels, mask), expected, rtol=0, atol=1e-6)
    labels[~mask] = -1
    np.testing.assert_allclose(on_device(probabilities, labels), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_bad_values_give_nan(task):
    probabilities, labels = made_up(task, 61)
    broken = probabilities.copy()
    broken[7, -1] = np.nan
    assert np.isnan(on_device(broken, labels)).all()
    labels.flat[3] = probabilities.shape[1]
    assert np.isnan(on_device(probabilities, labels)).all()


@pytest.mark.parametrize("share", [0.5, 0.001])
def test_no_digit_is_lost_with_many_examples(share):
    n = 100_000
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) < share * n).astype(np.int32)
    noisy = labels + rng.normal(size=n)
    columns = [noisy, noisy.round(2), noisy.round(0), labels + rng.uniform(size=n) / 2]  # the last in perfect order
    for scores in np.array(columns, np.float32)[:, :, None]:
        assert on_device(scores, labels)[0] == pytest.approx(roc_auc_score(labels, scores[:, 0]), abs=1e-6)


def test_no_digit_is_lost_with_many_classes():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.uniform(size=(1000, 165)).astype(np.float32), rng.permutation(np.arange(1000) % 165)
    probabilities[np.arange(1000), labels] += 0.5 * rng.uniform(size=1000).astype(np.float32)
    assert on_device(probabilities, labels)[0] == pytest.approx(auc(probabilities, labels), abs=1e-6)


@pytest.mark.parametrize("classes", [4, 37])
def test_population_is_to_the_digit_as_its_members_one_by_one(classes):
    _, labels = made_up("multiclass", 61, classes)
    members = np.stack([made_up("multiclass", 61, classes, seed=seed)[0] for seed in range(1, 7)])
    mask = np.arange(61) < 50
    together = jax.jit(jax.vmap(both, (0, None, None)))(members, labels, mask)
    np.testing.assert_array_equal(together, [on_device(member, labels, mask) for member in members])
    assert len(np.unique(together[:, 0])) == 6


def test_half_precision_and_double():
    probabilities, labels = made_up("multiclass", 61, digits=8)
    half = jnp.asarray(probabilities, jnp.bfloat16)
    expected = evaluate(half, labels, "multiclass")
    assert expected != evaluate(probabilities, labels, "multiclass")
    np.testing.assert_allclose(on_device(half, labels), expected[:2], rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        scores, answers = np.array([[0.5 + 1e-12], [0.5], [0.5 - 1e-12], [0.2]]), np.array([1, 0, 1, 0])
        result = on_device(scores, answers)
        assert result.dtype == np.float64
        assert result[0] == evaluate(scores, answers, "binary").auc == 0.75


def test_floats_that_devices_take_as_equal():
    tiny = np.finfo(np.float32).smallest_subnormal
    scores = np.array([0.0, -0.0, tiny, 2 * tiny, -tiny, np.inf, -np.inf, np.finfo(np.float32).max], np.float32)
    for seed in range(8):
        yes = np.random.default_rng(seed).permutation(8) < 4
        order = np.array([2, 2, 3, 4, 1, 6, 0, 5])
        assert on_device(scores[:, None], yes.astype(int))[0] == pytest.approx(by_pairs(order, yes), abs=1e-6)


ANY_FLOAT = st.floats(width=32, allow_nan=False)
FEW_VALUES = st.sampled_from([0.0, -0.0, 1e-45, 0.25, 0.5, 1.0, -1.0])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.one_of(FEW_VALUES, ANY_FLOAT), st.sampled_from([0, 1, -1])), min_size=24, max_size=24),
)
def test_is_the_share_of_pairs_and_one_minus_it_when_negated(examples):
    scores = np.array([[score] for score, _ in examples], np.float32)
    labels = np.array([label for _, label in examples])
    (area, _), (negated, _) = on_device(scores, labels), on_device(-scores, labels)
    known = labels >= 0
    values, yes = np.unique(scores[known, 0], return_inverse=True)[1], labels[known] == 1
    if yes.any() and not yes.all():
        assert area == pytest.approx(by_pairs(values, yes), abs=1e-6)
        assert 0 <= area <= 1
        assert negated == pytest.approx(1 - area, abs=1e-6)
    else:
        assert np.isnan(area)
        assert np.isnan(negated)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(-(2**20), 2**20), min_size=3, max_size=3), min_size=24, max_size=24),
    st.lists(st.integers(0, 2), min_size=24, max_size=24),
    st.permutations(range(24)),
)
def test_only_the_order_counts(numbers, classes, order):
    scores, labels = np.array(numbers, np.float32), np.array(classes)
    area, share = on_device(scores, labels)
    steeper = scores * 8 + 2**18  # exact in float32, so that no ties come or go
    np.testing.assert_array_equal(on_device(steeper, labels), [area, share])
    np.testing.assert_array_equal(on_device(scores[np.array(order)], labels[np.array(order)]), [area, share])
    if len(np.unique(labels)) == 3:
        assert auc(steeper, labels) == auc(np.cbrt(scores.astype(np.float64)), labels) == auc(scores, labels)
        assert area == pytest.approx(auc(scores, labels), abs=1e-6)
        assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels))


@pytest.mark.parametrize(
    ("n", "labels", "options", "message"),
    [
        (4, jnp.zeros((4, 3), int), {}, r"labels: shape \(4, 3\)"),
        (4, jnp.zeros(4), {}, "labels: .*float32"),
        (4, jnp.zeros(4, int), {"task": "multilabel"}, r"labels: shape \(4,\)"),
        (4, jnp.zeros(4, int), {"mask": jnp.ones(3, bool)}, r"mask: shape \(3,\)"),
        (4, jnp.zeros(4, int), {"mask": jnp.ones(4)}, "mask: .*float32"),
        (2**23 + 1, jax.ShapeDtypeStruct((2**23 + 1,), jnp.int32), {}, "8388609 examples"),
    ],
)
def test_bad_input_on_device_is_said_while_tracing(n, labels, options, message):
    for judge in (device_auc, device_accuracy):
        with pytest.raises(InputError, match=message):
            jax.eval_shape(
                functools.partial(judge, **options),
                jax.ShapeDtypeStruct((n, 2), jnp.float32),
                jax.ShapeDtypeStruct(labels.shape, labels.dtype),
            )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("task", TASKS)
def test_lowers_for(platform, task):
    c = 2 if task == "binary" else 3
    labels = jax.ShapeDtypeStruct((100, c) if task == "multilabel" else (100,), jnp.int32)
    shapes = (jax.ShapeDtypeStruct((5, 100, c), jnp.float32), labels, jax.ShapeDtypeStruct((100,), jnp.bool_))
    fn = jax.jit(jax.vmap(functools.partial(both, task=task), (0, None, None)))
    assert export.export(fn, platforms=[platform])(*shapes).platforms == (platform,)


MEDMNIST = [  # a set of each of their task kinds, and how many columns a network has for it
    ("bloodmnist", "multiclass", 8),
    ("retinamnist", "multiclass", 5),  # ordinal
    ("pneumoniamnist", "binary", 1),
    ("breastmnist", "binary", 2),
    ("chestmnist", "multilabel", 14),
]


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("flag", "task", "columns"), MEDMNIST)
def test_is_what_medmnists_evaluator_says(flag, task, columns, seed, tmp_path):
    """pip install torch torchvision; pip install --no-deps medmnist==3.0.2."""
    from medmnist import INFO, Evaluator

    rng = np.random.default_rng(seed)
    classes = len(INFO[flag]["label"])
    if task == "multilabel":
        theirs = rng.integers(0, 2, (200, classes))
    else:
        theirs = rng.permutation(np.arange(200) % classes)[:, None]
    np.savez(tmp_path / f"{flag}.npz", test_labels=theirs)
    probabilities = rng.uniform(size=(200, columns)).round(2).astype(np.float32)
    if task == "multiclass":
        probabilities = (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)
    expected = Evaluator(flag, "test", root=str(tmp_path)).evaluate(probabilities)
    ours = theirs if task == "multilabel" else theirs[:, 0]
    scores = evaluate(probabilities, ours, task)
    assert scores[:2] == pytest.approx(tuple(expected), abs=1e-12)
    assert scores.skipped == ()
    np.testing.assert_allclose(on_device(probabilities, ours, task=task), expected, rtol=0, atol=1e-6)
