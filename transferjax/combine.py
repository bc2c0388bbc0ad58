"""How scores of one target's candidate sources that belong together become one score.

The paper's, of feature quality and gradient ratio; and NCTI, of its three terms.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from transferjax._validate import fail, one_of

METHODS = ("product", "rank", "log")
SCENARIOS = ("source_dataset", "architecture")
INGREDIENTS = ("feature_quality", "gradient_ratio")
NCTI_TERMS = ("ncti_seli", "ncti_ncc", "ncti_vc")


def combine(
    feature_quality: np.ndarray,
    gradient_ratio: np.ndarray,
    *,
    scenario: str = "source_dataset",
    method: str = "product",
    ratio_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Combines the paper's two ingredients, for all s candidate sources of one target at once.

    `"product"` (the paper's): each ingredient is scaled over the candidates to (x-min)/(max-min), and the two are
    multiplied. In the architecture scenario, where networks with less fitting features and less adaptation of the
    second convolution won, each is scaled to (max-x)/(max-min) instead. The worst candidate of either ingredient scores
    0, however good the other is. An ingredient that is equal for all candidates carries no information: its factor is 1
    for all. Scores, and the order of two candidates, depend on which others are in the list.

    `"rank"`: each ingredient's ranks, 1 for the worst to s for the best candidate (in the architecture scenario the
    smallest value is the best), equal values sharing the mean of their ranks; the mean r of the two ranks, scaled to
    (r-1)/(s-1). Only the order of the values counts. A candidate at least as good in both ingredients and better in one
    is always ahead, whoever else is in the list; any other pair's order can depend on the others.

    `"log"`: log feature_quality + log gradient_ratio; in the architecture scenario its negative. A candidate's score,
    and so the order of two candidates, does not depend on the others at all. Not scaled.

    Args:
      feature_quality: float [s], as `metrics.feature_quality` gives it.
      gradient_ratio: float [s], of the same candidates in the same order.
      scenario: what distinguishes the candidates.
      method: one of `METHODS`.
      ratio_range: (min, max) to scale gradient_ratio by instead of the candidates' own, for `"product"` only. The
        published scores need it: there the target itself, as a source, counts in gradient_ratio's range.

    Returns:
      float64 [s], bigger is better. `"product"` and `"rank"`: 0..1; `"log"`: any number.

    Raises:
      InputError: unknown scenario or method, not one dimension, different lengths, fewer than two candidates, values
        that are not finite or, for `"log"`, not positive; `ratio_range` with another method or not around all values.

    References:
      Juodelyte et al., 2024. https://arxiv.org/abs/2412.20172. `"rank"` and `"log"` are additions of this library.
    """
    one_of("scenario", scenario, SCENARIOS)
    one_of("method", method, METHODS)
    quality = _checked("feature_quality", feature_quality)
    ratio = _checked("gradient_ratio", gradient_ratio)
    if len(quality) != len(ratio):
        raise fail("gradient_ratio", f"{len(ratio)} values beside {len(quality)} of feature_quality", "Give as many.")
    if ratio_range is not None:
        _check_range(ratio_range, ratio, method)
    inverted = scenario == "architecture"
    if method == "product":
        return _scaled(quality, inverted) * _scaled(ratio, inverted, ratio_range)
    if method == "rank":
        sign = -1.0 if inverted else 1.0
        mean_rank = (_ranks(sign * quality) + _ranks(sign * ratio)) / 2
        return (mean_rank - 1) / (len(mean_rank) - 1)
    for name, values in zip(INGREDIENTS, (quality, ratio), strict=True):
        if values.min() <= 0:
            place = int(values.argmin())
            raise fail(name, f"{values[place]} at position {place} has no logarithm", "Choose another method.")
    logs = np.log(quality) + np.log(ratio)
    return -logs if inverted else logs


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns 1 for the smallest; equal values share the mean of their ranks. SciPy's takes half a second to import."""
    return pd.Series(values).rank().to_numpy()


def combine_ncti(seli: np.ndarray, ncc: np.ndarray, vc: np.ndarray, *, published: bool = False) -> np.ndarray:
    """The neural-collapse transferability index of all s candidate sources of one target: the sum of its scaled terms.

    Each term is scaled over the candidates to (x-min)/(max-min); one that is equal for all adds nothing. So scores, and
    the order of two candidates, depend on which others are in the list.

    Args:
      seli: float [s], as `metrics.ncti` gives them.
      ncc: likewise.
      vc: likewise.
      published: as the paper's tables were computed, which add log Σ of the nuclear norms, -`vc`, instead of
        subtracting it.

    Returns:
      float64 [s] in 0..3, bigger is better.

    Raises:
      InputError: not one dimension, different lengths, fewer than two candidates, or values that are not finite.

    References:
      Wang, Luo, Zheng, Huang, Baktashmotlagh, 2023. How far pre-trained models are from neural collapse on the target
      dataset informs their transferability. ICCV.
    """
    terms = [_checked(name, values) for name, values in zip(NCTI_TERMS, (seli, ncc, vc), strict=True)]
    lengths = [len(term) for term in terms]
    if len(set(lengths)) > 1:
        raise fail(", ".join(NCTI_TERMS), f"{lengths} values", "Give as many of each.")
    if published:
        terms[2] = -terms[2]
    return np.sum([_scaled(term, False) if term.min() < term.max() else 0 * term for term in terms], axis=0)


def combine_table(
    scores: pd.DataFrame,
    *,
    scenario: str = "source_dataset",
    method: str = "product",
    target_in_ratio_range: bool = False,
) -> pd.DataFrame:
    """Combines the ingredients of every target in a tidy table.

    Args:
      scores: columns `source, target, metric, score`; other metrics than the two ingredients are passed over, and so is
        a target as its own source: it is not a candidate.
      scenario: what distinguishes the candidates.
      method: one of `METHODS`.
      target_in_ratio_range: let the target's own gradient_ratio, where the table has it, into the range by which
        `"product"` scales, as the published scores do. Of their weighted taus only dermamnist's changes: .7019, without
        .6991.

    Returns:
      Columns `source, target, metric, score`, the metric being `"combined"`; bigger is better.

    Raises:
      InputError: a row occurs twice, a candidate lacks an ingredient, or what `combine` raises.
    """
    keys = ["source", "target", "metric"]
    twice = scores[keys][scores.duplicated(keys)]
    if len(twice):
        raise fail("scores", f"{', '.join(twice.iloc[0])} occurs more than once", "Give one row for each.")
    blocks = []
    for target, rows in scores[scores["metric"].isin(INGREDIENTS)].groupby("target", sort=False):
        candidates = rows[rows["source"] != target]
        wide = candidates.pivot(index="source", columns="metric", values="score").reindex(columns=list(INGREDIENTS))
        wide = wide.loc[candidates["source"].unique()]
        lacking = np.argwhere(wide.isna().to_numpy())
        if len(lacking):
            source, metric = wide.index[lacking[0, 0]], wide.columns[lacking[0, 1]]
            raise fail("scores", f"{source} on {target} lacks {metric}", "Compute both ingredients.")
        limits = None
        if target_in_ratio_range and method == "product":
            ratios = rows.loc[rows["metric"] == "gradient_ratio", "score"]
            limits = (float(ratios.min()), float(ratios.max()))
        quality, ratio = (wide[name].to_numpy() for name in INGREDIENTS)
        score = combine(quality, ratio, scenario=scenario, method=method, ratio_range=limits)
        blocks.append(pd.DataFrame({"source": wide.index, "target": target, "metric": "combined", "score": score}))
    if not blocks:
        raise fail("scores", "no row of feature_quality or gradient_ratio", "Compute both ingredients.")
    return pd.concat(blocks, ignore_index=True)


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the values as float64 [s], s >= 2, all finite."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise fail(name, f"shape {values.shape}", "Give one value per candidate.")
    if len(values) < 2:
        raise fail(name, f"{len(values)} candidate(s)", "Scores are combined over at least two candidates.")
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise fail(name, f"{values[place]} at position {place}", "Leave that candidate out.")
    return values


def _check_range(ratio_range: tuple[float, float], ratio: np.ndarray, method: str) -> None:
    """Raises if the range is not one that all ratios lie in, or if nothing would be scaled by it."""
    if method != "product":
        raise fail("ratio_range", f"{ratio_range} with method={method!r}", 'Only "product" scales; leave it out.')
    low, high = ratio_range
    if not (np.isfinite([low, high]).all() and low <= ratio.min() and ratio.max() <= high):
        raise fail("ratio_range", f"{ratio_range}", f"It has to enclose {ratio.min()}..{ratio.max()}.")


def _scaled(values: np.ndarray, inverted: bool, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Returns the values scaled to 0..1; ones if they are all equal."""
    if values.min() == values.max():
        return np.ones_like(values)
    low, high = limits or (values.min(), values.max())
    return ((high - values) if inverted else (values - low)) / (high - low)
