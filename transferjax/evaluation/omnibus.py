"""Do several methods differ at all, over many targets?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from transferjax._validate import fail


class FriedmanTest(NamedTuple):
    """What Friedman's test gives.

    Attributes:
      statistic: chi-square distributed with m-1 degrees of freedom if the methods do not differ; bigger speaks against
        that.
      pvalue: 0..1; small speaks against that.
      mean_ranks: float64 [m], mean over the targets of each method's rank among the methods, 1..m, 1 is the best.
    """

    statistic: float
    pvalue: float
    mean_ranks: np.ndarray


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Mean over the targets of each method's rank among the methods.

    Args:
      values: float [t, m], how well each method did on each target, bigger is better; NaN (undefined) ranks behind
        everything else. Equal values share the mean of their ranks.

    Returns:
      float64 [m], 1..m, 1 is the best.

    Raises:
      InputError: not two dimensions, no target, or infinite values.
    """
    return stats.rankdata(-_undefined_is_worst(values), axis=1).mean(axis=0)


def friedman(values: np.ndarray) -> FriedmanTest:
    """Friedman's test that all methods rank alike over the targets.

    A method that is undefined on a target (a constant score orders nothing) ranks last there, as the published
    statistic has it. That matters: it is what the source-dataset scenario's p of .002 rests on; without the two targets
    where sfda is undefined p is .04. Leave the targets' rows out to see the other value.

    Args:
      values: float [t, m], how well each of m methods did on each of t targets (say, weighted tau), bigger is better;
        NaN where undefined.

    Returns:
      Statistic (SciPy's, corrected for ties), p value and mean ranks. Statistic and p value are NaN if all methods tie
      on every target.

    Raises:
      InputError: not two dimensions, fewer than three methods or two targets, or infinite values.

    References:
      Friedman, 1937. https://doi.org/10.1080/01621459.1937.10503522
      Demšar, 2006. Statistical comparisons of classifiers over multiple data sets. JMLR 7.
    """
    ranks = mean_ranks(values)
    filled = _undefined_is_worst(values)
    if filled.shape[1] < 3 or len(filled) < 2:
        raise fail(
            "values", f"{len(filled)} target(s), {filled.shape[1]} method(s)", "Friedman's test needs two and three."
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        result = stats.friedmanchisquare(*filled.T)
    return FriedmanTest(float(result.statistic), float(result.pvalue), ranks)


def nemenyi(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Nemenyi's test after Friedman's: which methods differ from which?

    Args:
      values: float [t, m], as `friedman` takes them.

    Returns:
      p values [m, m] (1 on the diagonal), and the critical difference of mean ranks at the level .05: methods whose
      mean ranks lie closer cannot be told apart.

    Raises:
      InputError: what `friedman` raises.

    References:
      Nemenyi, 1963; Demšar, 2006. Statistical comparisons of classifiers over multiple data sets. JMLR 7.
    """
    ranks = friedman(values).mean_ranks
    t, m = np.shape(values)
    error = np.sqrt(m * (m + 1) / (12 * t))  # of a mean rank's difference, over √2: the studentized range's scale
    differences = np.abs(ranks[:, None] - ranks)
    pvalues = stats.studentized_range.sf(differences / error, m, np.inf)
    np.fill_diagonal(pvalues, 1.0)
    return pvalues, float(stats.studentized_range.ppf(0.95, m, np.inf) * error)


def _undefined_is_worst(values: np.ndarray) -> np.ndarray:
    """Returns the values with NaN replaced by something below all of them."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not len(values):
        raise fail("values", f"shape {values.shape}", "Give [targets, methods].")
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise fail("values", f"infinite for target {row}, method {column}", "Give numbers, or NaN where undefined.")
    return np.where(np.isnan(values), -np.inf, values)
