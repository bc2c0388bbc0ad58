"""How well a classifier does, as MedMNIST measures it."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from transferjax._validate import fail


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: one class against the rest, mean over the classes.

    Args:
      probabilities: float [n, c].
      labels: int [n] in 0..c-1.

    Returns:
      0..1, .5 for guessing; bigger is better. For two classes this is the usual binary AUC.

    Raises:
      InputError: a class is absent or the only one, so that its AUC is undefined.

    References:
      Yang et al., 2023. MedMNIST v2. https://doi.org/10.1038/s41597-022-01721-8
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    if (counts == 0).any() or len(counts) < 2:
        raise fail("labels", f"examples per class: {counts.tolist()}", "The AUC needs examples of every class.")
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(len(counts))]))
