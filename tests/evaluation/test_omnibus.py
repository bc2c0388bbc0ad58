import numpy as np
import pytest
from scipy import stats

from transferjax._validate import InputError
from transferjax.evaluation.omnibus import friedman, mean_ranks


def plain_friedman(values):
    """Friedman's statistic from its definition, for values without ties: 12/(t m (m+1)) sum of R^2 - 3 t (m+1)."""
    t, m = len(values), len(values[0])
    sums = [0] * m
    for row in values:
        for j in range(m):
            sums[j] += 1 + sum(other < row[j] for other in row)
    return 12 / (t * m * (m + 1)) * sum(s * s for s in sums) - 3 * t * (m + 1)


@pytest.mark.parametrize("shape", [(2, 3), (11, 7), (4, 12)])
def test_equals_the_definition(shape):
    values = np.random.default_rng(shape).normal(size=shape)
    test = friedman(values)
    assert test.statistic == pytest.approx(plain_friedman(values), rel=1e-10)
    assert test.pvalue == pytest.approx(stats.chi2.sf(test.statistic, shape[1] - 1), rel=1e-12)


def test_mean_ranks_count_from_the_best_and_share_ties():
    np.testing.assert_array_equal(mean_ranks([[0.9, 0.1, 0.5], [0.4, 0.4, 0.2]]), [1.25, 2.25, 2.5])
    np.testing.assert_array_equal(friedman([[0.9, 0.1, 0.5], [0.4, 0.4, 0.2]]).mean_ranks, [1.25, 2.25, 2.5])


def test_undefined_ranks_last():
    with_nan = np.array([[0.9, np.nan, -0.99], [0.4, 0.6, 0.2], [np.nan, 0.1, np.nan]])
    filled = np.array([[0.9, -5, -0.99], [0.4, 0.6, 0.2], [-5, 0.1, -5]])
    np.testing.assert_array_equal(mean_ranks(with_nan), [(1 + 2 + 2.5) / 3, (3 + 1 + 1) / 3, (2 + 3 + 2.5) / 3])
    a, b = friedman(with_nan), friedman(filled)
    assert (a.statistic, a.pvalue) == (b.statistic, b.pvalue)
    assert np.isfinite(a.statistic)
    assert np.isnan(with_nan[0, 1])  # the input is not changed in place


@pytest.mark.filterwarnings("error")
def test_nothing_but_ties_is_nan():
    test = friedman(np.ones((4, 3)))
    assert np.isnan([test.statistic, test.pvalue]).all()
    np.testing.assert_array_equal(test.mean_ranks, [2, 2, 2])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(3), "values: shape (3,)"),
        (np.zeros((0, 3)), "values: shape (0, 3)"),
        (np.zeros((1, 3)), "1 target(s), 3 method(s)"),
        (np.zeros((3, 2)), "3 target(s), 2 method(s)"),
        (np.array([[1, 2, 3], [1, 2, np.inf]]), "infinite for target 1, method 2"),
    ],
)
def test_bad_input(values, words):
    with pytest.raises(InputError) as caught:
        friedman(values)
    assert words in str(caught.value)
