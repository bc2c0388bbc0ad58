from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from transferjax import InputError
from transferjax.evaluation.classification import auc


def test_is_the_mean_of_one_against_the_rest():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    probabilities = rng.dirichlet(np.ones(3), 60)
    assert auc(probabilities, labels) == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))


def test_two_classes():
    rng = np.random.default_rng(0)
    labels, second = rng.integers(0, 2, 40), rng.uniform(size=40)
    assert auc(np.stack([1 - second, second], axis=1), labels) == pytest.approx(roc_auc_score(labels, second))


def test_undefined():
    with pytest.raises(InputError, match=r"\[4, 0\]"):
        auc(np.full((4, 2), 0.5), np.zeros(4, int))
