"""The union of all MedMNIST sets but the target, to pretrain a source on, and class-balanced sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from transferjax._files import sha256
from transferjax._lazy import LazyImages
from transferjax._validate import fail, one_of, positive
from transferjax.data._checks import class_indices, label_sets
from transferjax.data.medmnist_info import INFO
from transferjax.types import TargetDataset

CHEST, PNEUMONIA = "chestmnist", "pneumoniamnist"
ORGANS = ("organamnist", "organcmnist", "organsmnist")
ORDER = (CHEST, PNEUMONIA, *(name for name in INFO if name not in (CHEST, PNEUMONIA)))
"""The order of sets as published, which columns follow: MedMNIST's own, but the two of chest X-rays come first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """The labels of a union of MedMNIST sets.

    Attributes:
      target: the set that is left out, or None.
      names: `"<set>: <label>"`, one per column; `"organmnist: <label>"` of the labels that the organs' sets share.
      columns: set → the column of each of its labels, in the order of sets.
    """

    target: str | None
    names: tuple[str, ...]
    columns: Mapping[str, tuple[int, ...]]

    def __len__(self) -> int:
        """The number of labels k."""
        return len(self.names)


def label_space(target: str | None = None) -> LabelSpace:
    """Returns the labels of all twelve MedMNIST sets but the target, as in the paper's pretraining.

    The columns are `chestmnist`'s 14 labels and "no finding", then the labels of `pathmnist`, `dermamnist`, `octmnist`,
    `retinamnist`, `breastmnist`, `bloodmnist` and `tissuemnist`, then 11 organs which `organamnist`, `organcmnist` and
    `organsmnist` share. `pneumoniamnist` has no columns of its own: its "pneumonia" is that of `chestmnist`, its
    "normal" is "no finding"; but without `chestmnist` it comes first, with its two. All other labels are kept apart,
    "normal" of `octmnist` and "normal, benign" of `breastmnist` too.

    Args:
      target: the set that is left out; None for none.

    Returns:
      The space: 69 labels; 56 without `chestmnist`; 69 too without one whose labels others have (`pneumoniamnist` and
      the organs' sets); else 69 less the target's.

    Raises:
      InputError: there is no such set.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172, and their code, `src/leave-one-out-pretrain.py`.
    """
    if target is not None:
        one_of("target", target, list(INFO))
    names: list[str] = []
    columns: dict[str, tuple[int, ...]] = {}

    def append(prefix: str, labels: tuple[str, ...]) -> tuple[int, ...]:
        first = len(names)
        names.extend(f"{prefix}: {label}" for label in labels)
        return tuple(range(first, len(names)))

    organs: tuple[int, ...] = ()
    for name in ORDER:
        labels = INFO[name].class_names
        if name == target:
            continue
        if name == CHEST:
            columns[name] = append(CHEST, labels)
            append(CHEST, ("no finding",))
        elif name == PNEUMONIA and CHEST in columns:
            same_as = {"normal": f"{CHEST}: no finding", "pneumonia": f"{CHEST}: pneumonia"}
            columns[name] = tuple(names.index(same_as[label]) for label in labels)
        elif name in ORGANS:
            organs = organs or append("organmnist", labels)
            columns[name] = organs
        else:
            columns[name] = append(name, labels)
    return LabelSpace(target=target, names=tuple(names), columns=columns)


def multi_hot(space: LabelSpace, dataset: str, labels: np.ndarray) -> np.ndarray:
    """Returns labels of one set as those of the union.

    Args:
      space: of the union.
      dataset: name of the set.
      labels: class numbers [n] or [n, 1]; of `chestmnist` [n, 14] of 0 and 1.

    Returns:
      int8 [n, k] of 0 and 1, with at least one 1 in each row. `chestmnist`'s images without a label have "no finding".

    Raises:
      InputError: the set is not in the union, or these are not its labels.
    """
    one_of("dataset", dataset, list(space.columns))
    columns = np.array(space.columns[dataset])
    labels = np.asarray(labels)
    argument = f"{dataset}, labels"
    result = np.zeros((len(labels), len(space)), np.int8)
    if dataset == CHEST:
        labels = label_sets(argument, labels)
        if labels.shape[1] != len(columns) or (labels < 0).any():
            found = f"{labels.shape[1]} columns" if labels.shape[1] != len(columns) else "missing labels (-1)"
            raise fail(argument, found, f"{CHEST} has {len(columns)} labels, each 0 or 1.")
        result[:, columns] = labels
        result[:, space.names.index(f"{CHEST}: no finding")] = ~labels.any(axis=1)
        return result
    numbers = class_indices(argument, labels)
    if numbers.max() >= len(columns):
        raise fail(argument, f"{numbers.max()}", f"{dataset} has {len(columns)} classes, 0..{len(columns) - 1}.")
    result[np.arange(len(numbers)), columns[numbers]] = 1
    return result


def union(datasets: Mapping[str, TargetDataset], *, target: str | None = None) -> TargetDataset:
    """Joins all MedMNIST sets but the target.

    Args:
      datasets: name → one split of the set, of all sets but the target; all images of one size. Images may be lazy.
      target: the set that is left out; None for none.

    Returns:
      A multi-label data set of all images, set after set in the order of `label_space`. Nothing is copied or read: its
      images are lazy and come from those given. Labels are int8 [n, k], 0 for all that only other sets have, as
      published.

    Raises:
      InputError: a set is missing or does not belong here, as the target does not; its classes are not MedMNIST's;
        sizes differ.
    """
    space = label_space(target)
    missing = [name for name in space.columns if name not in datasets]
    if missing:
        raise fail("datasets", f"without {', '.join(missing)}", "Give every MedMNIST set but the target.")
    extra = [name for name in datasets if name not in space.columns]
    if extra:
        found = f"{', '.join(extra)} with target {target!r}"
        raise fail("datasets", found, "Give every MedMNIST set but the target, and no other.")
    for name in space.columns:
        _medmnist_classes(name, datasets[name].class_names)
    first, *others = space.columns
    h0, w0 = datasets[first].images.shape[1:3]
    for name in others:
        h, w = datasets[name].images.shape[1:3]
        if (h, w) != (h0, w0):
            found = f"{name} has {h} x {w} pixels (height x width), but {first} has {h0} x {w0}"
            raise fail("datasets", found, "Open all of them with one size.")
    return TargetDataset(
        name="medmnist" if target is None else f"medmnist-without-{target}",
        images=_Joined([datasets[name].images for name in space.columns]),
        labels=np.concatenate([multi_hot(space, name, datasets[name].labels) for name in space.columns]),
        class_names=space.names,
        task="multilabel",
    )


def _medmnist_classes(dataset: str, class_names: tuple[str, ...]) -> None:
    """Raises `InputError` unless classes are MedMNIST's: by their names, or only numbered as in its files."""
    known = INFO[dataset].class_names
    if class_names not in (known, tuple(str(number) for number in range(len(known)))):
        listed = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
        found = f"{len(class_names)} classes, {listed}"
        raise fail(f"{dataset}, class_names", found, f"Give MedMNIST's {len(known)}, in its order.")


class _Joined(LazyImages):
    """Images of several data sets as one. Those of one set that are asked for together are read together.

    From TFDS's files that takes a sixth of the time.
    """

    def __init__(self, parts: list[np.ndarray | LazyImages], rows: np.ndarray | None = None) -> None:
        self._parts = parts
        sizes = np.array([len(part) for part in parts])
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes
        singles = [_singly(part) for part in parts]

        def read(number: int) -> np.ndarray:
            place, row = self._find(number)
            return singles[place][0](int(row))

        def fingerprint(number: int) -> bytes:
            place, row = self._find(number)
            return singles[place][1](int(row))

        height, width = parts[0].shape[1:3]
        rows = np.arange(self._ends[-1]) if rows is None else rows
        super().__init__(read, rows=rows, size=(height, width), fingerprint=fingerprint)

    def take(self, rows: slice | np.ndarray) -> _Joined:
        """Returns the images of these rows, unread."""
        return _Joined(self._parts, self._rows[rows])

    def _find(self, numbers: Any) -> tuple[Any, Any]:
        """Returns of which parts images are, and their rows there."""
        places = np.searchsorted(self._ends, numbers, side="right")
        return places, numbers - self._starts[places]

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        places, rows = self._find(numbers)
        for place in np.unique(places):
            of_part = places == place
            images[of_part] = self._parts[place][rows[of_part]]
        return images


def _singly(part: np.ndarray | LazyImages) -> tuple[Callable[[int], np.ndarray], Callable[[int], bytes]]:
    """Returns how to read the image of a row, and its fingerprint, in the thread that asks.

    `part[rows]` of lazy images starts threads, for each image some 400 microseconds.
    """
    if isinstance(part, LazyImages):
        return part.__getitem__, part.fingerprint
    images = part
    return lambda row: images[row], lambda row: bytes.fromhex(sha256(images[row].tobytes()))


def class_balanced_weights(labels: np.ndarray) -> np.ndarray:
    """Returns with what probability to draw each example so that all classes are drawn equally often.

    As published, an example with several labels counts for the first of them alone; so the others come up more often
    than their share. Examples without any label are one class more.

    Args:
      labels: class numbers [n], or [n, k] of 0, 1 and -1 for a missing label.

    Returns:
      float64 [n], their sum is 1; one over the number of classes that occur times the size of the example's class.

    Raises:
      InputError: there are no examples, or these are no labels.
    """
    classes, sizes = _classes(labels)
    return 1 / (len(sizes) * sizes[classes])


def class_balanced_epochs(
    labels: np.ndarray, *, rng: np.random.Generator, num_draws: int | None = None
) -> Iterator[np.ndarray]:
    """Draws examples by `class_balanced_weights`, with replacement, without end.

    Args:
      labels: class numbers [n], or [n, k] of 0, 1 and -1 for a missing label.
      rng: where the randomness comes from.
      num_draws: how many examples an epoch has; None for n, as published.

    Returns:
      An endless iterator over epochs: int64 [num_draws], places in 0..n-1 in random order.

    Raises:
      InputError: there are no examples, these are no labels, or the number is not positive.
    """
    classes, sizes = _classes(labels)
    num_draws = len(classes) if num_draws is None else positive("num_draws", num_draws)
    members = np.argsort(classes, kind="stable")  # class after class
    starts = np.cumsum(sizes) - sizes

    def epochs() -> Iterator[np.ndarray]:  # of its own, so that bad input is told at the call
        while True:  # a class, then one of it: the same law as the weights, without a search per draw
            drawn = rng.integers(len(sizes), size=num_draws)
            yield members[starts[drawn] + rng.integers(sizes[drawn])]

    return epochs()


def _classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class of each example for sampling, int64 [n] in 0..u-1, and the classes' sizes, int64 [u]."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        has = label_sets("labels", labels) == 1
        first = np.where(has.any(axis=1), has.argmax(axis=1), labels.shape[1])
    else:
        first = class_indices("labels", labels)
    _, classes, sizes = np.unique(first, return_inverse=True, return_counts=True)
    return classes, sizes
