import importlib.resources

import numpy as np
import pytest

from transferjax import published
from transferjax._validate import InputError

METRICS = {"feature_quality", "gradient_ratio", "logme", "leep", "nleep", "parc", "sfda", "ncti"}


@pytest.fixture(scope="module")
def runs():
    return published.finetuning_runs()


@pytest.mark.parametrize(
    ("scenario", "score_rows", "auc_rows", "sources", "targets"),
    [("source_dataset", 1298, 168, 15, 12), ("architecture", 792, 99, 9, 11)],
)
def test_the_tables_are_whole(scenario, score_rows, auc_rows, sources, targets):
    study = published.load(scenario)
    assert study.scenario == scenario
    assert list(study.scores) == ["source", "target", "metric", "score"]
    assert list(study.test_auc) == ["source", "target", "test_auc"]
    assert (len(study.scores), len(study.test_auc)) == (score_rows, auc_rows)
    assert study.scores["score"].dtype == study.test_auc["test_auc"].dtype == np.float64
    assert np.isfinite(study.scores["score"]).all()
    assert study.test_auc["test_auc"].between(0.5, 1).all()
    assert set(study.scores["metric"]) == METRICS
    assert set(study.inverted) <= METRICS
    assert study.scores["source"].nunique() == study.test_auc["source"].nunique() == sources
    assert (study.scores["target"].nunique(), study.test_auc["target"].nunique()) == (11, targets)
    assert not study.scores.duplicated(["source", "target", "metric"]).any()
    assert not study.test_auc.duplicated(["source", "target"]).any()
    assert (study.test_auc["source"] != study.test_auc["target"]).all()
    # Every candidate of a scored target has every score.
    scored = study.test_auc[study.test_auc["target"].isin(study.scores["target"])]
    metrics = study.scores.groupby(["source", "target"]).size()
    assert all(
        metrics.get((source, target)) == 8 for source, target in zip(scored["source"], scored["target"], strict=True)
    )


def test_single_values():
    study = published.load("source_dataset")
    row = study.scores.set_index(["source", "target", "metric"])["score"]
    assert row["imagenet", "bloodmnist", "feature_quality"] == 0.85725
    auc = study.test_auc.set_index(["source", "target"])["test_auc"]
    assert auc["imagenet", "bloodmnist"] == 0.9984533762023934


def test_runs_have_types_and_the_failed_ones_no_results(runs):
    assert len(runs) == 28205
    assert runs["batch_size"].dtype == "int64"
    assert runs["last_epoch"].dtype == "Int64"
    results = ["val_loss", "val_auc", "val_acc", "test_loss", "test_auc", "test_acc"]
    assert (runs[[*results, "learning_rate", "momentum", "weight_decay"]].dtypes == np.float64).all()
    failed = runs["val_loss"].isna()
    assert failed.sum() == 1680
    assert runs.loc[failed, ["last_epoch", *results]].isna().all(axis=None)
    assert runs.loc[~failed].notna().all(axis=None)
    assert set(runs["scenario"]) == set(published.SCENARIOS)


@pytest.mark.parametrize(("scenario", "pairs"), [("source_dataset", 168), ("architecture", 88)])
def test_a_pairs_auc_is_that_of_its_run_with_the_lowest_validation_loss(runs, scenario, pairs):
    rows = runs[(runs["scenario"] == scenario) & runs["val_loss"].notna()]
    best = rows.loc[rows.groupby(["source", "target"])["val_loss"].idxmin()]
    both = published.load(scenario).test_auc.merge(best, on=["source", "target"])
    assert len(both) == pairs
    np.testing.assert_allclose(both["test_auc_x"], both["test_auc_y"], rtol=0, atol=1e-9)


def test_resnet_is_the_other_scenarios_imagenet():
    network = published.load("architecture").test_auc.query("source == 'resnet'").set_index("target")["test_auc"]
    data = published.load("source_dataset").test_auc.query("source == 'imagenet'").set_index("target")["test_auc"]
    assert len(network) == 11
    np.testing.assert_allclose(network, data[network.index], rtol=0, atol=1e-12)


def test_unknown_scenario():
    with pytest.raises(InputError) as caught:
        published.load("datasets")
    assert "'datasets' is unknown" in str(caught.value)
    assert "source_dataset, architecture" in str(caught.value)


def test_the_attribution_ships_with_the_data():
    text = (importlib.resources.files(published) / "README.md").read_text()
    assert "2412.20172" in text
    assert "MIT" in text


def test_the_demo_benchmark_s_tables():
    study = published.load_demo()
    pairs = set(zip(study.test_auc["source"], study.test_auc["target"], strict=True))
    assert len(pairs) == len(study.test_auc) == 45
    assert set(study.test_auc["target"]) == {"histology", "mri_plane", "mri_tissue", "nuclei", "retina"}
    assert not any(source == target for source, target in pairs)
    assert study.test_auc["test_auc"].between(0.4, 1).all()
    assert (study.test_auc["seeds"] == 3).all()
    assert set(zip(study.scores["source"], study.scores["target"], strict=True)) == pairs
    assert {"combined", "logme", "leep"} <= set(study.scores["metric"])
    assert np.isfinite(study.scores["score"]).all()
