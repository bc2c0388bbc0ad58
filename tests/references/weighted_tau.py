"""Weighted Kendall's tau.

References:
  Vigna (2015), "A Weighted Correlation Index for Rankings with Ties", WWW, https://arxiv.org/abs/1404.3325: the
  weighted product <r, s> = sum over pairs i < j of sgn(r_i - r_j) sgn(s_i - s_j) w(i, j), the correlation
  <r, s> / sqrt(<r, r> <s, s>), the additive hyperbolic weight 1/(rank(i)+1) + 1/(rank(j)+1), and, as no ranking of
  the elements is given, the mean of two correlations: ranked by r (ties by s) and ranked by s (ties by r), the best
  element having rank 0.
"""

from __future__ import annotations

import math


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _correlation(r: list[float], s: list[float], rank: list[int]) -> float:
    rs = rr = ss = 0.0
    for i in range(len(r)):
        for j in range(i + 1, len(r)):
            weight = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
            a, b = _sign(r[i] - r[j]), _sign(s[i] - s[j])
            rs += a * b * weight
            rr += a * a * weight
            ss += b * b * weight
    return rs / math.sqrt(rr * ss) if rr * ss > 0 else math.nan


def _ranks(first: list[float], second: list[float]) -> list[int]:
    """Returns each element's place, 0 for the biggest by `first`, ties by `second`."""
    order = sorted(range(len(first)), key=lambda i: (first[i], second[i]), reverse=True)
    ranks = [0] * len(first)
    for place, i in enumerate(order):
        ranks[i] = place
    return ranks


def weighted_tau(r, s) -> float:
    """Returns the correlation of two sequences of numbers, NaN if one of them is constant."""
    r, s = [float(v) for v in r], [float(v) for v in s]
    return (_correlation(r, s, _ranks(r, s)) + _correlation(r, s, _ranks(s, r))) / 2
