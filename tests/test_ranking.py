"""The main job as a library user sees it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pandas as pd
import pytest

import transferjax
from tests.conftest import SHORT
from tests.metrics.test_contract import count_compilations
from transferjax import InputError, metrics, models, ranking
from transferjax.combine import combine, combine_ncti
from transferjax.report import tables
from transferjax.types import ScoreTable, TargetDataset


@pytest.fixture(scope="module")
def target():
    rng = np.random.default_rng(0)
    labels = np.resize([0, 0, 1, 1, 1, 2, 2, 2, 0], 36).astype(np.int32)
    images = rng.integers(0, 256, (36, 28, 28, 3)) // 2 + 40 * labels[:, None, None, None]
    return TargetDataset(name="made", images=images.astype(np.uint8), labels=labels, class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def sources():
    return [models.random_source(f"s{i}", SHORT, num_classes=4, seed=i, width=4) for i in range(4)]


@pytest.fixture(scope="module")
def table(sources, target):
    return transferjax.rank_sources(sources, target)


def test_a_row_for_each_source_and_metric(table):
    rows = table.rows
    assert list(rows.columns) == ["source", "target", "metric", "score", "rank", "lower", "upper"]
    expected = ["combined", *ranking.DEFAULT_METRICS, "num_parameters", "source_set_size"]
    assert list(dict.fromkeys(rows["metric"])) == expected
    assert len(rows) == 4 * len(expected)
    for _, part in rows.groupby("metric"):
        assert (part["rank"] == part["score"].rank(ascending=False, method="min")).all()


def test_combined_is_made_of_the_two(table):
    wide = table.wide()
    np.testing.assert_allclose(wide["combined"], combine(wide["feature_quality"], wide["gradient_ratio"]))
    assert wide["combined"].is_monotonic_decreasing


def test_ncti_is_made_of_its_terms(sources, target):
    names = ["ncti_published", "ncti", "ncti_ncc"]
    wide = transferjax.rank_sources(sources, target, metrics=names, bootstrap=20).wide()
    terms = ("ncti_seli", "ncti_ncc", "ncti_vc")
    made = ["ncti_published", *(f"{term}_published" for term in terms), "ncti", *terms]
    assert list(wide.columns[:8]) == made
    np.testing.assert_allclose(wide["ncti"], combine_ncti(*(wide[term] for term in terms)))
    published = (wide[f"{term}_published"] for term in terms)
    np.testing.assert_allclose(wide["ncti_published"], combine_ncti(*published, published=True))
    with pytest.raises(InputError, match=r"'ncti' is scaled over several candidates.*ncti_seli, ncti_ncc, ncti_vc"):
        metrics.get("ncti")


def test_details_tell_how_it_was_made(table, sources, target):
    details = table.details
    assert details["seed"] == 0
    assert details["versions"]["jax"]
    assert details["target"] | {"hash": ""} == {
        "name": "made",
        "examples": 36,
        "task": "multiclass",
        "class_names": ["a", "b", "c"],
        "groups": None,
        "labels_left_out": {},
        "image_size": [28, 28],
        "hash": "",
    }
    assert {name: facts["weights_hash"] for name, facts in details["sources"].items()} == {
        source.name: source.weights_hash for source in sources
    }
    assert details["lead"]["best"] == table.wide().index[0]
    assert set(details["seconds"]) == {source.name for source in sources}


def test_same_seed_same_bits_other_seed_other_examples(sources, target, table):
    again = transferjax.rank_sources(sources, target)
    pd.testing.assert_frame_equal(again.rows, table.rows, check_exact=True)
    other = transferjax.rank_sources(sources, target, seed=1)
    assert not np.array_equal(other.rows["score"], table.rows["score"])


def test_architecture_scenario_inverts(sources, target, table):
    inverted = transferjax.rank_sources(sources, target, scenario="architecture").wide()
    wide = table.wide().loc[inverted.index]
    expected = combine(wide["feature_quality"], wide["gradient_ratio"], scenario="architecture")
    np.testing.assert_allclose(inverted["combined"], expected)


def test_without_the_two_parts_the_first_metric_leads(sources, target, monkeypatch):
    def no_gradients(*_args, **kwargs):
        assert not kwargs["gradients"], "gradients are taken only if a metric needs them"
        return ranking_extract(*_args, **kwargs)

    ranking_extract = ranking.extract
    monkeypatch.setattr(ranking, "extract", no_gradients)
    table = transferjax.rank_sources(sources, target, metrics=["logme", "leep"])
    assert list(table.wide().columns[:2]) == ["logme", "leep"]
    assert table.details["lead"] is None
    assert tables.verdict(table).startswith(f"By logme alone, fine-tune {table.wide().index[0]} ")


def test_gradients_of_examples_bring_their_metrics(sources, target, several_labels):
    wide = transferjax.rank_sources(sources[:2], target, metrics=["knn"], gradients="example").wide()
    assert list(wide.columns[:6]) == ["knn", *ranking.EXAMPLE_METRICS]
    assert (wide["gradient_ratio_mean"] > 0).all()
    wide = transferjax.rank_sources(sources[:2], several_labels, metrics=["knn"], gradients="example").wide()
    assert "gradient_snr" in wide.columns
    assert "gradient_alignment" not in wide.columns  # it refuses several labels
    with pytest.raises(InputError, match=r"gradients: 'batch' is not enough for gradient_snr\. Choose 'example'"):
        transferjax.rank_sources(sources, target, metrics=["knn", "gradient_snr"])
    with pytest.raises(InputError, match="gradients: 'all' is unknown"):
        transferjax.rank_sources(sources, target, gradients="all")


@pytest.fixture(scope="module")
def several_labels(target):
    """Three labels that come together, one that few have, some missing."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([np.eye(3)[target.labels] + (rng.random((36, 3)) < 0.2) > 0, np.arange(36) < 5])
    labels = labels.astype(np.int8)
    labels[::7, 1] = -1
    names = ("mass", "nodule", "effusion", "hernia")
    return dataclasses.replace(target, labels=labels, class_names=names, task="multilabel")


def test_several_labels(sources, several_labels):
    found = transferjax.rank_sources(sources[:2], several_labels, metrics=["logme", "knn"])
    seen = found.details["target"]
    assert seen["task"] == "multilabel"
    assert seen["class_names"] == ["mass", "nodule", "effusion"]
    assert seen["labels_left_out"] == {"hernia": {"with": 5, "without": 31}}
    without_it = dataclasses.replace(
        several_labels, labels=several_labels.labels[:, :3], class_names=several_labels.class_names[:3]
    )
    again = transferjax.rank_sources(sources[:2], without_it, metrics=["logme", "knn"])
    pd.testing.assert_frame_equal(again.rows, found.rows, check_exact=True)
    few = transferjax.rank_sources(sources[:2], several_labels, metrics=["knn"], max_examples_per_class=6)
    assert 12 <= few.details["target"]["examples"] < 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metrics": ["knn", "logme_published", "leep_published"]},
            r"metric logme_published: it is not defined for multi-label targets.* The same holds for: leep_published\.",
        ),
        (
            {"metrics": ["knn", "leep"], "bootstrap": 20},
            r"bootstrap of leep: labels are missing \(-1\).* Leave it out, or the examples with missing labels\.$",
        ),
        ({"metrics": ["sfda_published"], "bootstrap": 20}, "metric sfda_published: it is not defined for multi-label"),
    ],
)
def test_what_several_labels_do_not_allow_is_said_before_any_work(
    sources, several_labels, options, message, monkeypatch
):
    monkeypatch.setattr(ranking, "extract", lambda *_args, **_kwargs: pytest.fail("a source was run"))
    with pytest.raises(InputError, match=message):
        transferjax.rank_sources(sources, several_labels, **options)


def test_ten_sources_compile_no_more_than_two(target):
    """Sources of one architecture share every program: those of the network and those of the metrics."""
    ten = [models.random_source(f"s{i}", SHORT, num_classes=4, seed=i, width=4) for i in range(10)]
    counts = []
    for sources in (ten, ten[:2]):
        jax.clear_caches()
        with count_compilations() as seen:
            transferjax.rank_sources(sources, target)
        counts.append(len(seen))
    assert counts[0] == counts[1] > 0
    with count_compilations() as seen:
        transferjax.rank_sources(ten, target, seed=1)
    assert not seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["leap"]}, "metrics: 'leap' is unknown"),
        ({"metrics": []}, "metrics: none given"),
        ({"scenario": "other"}, "scenario: 'other' is unknown"),
        ({"method": "sum"}, "method: 'sum' is unknown"),
        ({"max_examples_per_class": 5}, "max_examples_per_class: 5. Take at least 6"),
        ({"metrics": "leep"}, r"metrics: 'leep' is one string. Give a list: \['leep'\]"),
        ({"sources": "photos"}, "sources: 'photos' is one string"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 2**32}, "seed: 4294967296"),
        ({"image_size": 0}, "image_size: 0"),
        ({"cache_dir": __file__}, "cache_dir: .*cannot be written"),
        ({"bootstrap": 19}, "bootstrap: 19. Take 0 for no intervals, or at least 20 resamples"),
        ({"bootstrap": -1}, "bootstrap: -1"),
        ({"target": "nowhere"}, "target: 'nowhere' is unknown"),
    ],
)
def test_what_cannot_be_used(sources, target, changes, message):
    arguments = {"sources": sources, "target": target} | changes
    with pytest.raises(InputError, match=message):
        transferjax.rank_sources(arguments.pop("sources"), arguments.pop("target"), **arguments)


def test_a_source_that_fails_is_named(sources, target):
    variables = jax.tree.map(lambda leaf: leaf * np.float32(1e30), sources[1].variables)
    broken = dataclasses.replace(sources[1], name="broken", variables=variables)
    with pytest.raises(InputError, match="source broken: features: not finite at example 0"):
        transferjax.rank_sources([sources[0], broken], target)


def test_a_score_that_is_not_finite_is_named(sources, target, monkeypatch):
    monkeypatch.setattr(ranking, "_score", lambda *_args: {"knn": float("nan")})
    with pytest.raises(InputError, match="source s0: its knn is nan"):
        transferjax.rank_sources(sources, target, metrics=["knn"])


def test_log_needs_gradients(sources, target):
    flat = dataclasses.replace(sources[1], name="flat", variables=jax.tree.map(np.zeros_like, sources[1].variables))
    with pytest.raises(InputError, match=r"'log' has no value for a gradient_ratio of 0 \(flat\)"):
        transferjax.rank_sources([sources[0], flat], target, method="log")


def test_images_are_brought_to_a_size(sources, target):
    table = transferjax.rank_sources(sources[:2], target, metrics=["knn"], image_size=20)
    assert table.details["target"]["image_size"] == [20, 20]


def test_sources_that_cannot_be_used(sources, target):
    with pytest.raises(InputError, match="2 are called 's0'"):
        transferjax.rank_sources([sources[0], sources[0]], target)
    with pytest.raises(InputError, match="at least two"):
        transferjax.rank_sources(sources[:1], target)


def lead_of(quality, ratio, names="abcd", method="product"):
    parts = [np.asarray(quality), np.asarray(ratio)]
    return ranking._lead(list(names[: len(quality)]), parts, scenario="source_dataset", method=method)


def table_of(lead, trained=100):
    names = [lead["best"], lead["second"]]
    rows = pd.DataFrame(
        {"source": names, "target": "t", "metric": "combined", "score": [0.5 + lead["gap"], 0.5], "rank": [1, 2]}
    )
    return ScoreTable(
        rows=rows, details={"lead": lead, "sources": {name: {"num_train_examples": trained} for name in names}}
    )


def test_a_lead_in_both_parts_is_clear():
    lead = lead_of([0.9, 0.5, 0.4, 0.6], [2.0, 1.0, 0.5, 0.7])
    assert lead["first_by_method"] == {"product": ["a"], "rank": ["a"], "log": ["a"]}
    assert (lead["left_out"], lead["stays_first_when_one_is_left_out"]) == (3, 3)
    text = tables.verdict(table_of(lead))
    assert text.startswith("Fine-tune a: combined ")
    assert text.endswith("stays first in 3 of 3 lists with one other candidate left out: a clear lead.")


def test_a_lead_that_hangs_on_another_candidate_is_not_clear():
    """Without d, whose ratio is the worst by far, c's ratio becomes the worst, and its score 0."""
    lead = lead_of([0.5, 0.8, 0.9, 0.4], [0.6, 0.55, 0.54, 0.1])
    assert lead["best"] == "c"
    assert (lead["left_out"], lead["stays_first_when_one_is_left_out"]) == (3, 2)
    assert "b" in lead["rivals"]
    assert "a lead that is not clear, so fine-tune b" in tables.verdict(table_of(lead))


def test_resamples_give_intervals_and_probabilities(sources, target, table):
    found = transferjax.rank_sources(sources, target, metrics=["knn", *ranking.combine.INGREDIENTS], bootstrap=20)
    scored = found.rows[~found.rows["metric"].isin(["num_parameters", "source_set_size"])]
    assert (scored["lower"] <= scored["score"]).all()
    assert (scored["score"] <= scored["upper"]).all()
    assert (scored["lower"] < scored["upper"]).groupby(scored["metric"]).any().all()
    assert found.rows.drop(scored.index)[["lower", "upper"]].isna().all(axis=None)
    for name in ("combined", "knn"):
        pd.testing.assert_series_equal(found.wide()[name], table.wide()[name], check_exact=True)
    uncertainty = found.details["uncertainty"]
    assert uncertainty["metric"] == "combined"
    assert uncertainty["schemes"] == {"knn": "half", "feature_quality": "half", "gradient_ratio": "batches"}
    assert sum(uncertainty["probability_best"].values()) == pytest.approx(1)
    beats = uncertainty["probability_beats"]
    assert all(beats[a][b] + beats[b][a] == pytest.approx(1) for a in beats for b in beats[a])
    assert set(beats) == {source.name for source in sources}
    assert "In 20 resamples of the target's examples, the best by combined is " in tables.verdict(found)
    assert table.details["uncertainty"] is None


def test_combined_intervals_are_of_the_combined_resamples():
    names, rng = ["a", "b", "c"], np.random.default_rng(0)
    parts = {name: rng.uniform(0.2, 1, (40, 3)) for name in ranking.combine.INGREDIENTS}
    intervals = {
        name: {source: metrics.Interval(0.5, 0, 1, drawn[:, i], "half") for i, source in enumerate(names)}
        for name, drawn in parts.items()
    }
    scores = pd.Series([0.1, 0.9, 2.0], index=names)
    for method in ("product", "log"):
        way = functools.partial(combine, method=method)
        found = ranking._combined_intervals(scores, intervals, ranking.combine.INGREDIENTS, way)
        for i in range(40):
            expected = combine(*(drawn[i] for drawn in parts.values()), method=method)
            np.testing.assert_allclose([found[name].resamples[i] for name in names], expected)
        assert found["c"].upper == 2, "widened to its score"
        assert found["b"].lower == np.quantile(found["b"].resamples, 0.025)


def test_a_lead_that_resamples_do_not_bear_out_is_not_clear():
    table = table_of(lead_of([0.9, 0.5, 0.4, 0.6], [2.0, 1.0, 0.5, 0.7]))
    rows = table.rows.assign(lower=0.1, upper=0.9)
    for shares, ending in (
        ({"a": 0.7, "b": 0.26, "d": 0.04}, "a lead that is not clear, so fine-tune b too. In 50 resamples of the "),
        ({"a": 0.97, "b": 0.03}, "a clear lead. In 50 resamples of the "),
        ({"a": 0.94, "b": 0.03, "d": 0.03}, "a lead that is not clear, so fine-tune b too. In 50 resamples of the "),
    ):
        uncertainty = {"num_resamples": 50, "metric": "combined", "probability_best": shares}
        text = tables.verdict(ScoreTable(rows=rows, details={**table.details, "uncertainty": uncertainty}))
        assert ending in text
    assert text.endswith("the best by combined is a with probability 0.94; b 0.03 and d 0.03.")


def test_the_rival_is_who_comes_first_otherwise_not_the_second():
    lead = lead_of([0.61, 0.58, 0.571, 0.608], [2.314, 3.041, 3.626, 0.51])
    assert (lead["best"], lead["second"]) == ("a", "b")
    assert lead["first_by_method"]["log"] == ["c"]
    assert "c" in lead["rivals"]
    assert " c too" in tables.verdict(table_of(lead))


def test_two_candidates_that_disagree_share_the_first_rank():
    lead = lead_of([0.5, 0.8], [1.0, 0.5])
    assert lead["gap"] == 0
    expected = "No lead: a, b share the first rank by combined (0.500); fine-tune each of them."
    assert tables.verdict(table_of(lead)) == expected


def test_a_ratio_of_zero_leaves_the_logarithm_out():
    lead = lead_of([0.9, 0.5, 0.4], [2.0, 1.0, 0.0])
    assert set(lead["first_by_method"]) == {"product", "rank"}


def test_a_control_in_front_is_said():
    lead = lead_of([0.9, 0.5, 0.4, 0.6], [2.0, 1.0, 0.5, 0.7])
    assert "untrained control" in tables.verdict(table_of(lead, trained=0))
    assert "untrained control" not in tables.verdict(table_of(lead))


def test_a_table_of_several_targets_needs_one_named():
    rows = pd.DataFrame({"source": ["a", "b"], "target": ["x", "y"], "metric": "m", "score": 1.0, "rank": 1})
    with pytest.raises(InputError, match="Name one of: x, y"):
        ScoreTable(rows=rows).wide()
