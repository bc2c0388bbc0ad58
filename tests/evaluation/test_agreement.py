from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from transferjax import InputError, combine, published
from transferjax.evaluation import agreement, ceiling, omnibus, rank_correlation, resampling, static

BIG = ("imagenet", "radimagenet", "medmnist")


@pytest.fixture(scope="module")
def study():
    return published.load("source_dataset")


@pytest.fixture(scope="module")
def combined(study):
    return combine.combine_table(study.scores, target_in_ratio_range=True)


def mean_tau(scores, truth):
    return rank_correlation.tau_table(scores, truth)["weighted_tau"].mean()


def test_measures_are_the_libraries():
    rng = np.random.default_rng(0)
    scores, truth = rng.standard_normal(9), rng.uniform(0.5, 1, 9)
    values = agreement.agreement(scores, truth)
    assert tuple(values) == agreement.MEASURES
    assert values["kendall"] == pytest.approx(stats.kendalltau(scores, truth).statistic)
    assert values["spearman"] == pytest.approx(stats.spearmanr(scores, truth).statistic)
    assert values["pearson"] == pytest.approx(stats.pearsonr(scores, truth).statistic)
    weights = 1 / stats.rankdata(-truth)
    a, b = scores - np.average(scores, weights=weights), truth - np.average(truth, weights=weights)
    expected = (weights * a * b).sum() / np.sqrt((weights * a**2).sum() * (weights * b**2).sum())
    assert values["weighted_pearson"] == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_ties_are_the_mean_over_all_orders(k):
    scores = np.array([3.0, 1, 1, 2, 1, 2])
    truth = np.array([0.6, 0.9, 0.7, 0.8, 0.5, 0.75])
    best, recall = [], []
    top = set(np.argsort(-truth)[:k])
    for order in itertools.permutations(range(6)):
        if list(scores[list(order)]) == sorted(scores, reverse=True):
            best.append(truth[list(order[:k])].max())
            recall.append(len(top & set(order[:k])) / min(k, 6))
    assert agreement.best_of_top(scores, truth, k) == pytest.approx(np.mean(best))
    assert agreement.top_recall(scores, truth, k) == pytest.approx(np.mean(recall))


def test_a_constant_score_gains_nothing():
    truth = np.array([0.9, 0.5, 0.7])
    values = agreement.agreement(np.ones(3), truth)
    assert values["regret@1"] == pytest.approx(0.9 - truth.mean())
    assert values["recall@3"] == 1
    assert all(np.isnan(values[name]) for name in ("weighted_kendall", "kendall", "spearman", "pearson"))
    with pytest.raises(InputError, match="k: 0"):
        agreement.best_of_top(truth, truth, 0)


def test_published_controls(study, combined):
    elsewhere = static.mean_rank_elsewhere(study.test_auc)
    elsewhere = elsewhere[elsewhere["target"].isin(combined["target"])]
    big = combined.assign(score=combined["source"].isin(BIG).astype(float))
    assert round(mean_tau(combined, study.test_auc), 3) == 0.523
    assert round(mean_tau(big, study.test_auc), 3) == 0.523
    assert round(mean_tau(elsewhere, study.test_auc), 3) == 0.561
    assert round(mean_tau(combined[~combined["source"].isin(BIG)], study.test_auc), 3) == 0.251
    assert round(mean_tau(elsewhere[~elsewhere["source"].isin(BIG)], study.test_auc), 3) == 0.407


def test_published_noise_ceiling():
    runs = published.finetuning_runs()
    table = ceiling.noise_ceiling(runs[runs["scenario"] == "source_dataset"]).set_index("target")["ceiling"]
    expected = {"organamnist": 0.31, "organsmnist": 0.33, "breastmnist": 0.45, "pathmnist": 1.0}
    assert {name: round(table[name], 2) for name in expected} == expected


def test_published_nemenyi(study, combined):
    taus = rank_correlation.tau_table(pd.concat([combined, study.scores]), study.test_auc)
    wide = taus.pivot(index="target", columns="metric", values="weighted_tau")[list(published.COMPARED)]
    pvalues, critical = omnibus.nemenyi(wide.to_numpy())
    place = published.COMPARED.index
    assert round(pvalues[place("combined"), place("sfda")], 4) == 0.0004
    np.testing.assert_array_equal(pvalues, pvalues.T)
    # Demšar's table: q = 2.949 for seven methods
    assert critical == pytest.approx(2.949 * np.sqrt(7 * 8 / (6 * 11)), abs=2e-3)


def test_intervals(study, combined):
    noise = combined.assign(metric="noise", score=np.random.default_rng(0).standard_normal(len(combined)))
    constant = combined.assign(metric="constant", score=1.0)
    scores = pd.concat([combined, noise, constant], ignore_index=True)
    tables = [
        resampling.mean_tau_intervals(scores, study.test_auc, np.random.default_rng(1), num_resamples=40)
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*tables)
    table = tables[0].set_index("metric")
    assert table.loc["combined", "mean"] == pytest.approx(mean_tau(combined, study.test_auc))
    assert (table["lower"] < table["mean"]).tolist() == [True, True, False]
    assert table.loc["combined", "lower"] > table.loc["noise", "mean"]
    assert table.loc["noise", "lower"] < 0 < table.loc["noise", "upper"]
    assert np.isnan(table.loc["constant"]).all()
