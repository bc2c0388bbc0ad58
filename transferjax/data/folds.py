"""Which examples are for training, for validation and for testing: the paper's subsets, and splits of a user's data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from transferjax._validate import fail, positive
from transferjax.data._checks import class_indices, label_sets

_PAPER_SEED = 24
_TRAIN_PER_CLASS, _VAL_PER_CLASS = 100, 25
_TRIES = 20  # orders of the groups; in made-up cases where a class is not everywhere at first, half succeed later
_ROUNDING = 1e-9  # shares such as .7 + .1 + .2 do not add up to 1 exactly


class Fold(NamedTuple):
    """One fold.

    Attributes:
      train: int64 [a], the examples to train on.
      val: int64 [b], the examples to validate on.
    """

    train: np.ndarray
    val: np.ndarray


class Split(NamedTuple):
    """One division of a data set; each example is in exactly one part.

    Attributes:
      train: int64 [a], sorted.
      val: int64 [b], sorted.
      test: int64 [n - a - b], sorted.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def paper_folds(n_train: int, n_val: int, num_classes: int, *, num_folds: int = 5) -> list[Fold]:
    """Draws the paper's subsets of a MedMNIST set, from its training and its validation split.

    As the published code does it, with NumPy's legacy generator seeded with 24 and one stream over all folds: for each
    fold in turn 100·c images of the training split without replacement, then 25·c of the validation split. If that
    has not more than 25·c, all of it is taken in its order, and nothing is drawn, so that the stream is not moved
    (`retinamnist` is such a set). Neither draw looks at the labels. Folds overlap. NumPy's global state is untouched.

    The authors say of their own files that those of `dermamnist` are what this code draws, and those of the other sets
    were drawn from other states of the generator, which are lost. So the published folds are reproduced in their law
    for all sets, and to the image for `dermamnist`.

    Args:
      n_train: how many examples the training split has.
      n_val: how many examples the validation split has.
      num_classes: c; of `chestmnist` its 14 labels.
      num_folds: how many folds; fewer are the first ones of more.

    Returns:
      The folds, in the order of the draws, not sorted: `train` in 0..n_train-1 are places in the training split, `val`
      in 0..n_val-1 are places in the validation split.

    Raises:
      InputError: a number is not positive, or the training split has fewer than 100·c examples.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172, and their code, `src/data_split.py`.
    """
    for argument, value in (("n_val", n_val), ("num_classes", num_classes), ("num_folds", num_folds)):
        positive(argument, value)
    wanted, wanted_val = _TRAIN_PER_CLASS * num_classes, _VAL_PER_CLASS * num_classes
    if n_train < wanted:
        found = f"{n_train} examples, fewer than the {wanted} of a fold ({_TRAIN_PER_CLASS} per class)"
        raise fail("n_train", found, "Use stratified_folds for small data sets.")
    generator = np.random.RandomState(_PAPER_SEED)
    folds = []
    for _ in range(num_folds):
        train = generator.choice(n_train, wanted, replace=False)
        val = generator.choice(n_val, wanted_val, replace=False) if n_val > wanted_val else np.arange(n_val)
        folds.append(Fold(train.astype(np.int64), val.astype(np.int64)))
    return folds


def stratified_folds(
    labels: np.ndarray, *, num_folds: int = 5, groups: np.ndarray | None = None, rng: np.random.Generator
) -> list[Fold]:
    """Divides a data set into folds of nearly equal make-up; each example is in the validation part of exactly one.

    Classes without groups are left to scikit-learn's `StratifiedKFold`. With groups (patients, say) all examples of
    one go to the same fold. They, and the examples of a multi-label target, are handed out by iterative stratification
    after Sechidis et al. (2011): the label with the fewest examples left comes first, and its groups, the largest
    first, go each to the fold that lacks most of what they have. Lacking a label counts as a label there, a missing
    label as neither. Ours: what a fold lacks is taken over all labels and the number of examples (squared, relative to
    the label's number), which balances about twice as well as looking at the one label alone.
    (scikit-learn's `StratifiedGroupKFold` takes no multi-label targets, and more often leaves a fold without a class
    that has enough groups for all.)

    Args:
      labels: class numbers [n] or, of a multi-label target, [n, c] of 0, 1 and -1 for a missing label.
      num_folds: at least 2.
      groups: [n], equal for examples that belong together; numbers or texts.
      rng: where the randomness comes from; equal generator states give equal folds.

    Returns:
      The folds; `train` and `val` are sorted places in 0..n-1, and each class is in every one of them. A label of a
      multi-label target that fewer than `num_folds` examples (or groups) have is not: no metric can use it there.

    Raises:
      InputError: fewer than two folds; a class with fewer examples (or groups) than folds, or one that groups of
        several classes keep out of a fold; fewer groups than folds; a missing group; labels that are none.

    References:
      Sechidis, Tsoumakas, Vlahavas, 2011. On the stratification of multi-label data.
      https://doi.org/10.1007/978-3-642-23808-6_10
    """
    if num_folds < 2:
        raise fail("num_folds", f"{num_folds}", "Give at least 2.")
    labels, units = _checked(labels, groups)
    _enough_units(labels, units, num_folds, "folds", has_groups=groups is not None)
    if labels.ndim == 1 and groups is None:
        splitter = StratifiedKFold(num_folds, shuffle=True, random_state=int(rng.integers(2**32)))
        return [Fold(train, val) for train, val in splitter.split(np.empty(len(labels)), labels)]
    parts = _parts(labels, units, np.full(num_folds, 1 / num_folds), rng)
    return [Fold(np.flatnonzero(parts != k), np.flatnonzero(parts == k)) for k in range(num_folds)]


def train_val_test(
    labels: np.ndarray,
    *,
    val_share: float = 0.1,
    test_share: float = 0.2,
    groups: np.ndarray | None = None,
    rng: np.random.Generator,
) -> Split:
    """Divides a data set that comes without splits into parts of nearly equal make-up, as `stratified_folds` does.

    Args:
      labels: class numbers [n] or, of a multi-label target, [n, c] of 0, 1 and -1 for a missing label.
      val_share: of the examples, 0..1; MedMNIST's own is .1. 0 makes no validation part.
      test_share: likewise; MedMNIST's own is .2.
      groups: [n], equal for examples that belong together, which come into one part; numbers or texts.
      rng: where the randomness comes from; equal generator states give equal splits.

    Returns:
      The parts. Each class is in each part whose share is not 0. Without groups each part has its share of each class
      within two examples, with them as nearly as they allow.

    Raises:
      InputError: shares that are negative or leave nothing for training; a class with fewer examples (or groups) than
        parts, or one that groups of several classes keep out of a part; a missing group; labels that are none.
    """
    shares = np.array([1 - val_share - test_share, val_share, test_share], float)
    if not np.isfinite(shares).all() or (shares[1:] < 0).any() or shares[0] < _ROUNDING:
        found = f"{val_share} and {test_share}"
        raise fail("val_share and test_share", found, "Give shares of at least 0 whose sum is below 1.")
    labels, units = _checked(labels, groups)
    _enough_units(labels, units, int((shares > 0).sum()), "parts", has_groups=groups is not None)
    parts = _parts(labels, units, shares, rng)
    return Split(*(np.flatnonzero(parts == k) for k in range(3)))


def _checked(labels: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels [n] or [n, c], and for each example the number of its group, its own one if there are none."""
    labels = np.asarray(labels)
    labels = label_sets("labels", labels) if labels.ndim == 2 else class_indices("labels", labels)
    if groups is None:
        return labels, np.arange(len(labels))
    groups = np.asarray(groups)
    if groups.shape != (len(labels),):
        raise fail("groups", f"shape {list(groups.shape)}, for {len(labels)} labels", "Give one group per example.")
    units, _ = pd.factorize(groups.astype(object))
    if (units < 0).any():
        found = f"no group at {(units < 0).sum()} of {len(units)} examples (first: {int(np.argmax(units < 0))})"
        raise fail("groups", found, "Give each a group, one of its own if nothing is known.")
    return labels, units


def _members(labels: np.ndarray) -> np.ndarray:
    """Returns what is kept in balance: bool [n, m], each class; or having each label, and lacking it."""
    if labels.ndim == 1:
        return labels[:, None] == np.unique(labels)
    return np.column_stack([labels == 1, labels == 0])


def _enough_units(labels: np.ndarray, units: np.ndarray, wanted: int, parts: str, *, has_groups: bool) -> None:
    """Raises `InputError` if a class, or the whole, has fewer examples or groups than there are parts."""
    what = "groups" if has_groups else "examples"
    if (total := len(np.unique(units))) < wanted:
        raise fail(what, f"{total}, fewer than the {wanted} {parts}", f"Ask for fewer {parts}.")
    if labels.ndim == 2:
        return
    counts = {int(label): len(np.unique(units[labels == label])) for label in np.unique(labels)}
    few = [f"class {label} has {count}" for label, count in counts.items() if count < wanted]
    if few:
        found = f"too few {what} for {wanted} {parts} ({', '.join(few[:10])})"
        raise fail("labels", found, f"Ask for fewer {parts}, or leave these classes out.")


def _parts(labels: np.ndarray, units: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the part of each example, int [n], with every class in every part whose share is not 0: see `_spread`.

    Raises:
      InputError: some part lacks a class each time, since groups have several classes.
    """
    members = _members(labels)
    lacking = 0
    for _ in range(_TRIES):
        parts = _spread(members, units, shares, rng)
        has = np.array([members[parts == k].any(axis=0) for k in np.flatnonzero(shares > 0)])
        if labels.ndim == 2 or has.all():
            return parts
        lacking = np.unique(labels)[int(np.argmin(has.all(axis=0)))]
    found = f"no way found to have class {lacking} in every part without dividing a group"
    raise fail("groups", found, "Ask for fewer parts, or merge or leave out this class.")


def _spread(members: np.ndarray, units: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the part of each example, int [n], so that all parts have their shares of every column and of all.

    Args:
      members: bool [n, m], what is to be balanced; every example is in at least one column.
      units: int [n], 0..u-1, equal for examples that stay together.
      shares: [p], their sum is 1; a part whose share is 0 gets nothing.
      rng: decides between units of one size.
    """
    counts = np.zeros((units.max() + 1, members.shape[1] + 1), np.int64)  # of each unit; last column: its examples
    np.add.at(counts, units, np.column_stack([members, np.ones(len(members), bool)]))
    used = np.flatnonzero(shares > 0)
    shares = shares[used, None]
    lacks = shares * counts.sum(axis=0)  # [p, m + 1]
    weights = 1 / np.maximum(1, counts.sum(axis=0))
    untouched = np.ones(lacks.shape, bool)
    order = rng.permutation(len(counts))
    free = np.ones(len(counts), bool)
    part = np.zeros(len(counts), np.int64)
    while free.any():
        left = counts[free, :-1].sum(axis=0)
        column = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        queue = order[free[order] & (counts[order, column] > 0)]
        queue = queue[np.argsort(-counts[queue, column], kind="stable")]
        for place, unit in enumerate(queue):
            # Half of how much less the squared lacks would be, relative to what there should be, if it came here.
            gains = (lacks - counts[unit] / 2) / shares @ (counts[unit] * weights)
            if len(queue) - place <= untouched[:, column].sum():  # the last ones go where there is none
                gains[~untouched[:, column]] = -np.inf
            k = int(np.argmax(gains))
            part[unit] = k
            lacks[k] -= counts[unit]
            untouched[k] &= counts[unit] == 0
        free[queue] = False
    return used[part][units]
