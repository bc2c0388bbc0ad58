import itertools

import numpy as np
import pytest

from transferjax._lazy import LazyImages
from transferjax._validate import InputError
from transferjax.data.medmnist_info import INFO
from transferjax.data.union import class_balanced_epochs, class_balanced_weights, label_space, multi_hot, union
from transferjax.types import TargetDataset

# Target → number of labels, then the first column of chest, pneumonia (if it has its own), path, derma, oct, retina,
# breast, blood, tissue, and of the three organs' sets.
TABLE = {
    None: (69, 0, None, 15, 24, 31, 35, 40, 42, 50, 58),
    "pathmnist": (60, 0, None, None, 15, 22, 26, 31, 33, 41, 49),
    "chestmnist": (56, None, 0, 2, 11, 18, 22, 27, 29, 37, 45),
    "dermamnist": (62, 0, None, 15, None, 24, 28, 33, 35, 43, 51),
    "octmnist": (65, 0, None, 15, 24, None, 31, 36, 38, 46, 54),
    "pneumoniamnist": (69, 0, None, 15, 24, 31, 35, 40, 42, 50, 58),
    "retinamnist": (64, 0, None, 15, 24, 31, None, 35, 37, 45, 53),
    "breastmnist": (67, 0, None, 15, 24, 31, 35, None, 40, 48, 56),
    "bloodmnist": (61, 0, None, 15, 24, 31, 35, 40, None, 42, 50),
    "tissuemnist": (61, 0, None, 15, 24, 31, 35, 40, 42, None, 50),
    "organamnist": (69, 0, None, 15, 24, 31, 35, 40, 42, 50, 58),
    "organcmnist": (69, 0, None, 15, 24, 31, 35, 40, 42, 50, 58),
    "organsmnist": (69, 0, None, 15, 24, 31, 35, 40, 42, 50, 58),
}
BLOCKS = ("chest", "pneumonia", "path", "derma", "oct", "retina", "breast", "blood", "tissue", "organ")
SIZES = {"chest": 14, "path": 9, "derma": 7, "oct": 4, "pneumonia": 2, "retina": 5, "breast": 2, "blood": 8}
SIZES |= {"tissue": 8, "organa": 11, "organc": 11, "organs": 11}


def message(call, *args, **options):
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("target", TABLE)
def test_every_label_has_its_column(target):
    size, *firsts = TABLE[target]
    first = dict(zip(BLOCKS, firsts, strict=True))
    space = label_space(target)
    assert len(space) == len(space.names) == len(set(space.names)) == size
    assert set(space.columns) == {f"{name}mnist" for name in SIZES} - {target}
    hit = set()
    for name, count in SIZES.items():
        if f"{name}mnist" == target:
            continue
        start = first["organ" if name.startswith("organ") else name]
        for label in range(count):
            shared = name == "pneumonia" and target != "chestmnist"
            expected = (14, 6)[label] if shared else start + label
            assert space.columns[f"{name}mnist"][label] == expected, (name, label)
            hit.add(expected)
            given = np.eye(14, dtype=np.uint8)[[label]] if name == "chest" else np.array([[label]], np.uint8)
            row = multi_hot(space, f"{name}mnist", given)
            assert row.dtype == np.int8
            assert np.flatnonzero(row[0]).tolist() == [expected], (name, label)
            own = INFO[f"{name}mnist"].class_names[label]
            shown = space.names[expected].partition(": ")
            assert shown[2] == ("no finding" if shared and label == 0 else own)
    assert hit | ({14} if target != "chestmnist" else set()) == set(range(size))


@pytest.mark.parametrize("target", TABLE)
def test_columns_are_counted_as_the_paper_does(target):
    """Its rule once more: sets one after the other, a counter that stands still at what is shared."""
    order = ["chest", "pneumonia", "path", "derma", "oct", "retina", "breast", "blood", "tissue"]
    order = [f"{name}mnist" for name in [*order, "organa", "organc", "organs"]]
    counter = 0
    for name in (name for name in order if name != target):
        count = len(INFO[name].class_names)
        if name == "pneumoniamnist" and target != "chestmnist":
            expected = (14, 6)
        else:
            expected = tuple(range(counter, counter + count))
            if name == "chestmnist":
                counter += 15
            elif not name.startswith("organ"):
                counter += count
        assert label_space(target).columns[name] == expected


def test_label_sets_of_chest():
    labels = np.zeros((3, 14), np.int8)
    labels[0, [2, 6, 13]] = 1
    labels[2, 0] = 1
    rows = multi_hot(label_space("octmnist"), "chestmnist", labels)
    assert [np.flatnonzero(row).tolist() for row in rows] == [[2, 6, 13], [14], [0]]


def test_labels_that_are_not_the_sets():
    space = label_space("bloodmnist")
    assert "dataset: 'bloodmnist' is unknown. Choose from: chestmnist" in message(multi_hot, space, "bloodmnist", [0])
    assert "octmnist, labels: 4. octmnist has 4 classes, 0..3." in message(
        multi_hot, space, "octmnist", np.array([0, 4])
    )
    assert "octmnist, labels: -1 at example 0" in message(multi_hot, space, "octmnist", np.array([-1]))
    assert "chestmnist, labels: 15 columns" in message(multi_hot, space, "chestmnist", np.zeros((2, 15), int))
    missing = np.zeros((2, 14), int)
    missing[1, 3] = -1
    assert "chestmnist, labels: missing labels (-1)" in message(multi_hot, space, "chestmnist", missing)
    assert "target: 'blood' is unknown" in message(label_space, "blood")


def sets(target, *, n=3, size=(4, 5), lazy=("pathmnist", "organsmnist"), numbered=False):
    """Small splits of all sets but the target, some lazy; every image has a value of its own everywhere."""
    result = {}
    for place, (name, info) in enumerate(INFO.items()):
        if name == target:
            continue
        c = len(info.class_names)
        values = 20 * place + np.arange(n)
        images = np.broadcast_to(values[:, None, None, None], (n, *size, 3)).astype(np.uint8)
        if name in lazy:  # in reverse, so that rows and numbers differ
            images = LazyImages(
                lambda i, v=values: np.full((*size, 3), v[::-1][i], np.uint8),
                rows=np.arange(n)[::-1],
                size=size,
                fingerprint=lambda i, v=values: b"%d" % v[::-1][i],
            )
        labels = np.arange(n) % c
        labels = np.eye(14, dtype=np.int8)[labels] if name == "chestmnist" else labels.astype(np.int32)
        names = tuple(str(i) for i in range(c)) if numbered else info.class_names
        task = {"multilabel": "multilabel", "binary": "binary"}.get(info.task, "multiclass")
        result[name] = TargetDataset(name=name, images=images, labels=labels, class_names=names, task=task)
    return result


@pytest.mark.parametrize("target", ["bloodmnist", "chestmnist", None])
def test_union_of_arrays_and_lazy_images(target):
    parts = sets(target)
    joined = union(dict(reversed(parts.items())), target=target)
    space = label_space(target)
    assert joined.task == "multilabel"
    assert joined.class_names == space.names
    assert joined.name == ("medmnist" if target is None else f"medmnist-without-{target}")
    assert joined.images.shape == (3 * len(parts), 4, 5, 3)
    assert isinstance(joined.images, LazyImages)
    numbers = {name: 20 * place for place, name in enumerate(INFO)}
    values = [numbers[name] + i for name in space.columns for i in range(3)]
    np.testing.assert_array_equal(
        joined.images[:], np.broadcast_to(np.reshape(values, (-1, 1, 1, 1)), (len(values), 4, 5, 3))
    )
    expected = np.concatenate([multi_hot(space, name, parts[name].labels) for name in space.columns])
    np.testing.assert_array_equal(joined.labels, expected)
    assert joined.labels.dtype == np.int8
    rows = np.array([30, 2, 7, 7])
    drawn = joined.take(rows)
    np.testing.assert_array_equal(drawn.images[:][:, 0, 0, 0], np.array(values)[rows])
    np.testing.assert_array_equal(drawn.labels, expected[rows])
    prints = joined.images.fingerprints()
    assert len(set(prints)) == len(prints)
    assert prints[list(space.columns).index("organsmnist") * 3 + 1] == b"221"


def test_union_of_numbered_classes():
    """As MedMNIST's files have them."""
    named, numbered = (union(sets("octmnist", numbered=numbered), target="octmnist") for numbered in (False, True))
    assert named.class_names == numbered.class_names
    np.testing.assert_array_equal(named.labels, numbered.labels)


def test_union_refuses():
    parts = sets("bloodmnist")
    assert message(union, parts) == "datasets: without bloodmnist. Give every MedMNIST set but the target."
    assert "datasets: bloodmnist with target 'bloodmnist'" in message(union, sets(None), target="bloodmnist")
    assert "datasets: mine with" in message(union, parts | {"mine": parts["octmnist"]}, target="bloodmnist")
    other = sets("bloodmnist", size=(8, 8))["breastmnist"]
    text = message(union, parts | {"breastmnist": other}, target="bloodmnist")
    assert "breastmnist has 8 x 8 pixels (height x width), but chestmnist has 4 x 5" in text
    text = message(union, parts | {"breastmnist": parts["octmnist"]}, target="bloodmnist")
    assert "breastmnist, class_names: 4 classes, choroidal neovascularization, " in text
    assert "Give MedMNIST's 2, in its order" in text


def test_weights_are_one_over_the_size_of_the_first_label():
    labels = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0, -1, 0]])
    expected = np.array([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3, 1]) / 4
    np.testing.assert_allclose(class_balanced_weights(labels), expected)
    classes = np.array([7, 7, 3, 7])  # not all numbers occur
    np.testing.assert_allclose(class_balanced_weights(classes), np.array([1 / 3, 1 / 3, 1, 1 / 3]) / 2)
    assert class_balanced_weights(labels).dtype == np.float64


@pytest.mark.parametrize(
    "labels",
    [np.repeat([0, 1, 4], [90, 9, 1]), np.eye(5, dtype=np.int8)[np.repeat([0, 1, 4], [90, 9, 1])] | [0, 0, 0, 0, 1]],
)
def test_epochs_follow_the_weights(labels):
    weights = class_balanced_weights(labels)
    epochs = class_balanced_epochs(labels, rng=np.random.default_rng(0), num_draws=60_000)
    drawn = next(epochs)
    assert drawn.shape == (60_000,)
    assert drawn.dtype == np.int64
    shares = np.bincount(drawn, minlength=100) / 60_000
    assert (abs(shares - weights) < 5 * np.sqrt(weights / 60_000)).all()
    halves = [np.bincount(half, minlength=100)[:90].sum() for half in np.split(drawn, 2)]
    assert abs(halves[0] - halves[1]) < 600, "classes are mixed"


def test_epochs_go_on_and_are_seeded():
    labels = np.arange(50) % 3

    def three(seed):
        epochs = class_balanced_epochs(labels, rng=np.random.default_rng(seed))
        return [epoch.tolist() for epoch in itertools.islice(epochs, 3)]

    first = three(0)
    assert [len(epoch) for epoch in first] == [50] * 3
    assert first[0] != first[1] != first[2]
    assert three(0) == first != three(1)


def test_sampling_refuses():
    rng = np.random.default_rng(0)
    assert "labels: shape [0] is empty" in message(class_balanced_weights, np.zeros(0, int))
    assert "num_draws: 0 is not positive" in message(class_balanced_epochs, [0, 1], rng=rng, num_draws=0)
    assert "labels: 2 at example 1, column 0" in message(class_balanced_epochs, [[1, 0], [2, 1]], rng=rng)
