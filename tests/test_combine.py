import numpy as np
import pandas as pd
import pytest

from transferjax._validate import InputError
from transferjax.combine import METHODS, SCENARIOS, combine, combine_ncti, combine_table

QUALITY = np.array([0.5, 0.7, 0.9, 0.6])
RATIO = np.array([4.0, 2.0, 3.0, 1.0])


def test_product_by_hand():
    np.testing.assert_allclose(combine(QUALITY, RATIO), [0, 1 / 6, 2 / 3, 0], atol=1e-15)


def test_product_inverts_both_for_architectures():
    # (1 - scaled) of both, which is neither 1 - product nor its negative.
    expected = [0, 0.5 * 2 / 3, 0, 0.75]
    np.testing.assert_allclose(combine(QUALITY, RATIO, scenario="architecture"), expected, atol=1e-15)


def test_rank_by_hand():
    np.testing.assert_allclose(combine(QUALITY, RATIO, method="rank"), [1.5 / 3, 1.5 / 3, 2.5 / 3, 0.5 / 3], atol=1e-15)
    turned = combine(QUALITY, RATIO, method="rank", scenario="architecture")
    np.testing.assert_allclose(turned, [1.5 / 3, 1.5 / 3, 0.5 / 3, 2.5 / 3], atol=1e-15)


def test_rank_shares_ties_and_spans_0_to_1():
    np.testing.assert_allclose(combine([1, 1, 3], [1, 2, 4], method="rank"), [0.125, 0.375, 1], atol=1e-15)
    np.testing.assert_allclose(combine([1, 2], [5, 6], method="rank"), [0, 1], atol=1e-15)


def test_log_by_hand():
    expected = [np.log(2.0), np.log(1.4), np.log(2.7), np.log(0.6)]
    np.testing.assert_allclose(combine(QUALITY, RATIO, method="log"), expected, atol=1e-15)
    turned = combine(QUALITY, RATIO, method="log", scenario="architecture")
    np.testing.assert_allclose(turned, [-value for value in expected], atol=1e-15)


def random_ingredients(seed, s=9):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.3, 1, s), rng.lognormal(size=s)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("method", METHODS)
def test_better_in_both_is_ahead_and_the_order_given_does_not_matter(method, scenario):
    sign = -1 if scenario == "architecture" else 1
    for seed in range(20):
        quality, ratio = random_ingredients(seed)
        score = combine(quality, ratio, scenario=scenario, method=method)
        assert score.dtype == np.float64
        order = np.random.default_rng(seed).permutation(len(score))
        np.testing.assert_allclose(
            combine(quality[order], ratio[order], scenario=scenario, method=method), score[order]
        )
        for i in range(len(score)):
            for j in range(len(score)):
                if sign * quality[i] > sign * quality[j] and sign * ratio[i] > sign * ratio[j]:
                    assert score[i] > score[j] or (method == "product" and score[i] == score[j] == 0)
        if method != "log":
            assert score.min() >= 0
            assert score.max() <= 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_log_does_not_depend_on_the_other_candidates(scenario):
    quality, ratio = random_ingredients(1)
    whole = combine(quality, ratio, scenario=scenario, method="log")
    np.testing.assert_array_equal(combine(quality[2:5], ratio[2:5], scenario=scenario, method="log"), whole[2:5])


@pytest.mark.parametrize("method", ["product", "rank"])
def test_product_and_rank_do_depend_on_the_other_candidates(method):
    quality, ratio = np.array([0.6, 0.5, 0.4, 0.55]), np.array([1.0, 1.4, 0.2, 0.0])
    score = combine(quality, ratio, method=method)
    assert score[0] > score[1]
    quality[3], ratio[3] = 0.2, 1.2  # another last candidate turns the order of the first two
    score = combine(quality, ratio, method=method)
    assert score[0] < score[1]


def test_rank_sees_only_the_order_of_each_ingredient():
    quality, ratio = random_ingredients(2)
    np.testing.assert_array_equal(
        combine(quality**5, np.log(ratio), method="rank"), combine(quality, ratio, method="rank")
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_constant_ingredient_leaves_the_order_to_the_other(scenario):
    constant = np.full(4, 0.7)
    scaled = np.array([1, 1 / 3, 2 / 3, 0]) if scenario == "source_dataset" else np.array([0, 2 / 3, 1 / 3, 1])
    np.testing.assert_allclose(combine(constant, RATIO, scenario=scenario), scaled, atol=1e-15)
    np.testing.assert_allclose(combine(RATIO, constant, scenario=scenario), scaled, atol=1e-15)
    np.testing.assert_allclose(combine(RATIO, constant, scenario=scenario, ratio_range=(0.7, 2.0)), scaled, atol=1e-15)
    for method in METHODS:
        ordered = np.argsort(combine(constant, RATIO, scenario=scenario, method=method))
        np.testing.assert_array_equal(ordered, np.argsort(scaled))
        both = combine(constant, constant, scenario=scenario, method=method)
        assert np.isfinite(both).all()
        assert len(set(both)) == 1
    np.testing.assert_array_equal(combine(constant, constant, scenario=scenario), np.ones(4))


def test_ratio_range_replaces_the_candidates_own():
    np.testing.assert_allclose(combine(QUALITY, RATIO, ratio_range=(0.0, 5.0)), [0, 0.5 * 0.4, 0.6, 0.05], atol=1e-15)
    turned = combine(QUALITY, RATIO, scenario="architecture", ratio_range=(0.0, 5.0))
    np.testing.assert_allclose(turned, [0.2, 0.5 * 0.6, 0, 0.75 * 0.8], atol=1e-15)
    np.testing.assert_array_equal(combine(QUALITY, RATIO, ratio_range=(1.0, 4.0)), combine(QUALITY, RATIO))


def test_integers_and_lists_will_do_and_nothing_is_changed_in_place():
    quality, ratio = QUALITY.copy(), RATIO.copy()
    for method in METHODS:
        combine(quality, ratio, method=method)
        assert np.isfinite(combine([1, 2, 3], [3, 2, 5], method=method)).all()
    np.testing.assert_array_equal(quality, QUALITY)
    np.testing.assert_array_equal(ratio, RATIO)


@pytest.mark.parametrize(
    ("quality", "ratio", "options", "words"),
    [
        ([1, 2], [1, 2], {"scenario": "data"}, "scenario: 'data' is unknown"),
        ([1, 2], [1, 2], {"method": "mean"}, "method: 'mean' is unknown"),
        ([1], [2], {}, "feature_quality: 1 candidate"),
        ([], [], {}, "feature_quality: 0 candidate"),
        ([1, 2], [[1, 2]], {}, "gradient_ratio: shape (1, 2)"),
        (0.5, [1, 2], {}, "feature_quality: shape ()"),
        ([1, 2, 3], [1, 2], {}, "gradient_ratio: 2 values beside 3"),
        ([1, np.nan], [1, 2], {}, "feature_quality: nan at position 1"),
        ([1, 2], [-np.inf, 2], {"method": "rank"}, "gradient_ratio: -inf at position 0"),
        ([1, 0], [1, 2], {"method": "log"}, "feature_quality: 0.0 at position 1"),
        ([1, 2], [-1, 2], {"method": "log"}, "gradient_ratio: -1.0 at position 0"),
        ([1, 2], [1, 2], {"ratio_range": (0, 3), "method": "log"}, "ratio_range: (0, 3) with method='log'"),
        ([1, 2], [1, 2], {"ratio_range": (1.5, 3)}, "ratio_range: (1.5, 3)"),
        ([1, 2], [1, 2], {"ratio_range": (0, np.inf)}, "ratio_range: (0, inf)"),
    ],
)
def test_bad_input(quality, ratio, options, words):
    with pytest.raises(InputError) as caught:
        combine(quality, ratio, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def tidy(**targets):
    """Target → {source: (feature_quality or None, gradient_ratio or None)}, as tidy rows, ratios in reverse order."""
    rows = []
    for target, sources in targets.items():
        rows += [(source, target, "feature_quality", pair[0]) for source, pair in sources.items()]
        rows += [(source, target, "gradient_ratio", pair[1]) for source, pair in reversed(sources.items())]
        rows += [(source, target, "leep", -7.0) for source in sources]
    rows = [row for row in rows if row[3] is not None]
    return pd.DataFrame(rows, columns=["source", "target", "metric", "score"])


LUNGS = {"skin": (0.5, 4.0), "cells": (0.7, 2.0), "lungs": (None, 5.0), "bones": (0.9, 3.0), "eyes": (0.6, 1.0)}
HEARTS = {"cells": (0.1, 8.0), "skin": (0.2, 9.0)}


def test_table_combines_every_target_by_itself():
    table = combine_table(tidy(lungs=LUNGS, hearts=HEARTS))
    assert list(table) == ["source", "target", "metric", "score"]
    assert table["source"].tolist() == ["skin", "cells", "bones", "eyes", "cells", "skin"]
    assert table["target"].tolist() == ["lungs"] * 4 + ["hearts"] * 2
    assert set(table["metric"]) == {"combined"}
    np.testing.assert_allclose(table["score"], [0, 1 / 6, 2 / 3, 0, 0, 1], atol=1e-15)


def test_table_can_let_the_target_into_the_ratios_range():
    table = combine_table(tidy(lungs=LUNGS, hearts=HEARTS), target_in_ratio_range=True)
    np.testing.assert_allclose(table["score"], [0, 0.5 / 4, 2 / 4, 0, 0, 1], atol=1e-15)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("method", METHODS)
def test_table_passes_scenario_and_method_on(method, scenario):
    options = {"scenario": scenario, "method": method}
    table = combine_table(tidy(lungs=LUNGS), **options, target_in_ratio_range=method != "product")
    np.testing.assert_array_equal(table["score"], combine(QUALITY, RATIO, **options))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (tidy(lungs={**LUNGS, "cells": (0.7, None)}), "scores: cells on lungs lacks gradient_ratio"),
        (tidy(lungs={**LUNGS, "eyes": (None, 1.0)}), "scores: eyes on lungs lacks feature_quality"),
        (tidy(lungs={"skin": (0.5, 4.0), "lungs": (0.9, 1.0)}), "feature_quality: 1 candidate"),
        (tidy(lungs={"skin": (None, None)}), "scores: no row of feature_quality or gradient_ratio"),
        (
            pd.concat([tidy(lungs=LUNGS), tidy(lungs=LUNGS)]),
            "scores: skin, lungs, feature_quality occurs more than once",
        ),
    ],
)
def test_table_of_bad_input(rows, words):
    with pytest.raises(InputError) as caught:
        combine_table(rows)
    assert words in str(caught.value)


def test_ncti_by_hand():
    seli, ncc, vc = [1.0, 3.0, 2.0], [0.5, 0.5, 0.5], [-4.0, -2.0, -3.0]
    np.testing.assert_allclose(combine_ncti(seli, ncc, vc), [0, 2, 1])
    np.testing.assert_allclose(combine_ncti(seli, ncc, vc, published=True), [1, 1, 1])


def test_ncti_refuses_what_it_cannot_scale():
    with pytest.raises(InputError, match="ncti_ncc: nan at position 1"):
        combine_ncti([1, 2], [1, np.nan], [1, 2])
    with pytest.raises(InputError, match=r"\[2, 2, 3\] values"):
        combine_ncti([1, 2], [1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="at least two candidates"):
        combine_ncti([1], [1], [1])
