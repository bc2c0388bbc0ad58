"""What the peers of the metrics are given, and what several of them need."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    """A pair as host arrays: features float32 [n, d], labels int [n] in 0..c-1, logits float32 [n, k], and c."""

    features: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    num_classes: int


def class_means(x: np.ndarray, data: Data) -> np.ndarray:
    """Returns the means of the classes, [c, d]."""
    return np.stack([x[data.labels == c].mean(axis=0) for c in range(data.num_classes)])


def one_hot(data: Data) -> np.ndarray:
    """Returns float32 [n, c] of 0 and 1."""
    return np.eye(data.num_classes, dtype=np.float32)[data.labels]


def of_true_class(shares: np.ndarray, data: Data) -> float:
    """Returns the mean of what each example's row has for its class."""
    return float(np.mean(shares[np.arange(len(shares)), data.labels], dtype=np.float64))
