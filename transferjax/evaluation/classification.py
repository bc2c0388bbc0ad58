"""How well a classifier does, as MedMNIST measures it: on the host, and on the device while training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, roc_auc_score

from transferjax._validate import fail, positive
from transferjax.evaluation._device_auc import check_arrays, device_accuracy, device_auc
from transferjax.types import Task

__all__ = ["Scores", "auc", "device_accuracy", "device_auc", "evaluate", "top_k_accuracy"]

_ROUNDING = 1e-3  # a softmax's or a mean's largest value may be a little above 1, more so in half precision


class Scores(NamedTuple):
    """How well a classifier does on one split.

    Attributes:
      auc: 0..1, .5 for guessing; bigger is better.
      accuracy: 0..1, bigger is better.
      skipped: the columns that the AUC leaves out, since the data has not both kinds of examples of them; rising. A
        label that is missing everywhere is left out of the accuracy as well.
    """

    auc: float
    accuracy: float
    skipped: tuple[int, ...]


def evaluate(probabilities: npt.ArrayLike, labels: npt.ArrayLike, task: Task) -> Scores:
    """AUC and accuracy as MedMNIST's Evaluator defines them.

    Args:
      probabilities: float [n, c] in 0..1; for a binary task [n, 1] or [n, 2], of which the last column counts.
      labels: int [n] in 0..c-1, of a binary task 0 and 1; for a multi-label task int [n, c] of 0, 1 and, where missing,
        -1, which is left out.
      task: `"multiclass"`: AUC of one class against the rest, mean over the classes; accuracy of the class of the
        largest probability, the first of equal ones. MedMNIST's ordinal tasks are measured so too. `"binary"`: the
        usual AUC; accuracy with the threshold .5, which itself means no. `"multilabel"`: both as for a binary task,
        mean over the labels.

    Returns:
      The scores. Where MedMNIST's Evaluator fails, since a class or label has not both kinds of examples, it is skipped
      and named in `skipped`.

    Raises:
      InputError: shapes, dtypes or values do not fit; or the AUC is defined for no class or label.

    References:
      Yang et al., 2023. MedMNIST v2. https://doi.org/10.1038/s41597-022-01721-8, and `medmnist/evaluator.py` of the
        package medmnist 3.0.2.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    task = check_arrays(probabilities, labels, task)
    probabilities = _finite(probabilities)
    if probabilities.min() < -_ROUNDING or probabilities.max() > 1 + _ROUNDING:
        found = f"{probabilities.min():.6g}..{probabilities.max():.6g}"
        raise fail("probabilities", found, "They have to be 0..1: apply softmax or sigmoid to logits.")
    if task == "multiclass":
        _check_values(labels, 0, probabilities.shape[1] - 1)
        areas = _one_against_rest(probabilities, labels)
        shares = [float(accuracy_score(labels, probabilities.argmax(axis=1)))]
    else:
        _check_values(labels, -1 if task == "multilabel" else 0, 1)
        if task == "binary":
            probabilities, labels = probabilities[:, -1:], labels[:, None]
        areas, shares = [], []
        for p, y in zip(probabilities.T, labels.T, strict=True):
            known = y >= 0
            areas.append(_area(y[known] == 1, p[known]))
            if known.any():
                shares.append(float(accuracy_score(y[known] == 1, p[known] > 0.5)))
    skipped = tuple(int(column) for column in np.flatnonzero(np.isnan(areas)))
    if len(skipped) == len(areas):
        raise fail("labels", "no class has both examples of it and others", "The AUC needs both: give more data.")
    return Scores(float(np.nanmean(areas)), float(np.mean(shares)), skipped)


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: one class against the rest, mean over the classes; strict where `evaluate` skips.

    Args:
      probabilities: float [n, c]; only their order within a column counts.
      labels: int [n] in 0..c-1.

    Returns:
      0..1, .5 for guessing; bigger is better. For two classes this is the usual binary AUC.

    Raises:
      InputError: shapes, dtypes or values do not fit; or a class is absent, so that its AUC is undefined.

    References:
      Yang et al., 2023. MedMNIST v2. https://doi.org/10.1038/s41597-022-01721-8
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    check_arrays(probabilities, labels, "multiclass")
    _check_values(labels, 0, probabilities.shape[1] - 1)
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    if (counts == 0).any():
        raise fail("labels", f"examples per class: {counts.tolist()}", "The AUC needs examples of every class.")
    return float(np.mean(_one_against_rest(_finite(probabilities), labels)))


def top_k_accuracy(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, k: int = 5) -> float:
    """Share of the examples whose class is among the k of largest probability.

    Of equal probabilities the first class comes first, so that k = 1 gives the accuracy. Scikit-learn's lets the last
    come first.

    Args:
      probabilities: float [n, c]; only their order within an example counts.
      labels: int [n] in 0..c-1.
      k: less than c.

    Returns:
      0..1, k/c for guessing; bigger is better.

    Raises:
      InputError: shapes, dtypes or values do not fit; or k is not less than c, where the answer would always be 1.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    check_arrays(probabilities, labels, "multiclass")
    classes = probabilities.shape[1]
    _check_values(labels, 0, classes - 1)
    if positive("k", k) >= classes:
        raise fail("k", f"{k}", f"It has to be less than the {classes} classes: else all examples are right.")
    probabilities = _finite(probabilities)
    own = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)
    earlier = np.arange(classes) < labels[:, None]
    ahead = (probabilities > own) | ((probabilities == own) & earlier)
    return float(np.mean(ahead.sum(axis=1) < k))


def _one_against_rest(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    return [_area(labels == column, p) for column, p in enumerate(probabilities.T)]


def _area(yes: np.ndarray, scores: np.ndarray) -> float:
    """AUC of one question, NaN if it is undefined."""
    return float(roc_auc_score(yes, scores)) if yes.any() and not yes.all() else float("nan")


def _finite(probabilities: np.ndarray) -> np.ndarray:
    """Returns them in double precision, in which the metrics are computed."""
    if not np.isfinite(probabilities).all():
        row = int(np.argwhere(~np.isfinite(probabilities))[0, 0])
        raise fail("probabilities", f"not finite at example {row}", "Check the weights and the training's loss.")
    return probabilities.astype(np.float64)


def _check_values(labels: np.ndarray, low: int, high: int) -> None:
    if labels.min() < low or labels.max() > high:
        raise fail("labels", f"{labels.min()}..{labels.max()}", f"They have to be {low}..{high}.")
