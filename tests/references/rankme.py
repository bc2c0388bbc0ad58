"""RankMe: the effective rank of the features.

References:
  Garrido, Balestriero, Najman and LeCun (2023), "RankMe: Assessing the Downstream Performance of Pretrained
  Self-Supervised Representations by Their Rank", ICML, https://arxiv.org/abs/2210.02885, equations (1) and (2).
"""

from __future__ import annotations

import math

import numpy as np


def rankme(features: np.ndarray) -> float:
    """Returns exp(-sum_j p_j log p_j), p_j = s_j / sum(s) + 1e-7, of the singular values s of the features [n, d]."""
    singular = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    shares = [float(s) / float(singular.sum()) + 1e-7 for s in singular]
    return math.exp(-sum(p * math.log(p) for p in shares))
