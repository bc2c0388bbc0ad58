"""NCE: negative conditional entropy.

References:
  Tran, Nguyen and Hassner (2019), "Transferability and Hardness of Supervised Classification Tasks", ICCV,
  https://arxiv.org/abs/1908.08142, equation (5).
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np


def nce(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns sum over (y, z) of P(y, z) log(P(y, z) / P(z)), z being the class of the largest logit."""
    named = [int(np.argmax(row)) for row in logits]
    n = len(named)
    pairs, marginal = Counter(zip(map(int, labels), named, strict=True)), Counter(named)
    return sum(count / n * math.log(count / marginal[z]) for (_, z), count in pairs.items())
