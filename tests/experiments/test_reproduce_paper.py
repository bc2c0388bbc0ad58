import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from absl.testing import flagsaver

from experiments import reproduce_paper
from tests.references.weighted_tau import weighted_tau
from transferjax import combine, published
from transferjax._validate import InputError
from transferjax.evaluation import omnibus, rank_correlation

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "expected_weighted_tau.json").read_text())
SCENARIOS = list(GOLDEN)


@pytest.fixture(scope="module")
def tables():
    return {scenario: reproduce_paper.published_tau(published.load(scenario)) for scenario in SCENARIOS}


def agree(table, scenario):
    """Compares a table's rows with the goldens: every metric and target, no more, undefined ones included."""
    golden = GOLDEN[scenario]
    expected = {
        (metric, target): np.nan if tau is None else tau
        for metric, targets in golden["weighted_tau"].items()
        for target, tau in targets.items()
    }
    found = table.set_index(["metric", "target"])["weighted_tau"].to_dict()
    assert len(table) == len(found) == 99
    assert found.keys() == expected.keys()
    keys = list(expected)
    np.testing.assert_allclose([found[k] for k in keys], [expected[k] for k in keys], rtol=0, atol=1e-9)
    assert set(table.loc[table["inverted"], "metric"]) == set(golden["inverted"])


def friedman(table):
    wide = table.pivot(index="target", columns="metric", values="weighted_tau")
    return omnibus.friedman(wide[list(published.COMPARED)].to_numpy())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_taus_equal_the_goldens(tables, scenario):
    agree(tables[scenario], scenario)


def test_the_methods_compared_are_the_goldens():
    assert list(published.COMPARED) == GOLDEN["source_dataset"]["friedman"]["methods"]


def test_friedman_of_the_source_dataset_scenario(tables):
    test, golden = friedman(tables["source_dataset"]), GOLDEN["source_dataset"]["friedman"]
    assert test.statistic == pytest.approx(golden["statistic"], abs=1e-9)
    assert test.statistic == pytest.approx(20.766233766, abs=1e-9)
    assert test.pvalue == pytest.approx(0.0020206953, abs=1e-10)


def test_friedman_of_the_architecture_scenario_follows_from_the_golden_taus(tables):
    taus = pd.DataFrame(GOLDEN["architecture"]["weighted_tau"])[list(published.COMPARED)]
    t, m = taus.shape
    sums = taus.rank(axis=1).sum()
    statistic = 12 / (t * m * (m + 1)) * (sums**2).sum() - 3 * t * (m + 1)
    assert statistic == pytest.approx(9.584415584, abs=1e-9)
    assert friedman(tables["architecture"]).statistic == pytest.approx(statistic, abs=1e-9)


@pytest.mark.xfail(
    strict=True,
    reason="The golden statistic, 10.2857, does not follow from the golden taus: the methods listed for the other "
    "scenario give 9.5844, none are listed for this one, and no seven of its nine metrics give it.",
)
def test_friedman_of_the_architecture_scenario(tables):
    golden = GOLDEN["architecture"]["friedman"]
    assert friedman(tables["architecture"]).statistic == pytest.approx(golden["statistic"], abs=1e-9)


def test_the_targets_own_ratio_counts_for_dermamnist_alone(tables):
    study = published.load("source_dataset")
    without = rank_correlation.tau_table(combine.combine_table(study.scores), study.test_auc)
    without = without.set_index("target")["weighted_tau"]
    published_taus = tables["source_dataset"].query("metric == 'combined'").set_index("target")["weighted_tau"]
    differs = (without - published_taus).abs() > 1e-12
    assert differs[differs].index.tolist() == ["dermamnist"]
    assert without["dermamnist"] == pytest.approx(0.6991, abs=5e-5)
    assert published_taus["dermamnist"] == pytest.approx(0.7019, abs=5e-5)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_definition_of_weighted_tau_gives_the_goldens_too(scenario):
    study = published.load(scenario)
    auc = study.test_auc.set_index(["source", "target"])["test_auc"].to_dict()
    for (metric, target), rows in study.scores.groupby(["metric", "target"]):
        rows = rows[rows["source"] != target]
        sign = -1 if metric in study.inverted else 1
        tau = weighted_tau(sign * rows["score"], [auc[source, target] for source in rows["source"]])
        golden = GOLDEN[scenario]["weighted_tau"][metric][target]
        np.testing.assert_allclose(tau, np.nan if golden is None else golden, rtol=0, atol=1e-9)


def run(folder):
    with flagsaver.flagsaver(workdir=str(folder)):
        reproduce_paper.main(["reproduce_paper"])
    return folder / "weighted_tau.csv"


@pytest.fixture(scope="module", autouse=True)
def _flags_parsed():
    if not reproduce_paper.flags.FLAGS.is_parsed():
        reproduce_paper.flags.FLAGS(["tests"])


def test_the_file_holds_the_goldens_and_two_runs_are_alike(tmp_path, capsys):
    first = run(tmp_path / "new" / "folder")
    printed = capsys.readouterr().out
    second = run(tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["weighted_tau.csv"]
    table = pd.read_csv(first)
    assert list(table) == ["scenario", "target", "metric", "weighted_tau", "inverted"]
    assert table["scenario"].unique().tolist() == SCENARIOS
    for scenario, rows in table.groupby("scenario"):
        agree(rows, scenario)

    assert "combined has the highest mean weighted tau, 0.523 over 11 targets" in printed
    assert "leep has the highest mean weighted tau, 0.280 over 11 targets" in printed
    assert "chi2 = 20.766234, p = 0.002021" in printed
    assert printed.rstrip().endswith(f"Written to {first}")
    metrics = set(GOLDEN["source_dataset"]["weighted_tau"])
    rows = [line for line in printed.splitlines() if line.split(" ")[0] in metrics]
    assert len(rows) == 18
    assert len({len(line) for line in rows[:9]}) == len({len(line) for line in rows[9:]}) == 1  # aligned
    cells = {line.split()[0]: line.split()[1:] for line in rows[:9]}
    assert next(iter(cells)) == "combined"
    assert cells["combined"][0] == "0.777"
    assert cells["combined"][-2:] == ["0.523", "1.909"]  # mean and mean rank
    assert cells["feature_quality"][-2:] == ["0.440", "-"]  # not among the methods compared
    assert cells["sfda"][1] == "-"  # undefined


def test_an_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        run(tmp_path / "file" / "sub")
    assert "--workdir" in str(caught.value)
