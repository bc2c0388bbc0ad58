import hashlib

import numpy as np
import pytest

from transferjax._validate import InputError
from transferjax.data.folds import Fold, paper_folds, stratified_folds, train_val_test
from transferjax.data.medmnist_info import INFO

# Sizes of the training and the validation split as MedMNIST publishes them, number of classes, the first ten places of
# the first fold's two parts, and the SHA-256 of all five folds. Written down once, from `numpy.random.seed(24)` and
# `numpy.random.choice` as in the paper's code.
PINNED = {
    "pathmnist": (
        89996,
        10004,
        9,
        [81710, 19372, 4846, 48935, 26827, 49274, 50217, 67643, 5521, 33436],
        [3172, 6369, 2048, 7990, 370, 9264, 1044, 6262, 1038, 304],
        "d867d7729ea18fe93d593410d6b6029255c05833af8e2784d44ebdbf1d1179b8",
    ),
    "chestmnist": (
        78468,
        11219,
        14,
        [9371, 73855, 6823, 12391, 69517, 48732, 34222, 45417, 56005, 60510],
        [4875, 2148, 9181, 6913, 4157, 1572, 8610, 3952, 5994, 7134],
        "e972294bfb380287a90c792fea63b745c104a88e06c23779bd0e05ef2972fe21",
    ),
    "dermamnist": (
        7007,
        1003,
        7,
        [142, 3074, 5981, 3430, 5305, 6480, 5227, 43, 4803, 2544],
        [355, 547, 166, 892, 577, 44, 846, 85, 956, 557],
        "c2155e140e1d3adfda70cc2b76ee7dde0b6eeec9a6d66e293b4111906b2c4c06",
    ),
    "octmnist": (
        97477,
        10832,
        4,
        [599, 34662, 68904, 59503, 52224, 85840, 27672, 19201, 87354, 52790],
        [4044, 318, 7249, 8009, 10104, 75, 4166, 9264, 1564, 9519],
        "432748bd36a8db0b8d3b3d8bc85cab9e98b4174b22ab74604cfbe528e6fc119f",
    ),
    "pneumoniamnist": (
        4708,
        524,
        2,
        [212, 3561, 4643, 2565, 2134, 1224, 1579, 2831, 2208, 4173],
        [329, 404, 265, 517, 491, 91, 153, 419, 403, 76],
        "97a108dea095b8cfad6fbd7dda581514453c4f97ec5f96ae56a20edf1e0e26d6",
    ),
    "retinamnist": (
        1080,
        120,
        5,
        [55, 582, 282, 984, 223, 1032, 360, 77, 408, 946],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        "9ab85b52000faf5ab5aae02e771357faf0d79bba262542a0b294907fb7447e31",
    ),
    "breastmnist": (
        546,
        78,
        2,
        [33, 90, 499, 527, 104, 530, 410, 126, 307, 77],
        [75, 48, 7, 12, 74, 73, 43, 70, 72, 69],
        "f47ed4eb340369e0be1c84240da6f3b668589d45348847f5776269bbb2f5e0ae",
    ),
    "bloodmnist": (
        11959,
        1712,
        8,
        [10861, 6139, 1734, 6669, 11228, 255, 8064, 3795, 6922, 4774],
        [1491, 939, 1274, 446, 1634, 1514, 464, 641, 1671, 96],
        "c1b12916a84e20ab655e5308b5629ba16552a2a401d4328f832688cb507a605c",
    ),
    "tissuemnist": (
        165466,
        23640,
        8,
        [142004, 158467, 114179, 158272, 97163, 142326, 70763, 29631, 138970, 103433],
        [17655, 18956, 4586, 5001, 358, 11165, 16139, 15960, 3469, 3977],
        "57da542de5943247e80ec9f74916cdb435859eb23430c78ffcb86594f10058e3",
    ),
    "organamnist": (
        34561,
        6491,
        11,
        [7988, 32559, 2822, 15327, 24615, 12479, 27335, 8073, 15330, 27628],
        [4357, 3642, 4960, 3643, 1340, 3634, 1060, 6443, 4108, 3639],
        "9910de42ec84894ca176ed6a54b72c7568195f83d0cff167ad8dc03040066b4f",
    ),
    "organcmnist": (
        12975,
        2392,
        11,
        [11040, 11367, 4537, 11133, 7041, 4482, 1228, 6529, 10434, 2913],
        [1054, 1235, 182, 2348, 2158, 1788, 849, 314, 533, 186],
        "429e5a1e9704ec79c244eec57c64fd52c33eea4e51c23c7f136fc1dff1d9348b",
    ),
    "organsmnist": (
        13932,
        2452,
        11,
        [6757, 9408, 13901, 1581, 2008, 8132, 2112, 5904, 4315, 1427],
        [915, 1305, 2228, 2426, 1913, 541, 2094, 945, 1451, 1745],
        "94347cbd1e180fb622f633f387088cd38297d8d08a74af996e07028319afb005",
    ),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def message(call, *args, **options):
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sizes_are_medmnists():
    known = {
        name: (facts.num_examples["train"], facts.num_examples["val"], len(facts.class_names))
        for name, facts in INFO.items()
    }
    assert known == {name: pinned[:3] for name, pinned in PINNED.items()}


@pytest.mark.parametrize("name", PINNED)
def test_paper_folds_are_pinned(name):
    n_train, n_val, c, first_train, first_val, expected = PINNED[name]
    folds = paper_folds(n_train, n_val, c)
    digest = hashlib.sha256()
    for array in (array for fold in folds for array in fold):
        assert array.dtype == np.int64
        digest.update(array.astype("<i8").tobytes())
    assert folds[0].train[:10].tolist() == first_train
    assert folds[0].val[:10].tolist() == first_val
    assert digest.hexdigest() == expected


@pytest.mark.parametrize("name", PINNED)
def test_paper_folds_are_those_of_the_legacy_generator(name):
    """The order of the draws once more: training, validation, next fold; all of a small validation split, undrawn."""
    n_train, n_val, c = PINNED[name][:3]
    state = np.random.RandomState(24)
    for fold in paper_folds(n_train, n_val, c):
        np.testing.assert_array_equal(fold.train, state.choice(n_train, 100 * c, replace=False))
        if n_val > 25 * c:
            np.testing.assert_array_equal(fold.val, state.choice(n_val, 25 * c, replace=False))
        else:
            assert name == "retinamnist"
            np.testing.assert_array_equal(fold.val, np.arange(n_val))


def test_paper_folds_of_just_enough():
    """25 validation images per class and no more are not drawn either, and so are in order."""
    exact, one_more = paper_folds(200, 50, 2, num_folds=2), paper_folds(200, 51, 2, num_folds=2)
    assert exact[0].val.tolist() == list(range(50)) != one_more[0].val.tolist()
    np.testing.assert_array_equal(exact[0].train, one_more[0].train)
    assert exact[1].train.tolist() != one_more[1].train.tolist(), "the generator has moved"
    assert sorted(exact[0].train.tolist()) == list(range(200))


def test_paper_folds_leave_the_global_generator_alone():
    before = np.random.get_state()  # noqa: NPY002
    first = paper_folds(1000, 100, 2)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(after[1], before[1])
    assert after[2:] == before[2:]
    for a, b in zip(first, paper_folds(1000, 100, 2, num_folds=3), strict=False):
        np.testing.assert_array_equal(a.train, b.train)


def test_paper_folds_refuse():
    assert "n_train: 199 examples, fewer than the 200 of a fold (100 per class)" in message(paper_folds, 199, 50, 2)
    for arguments in ((1000, 0, 2), (1000, 100, 0)):
        assert "0 is not positive" in message(paper_folds, *arguments)
    assert "num_folds: 0 is not positive" in message(paper_folds, 1000, 100, 2, num_folds=0)


def partition(parts, n):
    """Whether each of n examples is in one of the parts, which are sorted."""
    return sorted(np.concatenate(parts).tolist()) == list(range(n)) and all((np.diff(part) > 0).all() for part in parts)


def counts(labels, parts):
    """How many of each class or label are in each part: [parts, c]."""
    onehot = labels == 1 if labels.ndim == 2 else labels[:, None] == np.unique(labels)
    return np.array([onehot[part].sum(axis=0) for part in parts])


def test_stratified_folds_of_classes():
    labels = rng().permutation(np.repeat([0, 1, 4], [50, 23, 6]))
    folds = stratified_folds(labels, rng=rng())
    assert len(folds) == 5
    assert isinstance(folds[0], Fold)
    assert partition([fold.val for fold in folds], 79)
    for fold in folds:
        assert partition(fold, 79)
    assert counts(labels, [fold.val for fold in folds]).min(axis=0).tolist() == [10, 4, 1]
    assert counts(labels, [fold.val for fold in folds]).max(axis=0).tolist() == [10, 5, 2]


def mixed(seed=0, n=600):
    """Labels of several rarities that come together, some missing; patients with few or many images."""
    r = rng(seed)
    latent = 0.7 * r.standard_normal((n, 1)) + r.standard_normal((n, 4))
    labels = (latent > [2.6, 1.0, 0.0, -2.2]).astype(np.int8)
    labels[r.random(labels.shape) < 0.05] = -1
    labels[(labels < 0).all(axis=1)] = 0
    return labels, r.choice(150, n, p=r.dirichlet(np.full(150, 0.7)))


def worst(labels, parts, shares):
    """By how many examples any part is off its share of any label's positives or negatives, or of all examples."""
    known = np.column_stack([labels == 1, labels == 0, np.ones(len(labels), bool)])
    held = np.array([known[part].sum(axis=0) for part in parts])
    return abs(held - np.outer(shares, known.sum(axis=0))).max()


@pytest.mark.parametrize(("grouped", "slack"), [(False, 2), (True, 5)])
def test_stratified_folds_of_label_sets(grouped, slack):
    """Some examples have several labels and some patients have many examples, so that nothing comes out quite even."""
    labels, patients = mixed()
    folds = stratified_folds(labels, groups=patients if grouped else None, rng=rng())
    parts = [fold.val for fold in folds]
    assert partition(parts, 600)
    assert worst(labels, parts, np.full(5, 0.2)) <= slack
    blind = rng().integers(0, 5, 600)[patients if grouped else np.arange(600)]
    assert worst(labels, [np.flatnonzero(blind == k) for k in range(5)], np.full(5, 0.2)) > 2 * slack
    for fold in folds:
        assert partition(fold, 600)
        assert not grouped or not set(patients[fold.train]) & set(patients[fold.val])


def test_stratified_folds_of_groups():
    """No patient in two folds, each class in each; texts and numbers do."""
    r = rng(1)
    kind = np.repeat([0, 1, 2], [30, 12, 5])  # of each patient, but one scan of some is of another class
    patients = r.choice(47, 400, p=r.dirichlet(np.full(47, 3)))
    labels = np.where(r.random(400) < 0.1, 0, kind[patients])
    assert len(np.unique(patients[labels == 2])) == 5
    folds = stratified_folds(labels, groups=patients, rng=rng())
    parts = [fold.val for fold in folds]
    assert partition(parts, 400)
    assert counts(labels, parts).min() > 0
    assert np.ptp([len(part) for part in parts]) < 25
    for fold in folds:
        assert partition(fold, 400)
        assert not set(patients[fold.train]) & set(patients[fold.val])
    named = stratified_folds(labels, groups=np.array([f"patient {i}" for i in patients]), rng=rng())
    for fold, again in zip(folds, named, strict=True):
        np.testing.assert_array_equal(fold.val, again.val)


@pytest.mark.parametrize("labels", [np.arange(90) % 3, mixed(n=90)[0]])
@pytest.mark.parametrize("groups", [None, np.arange(90) // 2])
def test_folds_and_splits_follow_the_generator(labels, groups):
    def both(seed):
        return [
            *(fold.val.tolist() for fold in stratified_folds(labels, groups=groups, rng=rng(seed))),
            *(part.tolist() for part in train_val_test(labels, groups=groups, rng=rng(seed))),
        ]

    assert both(0) == both(0) != both(1)


def test_every_class_is_in_every_fold_if_its_groups_suffice():
    """Five patients have the rare class, one of them a hundred scans of it."""
    labels = np.repeat([1, 1, 1, 1, 1, 0], [100, 1, 1, 1, 1, 300])
    patients = np.concatenate([np.repeat(np.arange(5), [100, 1, 1, 1, 1]), 5 + np.arange(300) // 3])
    parts = [fold.val for fold in stratified_folds(labels, groups=patients, rng=rng())]
    assert sorted(counts(labels, parts)[:, 1].tolist()) == [1, 1, 1, 1, 100]


@pytest.mark.parametrize("seed", range(3))
def test_big_groups_come_first(seed):
    """Of each class one patient has ten scans and ten have one: halves are even only if the ten are made up for."""
    labels = np.repeat([0, 1], 20)
    patients = np.concatenate([np.repeat(np.arange(11), [10] + [1] * 10) + 11 * label for label in (0, 1)])
    parts = [fold.val for fold in stratified_folds(labels, num_folds=2, groups=patients, rng=rng(seed))]
    assert counts(labels, parts).tolist() == [[10, 10], [10, 10]]


def test_other_orders_are_tried():
    """Three patients with all classes between them: from the first order of this generator a fold lacks one."""
    labels, patients = np.array([0, 2, 1, 1, 0, 1, 2, 0, 2]), np.array([0, 3, 2, 3, 3, 3, 0, 2, 0])
    parts = [fold.val for fold in stratified_folds(labels, num_folds=2, groups=patients, rng=rng())]
    assert partition(parts, 9)
    assert counts(labels, parts).min() > 0


def test_folds_refuse():
    labels = np.repeat([0, 1], [20, 4])
    text = message(stratified_folds, labels, rng=rng())
    assert text.startswith("labels: too few examples for 5 folds (class 1 has 4). Ask for fewer folds")
    patients = np.where(labels == 1, np.arange(24) // 2, np.arange(24))
    text = message(stratified_folds, labels, groups=patients, num_folds=3, rng=rng())
    assert text.startswith("labels: too few groups for 3 folds (class 1 has 2)")
    assert "num_folds: 1. Give at least 2" in message(stratified_folds, labels, num_folds=1, rng=rng())
    label_sets = np.eye(4, dtype=np.int8)
    text = message(stratified_folds, label_sets, groups=[1, 1, 2, 2], num_folds=3, rng=rng())
    assert text == "groups: 2, fewer than the 3 folds. Ask for fewer folds."
    assert "groups: shape [3], for 24 labels" in message(stratified_folds, labels, groups=[1, 2, 3], rng=rng())
    for missing in (np.where(np.arange(24) == 7, np.nan, 1.0), [None if i == 7 else "p" for i in range(24)]):
        assert "groups: no group at 1 of 24 examples (first: 7)" in message(
            stratified_folds, labels, groups=missing, num_folds=2, rng=rng()
        )
    assert "labels: -1 at example 0 is negative" in message(stratified_folds, np.array([-1, 0, 1]), rng=rng())
    assert "labels: 2 at example 1, column 0" in message(train_val_test, np.array([[1, 0], [2, 0]]), rng=rng())


def test_groups_of_several_classes_can_make_it_impossible():
    """Three patients, two folds: each class is of two patients, so no two patients could be in one fold."""
    labels, patients = np.array([1, 1, 2, 2, 3, 3]), np.array([0, 1, 1, 2, 0, 2])
    text = message(stratified_folds, labels, groups=patients, num_folds=2, rng=rng())
    assert text.startswith("groups: no way found to have class")
    assert text.endswith("Ask for fewer parts, or merge or leave out this class.")


def test_train_val_test_of_classes():
    labels = rng().permutation(np.repeat([0, 1, 2, 3], [700, 203, 12, 3]))
    split = train_val_test(labels, rng=rng())
    assert partition(split, 918)
    table = counts(labels, split)
    assert (abs(table[:, :3] - np.outer([0.7, 0.1, 0.2], [700, 203, 12])) < 2).all()
    assert table[:, 3].tolist() == [1, 1, 1]
    shuffled = rng(5).permutation(918)
    assert not np.array_equal(split.val, train_val_test(labels[shuffled], rng=rng()).val)


@pytest.mark.parametrize(("grouped", "slack"), [(False, 2), (True, 5)])
def test_train_val_test_of_label_sets(grouped, slack):
    labels, patients = mixed()
    split = train_val_test(labels, groups=patients if grouped else None, rng=rng())
    assert partition(split, 600)
    assert worst(labels, split, [0.7, 0.1, 0.2]) <= slack
    if grouped:
        assert sum(len(set(patients[part])) for part in split) == len(set(patients))


def test_train_val_test_of_groups():
    labels = rng(2).integers(0, 3, 300)
    patients = rng(3).integers(0, 60, 300)
    split = train_val_test(labels, groups=patients, rng=rng())
    assert partition(split, 300)
    assert sum(len(set(patients[part])) for part in split) == len(set(patients))
    assert (abs(np.array([len(part) for part in split]) - [210, 30, 60]) <= 6).all()
    assert (counts(labels, split) > 0).all()


@pytest.mark.parametrize(("val_share", "test_share"), [(0.2, 0), (0, 0.2), (0, 0)])
def test_a_share_of_nothing(val_share, test_share):
    labels = np.repeat([0, 1], [48, 2])
    split = train_val_test(labels, val_share=val_share, test_share=test_share, rng=rng())
    assert [len(part) > 0 for part in split] == [True, val_share > 0, test_share > 0]
    assert partition(split, 50)


def test_splits_refuse():
    labels = np.repeat([0, 1], [20, 2])
    assert "labels: too few examples for 3 parts (class 1 has 2)" in message(train_val_test, labels, rng=rng())
    assert "groups: 2, fewer than the 3 parts" in message(train_val_test, labels, groups=np.arange(22) % 2, rng=rng())
    for shares in ((-0.1, 0.2), (0.5, 0.5), (0.3, 0.7), (float("nan"), 0.2)):
        text = message(train_val_test, labels, val_share=shares[0], test_share=shares[1], rng=rng())
        assert (
            text
            == f"val_share and test_share: {shares[0]} and {shares[1]}. Give shares of at least 0 whose sum is below 1."
        )
