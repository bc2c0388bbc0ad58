import numpy as np
import pandas as pd
import pytest

from tests.references.weighted_tau import weighted_tau
from transferjax._validate import InputError
from transferjax.evaluation.rank_correlation import tau_table, weighted_kendall


@pytest.mark.parametrize("levels", [2, 3, 5, 1000])
@pytest.mark.parametrize("n", [2, 3, 9, 14])
def test_equals_the_definition(n, levels):
    rng = np.random.default_rng([n, levels])
    compared = 0
    for _ in range(20):
        scores, performance = rng.integers(0, levels, (2, n)) / 7
        expected = weighted_tau(scores, performance)
        np.testing.assert_allclose(weighted_kendall(scores, performance), expected, rtol=0, atol=1e-12)
        compared += not np.isnan(expected)
    assert compared


def test_a_value_worked_out_by_hand():
    # Swapped last two of three. Pairs' weights by rank 0, 1, 2: 3/2, 4/3, 5/6; (3/2 + 4/3 - 5/6) / (11/3), both ways.
    assert weighted_kendall([3, 2, 1], [3, 1, 2]) == pytest.approx((3 / 2 + 4 / 3 - 5 / 6) / (11 / 3), abs=1e-15)


def test_range_and_direction():
    performance = np.array([0.7, 0.9, 0.8, 0.6])
    assert weighted_kendall(performance**3, performance) == pytest.approx(1, abs=1e-15)
    assert weighted_kendall(-performance, performance) == pytest.approx(-1, abs=1e-15)
    best_swapped, worst_swapped = [4.0, 3, 2, 1], [4.0, 3, 2, 1]
    best_swapped[:2] = 3, 4
    worst_swapped[2:] = 1, 2
    assert weighted_kendall(best_swapped, [4, 3, 2, 1]) < weighted_kendall(worst_swapped, [4, 3, 2, 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("scores", "performance"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1, 1], [1, 1])])
def test_undefined_is_nan(scores, performance):
    assert np.isnan(weighted_kendall(scores, performance))


@pytest.mark.parametrize(
    ("scores", "performance", "words"),
    [
        ([1, 2], [1, 2, 3], "performance: shape (3,)"),
        ([[1, 2]], [[1, 2]], "performance: shape (1, 2)"),
        ([1], [1], "scores: 1 source"),
        ([1, np.nan, 2], [1, 2, 3], "scores: nan at position 1"),
        ([1, 2, 3], [1, 2, np.inf], "performance: inf at position 2"),
    ],
)
def test_bad_input(scores, performance, words):
    with pytest.raises(InputError) as caught:
        weighted_kendall(scores, performance)
    assert words in str(caught.value)


SOURCES = ["c", "a", "b", "lungs"]
SCORES = pd.DataFrame(
    [
        (source, target, metric, score)
        for target, metric, values in [
            ("lungs", "up", (1.0, 2.0, 3.0, 9.0)),
            ("lungs", "down", (1.0, 2.0, 3.0, 9.0)),
            ("hearts", "up", (4.0, 4.0, 4.0, 4.0)),
            ("skin", "up", (1.0, 2.0, 3.0, 4.0)),
        ]
        for source, score in zip(SOURCES, values, strict=True)
    ],
    columns=["source", "target", "metric", "score"],
)
PERFORMANCE = pd.DataFrame(
    [("a", "lungs", 0.8), ("b", "lungs", 0.7), ("c", "lungs", 0.9), ("lungs", "lungs", 0.95)]
    + [(source, "hearts", value) for source, value in zip(SOURCES, (0.1, 0.2, 0.3, 0.4), strict=True)],
    columns=["source", "target", "auc"],
)


def test_table_pairs_by_name_inverts_and_leaves_out_the_target_itself():
    table = tau_table(SCORES, PERFORMANCE, inverted=("down",))
    assert table[["target", "metric", "inverted"]].to_numpy().tolist() == [
        ["lungs", "up", False],
        ["lungs", "down", True],
        ["hearts", "up", False],
    ]
    np.testing.assert_allclose(table["weighted_tau"], [-1, 1, np.nan], atol=1e-15)


def test_an_inverted_metric_is_ranked_again_and_not_only_negated():
    scores, auc = [5, 3, 4, 1.0], [0.6, 0.9, 0.7, 0.8]
    rows = pd.DataFrame({"source": SOURCES, "target": "skin", "metric": "m", "score": scores})
    table = tau_table(rows, rows[["source", "target"]].assign(auc=auc), inverted=["m"])
    assert table["weighted_tau"][0] == pytest.approx(weighted_tau([-s for s in scores], auc), abs=1e-15)
    assert abs(table["weighted_tau"][0] + weighted_tau(scores, auc)) > 0.01


@pytest.mark.parametrize(
    ("scores", "performance", "words"),
    [
        (pd.concat([SCORES, SCORES.iloc[:1]]), PERFORMANCE, "scores: c, lungs, up occurs more than once"),
        (SCORES, pd.concat([PERFORMANCE, PERFORMANCE.iloc[1:2]]), "performance: b, lungs occurs more than once"),
    ],
)
def test_a_row_that_occurs_twice(scores, performance, words):
    with pytest.raises(InputError) as caught:
        tau_table(scores, performance)
    assert words in str(caught.value)


@pytest.mark.parametrize("columns", [["source", "target"], ["source", "target", "auc", "accuracy"]])
def test_a_performance_table_has_one_value(columns):
    scores = pd.DataFrame({"source": ["a", "b"], "target": "t", "metric": "m", "score": [1.0, 2.0]})
    performance = pd.DataFrame([dict.fromkeys(columns, "x")])
    with pytest.raises(InputError, match="Give source, target and one more"):
        tau_table(scores, performance)
