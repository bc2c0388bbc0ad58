"""How well scores agree with fine-tuned performance on one target, measured in the field's several ways."""

from __future__ import annotations

from math import comb

import numpy as np
from scipy import stats

from transferjax._validate import fail
from transferjax.evaluation.rank_correlation import weighted_kendall

MEASURES = (
    "weighted_kendall",
    "kendall",
    "spearman",
    "pearson",
    "weighted_pearson",
    "rel@1",
    "rel@3",
    "regret@1",
    "regret@3",
    "recall@3",
)


def agreement(scores: np.ndarray, performance: np.ndarray) -> dict[str, float]:
    """Returns all `MEASURES` of one target.

    Args:
      scores: float [s], bigger is better.
      performance: float [s], of the same sources; bigger is better.

    Returns:
      Measure → value. Correlations lie in -1..1, bigger is better, NaN where scores or performances are all equal;
      `weighted_kendall` as in the published evaluation, `kendall` is tau-b. `rel@k`, `regret@k` and `recall@k` see
      below; k is cut to s.

    Raises:
      InputError: what `weighted_kendall` raises.
    """
    tau = weighted_kendall(scores, performance)  # also checks both
    scores, performance = np.asarray(scores, np.float64), np.asarray(performance, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        constant = np.ptp(scores) == 0 or np.ptp(performance) == 0
        pearson = np.nan if constant else float(np.corrcoef(scores, performance)[0, 1])
        spearman = np.nan if constant else float(stats.spearmanr(scores, performance).statistic)
    return {
        "weighted_kendall": tau,
        "kendall": float(stats.kendalltau(scores, performance).statistic),
        "spearman": spearman,
        "pearson": pearson,
        "weighted_pearson": weighted_pearson(scores, performance),
        "rel@1": best_of_top(scores, performance, 1) / float(performance.max()),
        "rel@3": best_of_top(scores, performance, 3) / float(performance.max()),
        "regret@1": float(performance.max()) - best_of_top(scores, performance, 1),
        "regret@3": float(performance.max()) - best_of_top(scores, performance, 3),
        "recall@3": top_recall(scores, performance, 3),
    }


def weighted_pearson(scores: np.ndarray, performance: np.ndarray) -> float:
    """Pearson's correlation in which a source weighs 1/(1+r), r its rank by performance, 0 for the best.

    Args:
      scores: float [s].
      performance: float [s]; equal ones share the mean of their ranks.

    Returns:
      -1..1, bigger is better; NaN where scores or performances are all equal.
    """
    if np.ptp(scores) == 0 or np.ptp(performance) == 0:
        return float("nan")
    weights = 1 / stats.rankdata(-np.asarray(performance))
    covariance = np.cov(scores, performance, aweights=weights, ddof=0)
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def best_of_top(scores: np.ndarray, performance: np.ndarray, k: int) -> float:
    """The best performance among the k sources of the highest scores: what fine-tuning just these would give.

    Divided by the best of all it is rel@k (1 is perfect), and short of it by regret@k (0 is perfect). Where equal
    scores straddle the cut, the expectation over a random choice among them: a constant score gains nothing by luck.

    Args:
      scores: float [s], bigger is better.
      performance: float [s], of the same sources.
      k: at least 1; cut to s.
    """
    certain, tied, drawn = _top(scores, k)
    floor = max(performance[certain], default=-np.inf)
    values = np.sort(performance[tied])[::-1]
    m = len(values)
    # the j-th best of the m is the best drawn if it is drawn and the better ones are not
    chances = [comb(m - 1 - j, drawn - 1) / comb(m, drawn) for j in range(m)]
    return float(sum(chance * max(value, floor) for chance, value in zip(chances, values, strict=True)))


def top_recall(scores: np.ndarray, performance: np.ndarray, k: int) -> float:
    """Share of the k best sources that are among the k of the highest scores; 0..1, bigger is better.

    Equal values that straddle a cut count by the chance of a random choice among them.

    Args:
      scores: float [s].
      performance: float [s].
      k: at least 1; cut to s.
    """
    shares = []
    for values in (scores, performance):
        certain, tied, drawn = _top(values, k)
        share = certain.astype(np.float64)
        share[tied] = drawn / tied.sum()
        shares.append(share)
    return float((shares[0] * shares[1]).sum() / min(k, len(shares[0])))


def _top(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns who is above the cut, who is tied at it (both bool [s]), and how many of these belong to the top k."""
    if k < 1:
        raise fail("k", f"{k}", "Take at least 1.")
    values = np.asarray(values, np.float64)
    k = min(k, len(values))
    cut = np.sort(values)[::-1][k - 1]
    certain = values > cut
    return certain, values == cut, k - int(certain.sum())
