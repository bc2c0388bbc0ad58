"""The benchmark measures what it says: alternatives and peers agree where they should, and conclusions follow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import choices, devices, measuring, peers
from experiments.benchmarks import metrics as suite
from tests import references
from tests.conftest import SHORT
from tests.references import (  # noqa: F401  # noqa: F401
    gbc,
    grad_norm,
    h_score,
    knn,
    lda,
    leep,
    lfc,
    linear_probe,
    logme,
    nce,
    ncti,
    pactran_gauss,
    parc,
    ped,
    rankme,
    sfda,
    tmi,
    transrate,
)
from transferjax import metrics
from transferjax._validate import InputError
from transferjax.metrics.feature_quality import nca_loss_and_gradient
from transferjax.metrics.linear_probe import PENALTIES

ROOT = Path(__file__).parent.parent.parent


def run(*flags):
    command = [sys.executable, "-m", "experiments.benchmark", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_both_gradients_are_the_same_function_s():
    features, labels = choices.clusters(40, 8, 3, 1.0, np.random.default_rng(0))
    transform = np.random.default_rng(1).standard_normal((4, 8)) / 4
    with jax.enable_x64(True):
        arguments = [jnp.asarray(array) for array in (transform, features.astype(np.float64), labels)]
        written, derived = nca_loss_and_gradient(*arguments), jax.value_and_grad(choices.automatic)(*arguments)
    for a, b in zip(written, derived, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_float32_loses_what_the_docstrings_say(capsys):
    rng = np.random.default_rng(0)
    choices.residual_digits(rng)
    choices.neighbor_digits(rng)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    narrow, wide, exact = (float(number) for number in re.findall(r"(?:Gram|float64|exact) (\S+?)(?:,|$)", lines[2]))
    assert abs(narrow - exact) > abs(exact)  # nothing is left; which way it errs depends on the machine
    assert abs(wide - exact) < 0.01 * abs(exact)
    assert lines[3].endswith("float64 1.00")


@pytest.fixture(scope="module")
def data():
    """Enough examples for the guard of the discriminants to keep ten of the twelve features."""
    return measuring.made_up(measuring.Size(100, 12, 3))


EXPECTED = {
    "etran": lambda x, y, z: references.lda.lda(x, y, num_components=len(x) // 10) + references.lda.energy(z),
    "gbc": lambda x, y, z: references.gbc.gbc(x, y),
    "grad_norm": lambda x, y, z: references.grad_norm.grad_norm(x, y),
    "h_score": lambda x, y, z: references.h_score.h_score(x, y),
    "h_score_regularized": lambda x, y, z: references.h_score.h_score(x, y, regularized=True),
    "knn": lambda x, y, z: references.knn.neighbor_share(x, y),
    "lda": lambda x, y, z: references.lda.lda(x, y, num_components=len(x) // 10),
    "leep": lambda x, y, z: references.leep.leep(references.leep.softmax(z), y),
    "lfc": lambda x, y, z: references.lfc.lfc(x, y),
    "linear_probe": lambda x, y, z: references.linear_probe.linear_probe(x, y, PENALTIES),
    "logme": lambda x, y, z: references.logme.logme(x, y),
    "nce": lambda x, y, z: references.nce.nce(z, y),
    "ncti": lambda x, y, z: tuple(references.ncti.terms(x, y).values()),
    "pactran_gauss": lambda x, y, z: references.pactran_gauss.pactran_gauss(x, y),
    "parc": lambda x, y, z: references.parc.parc(x, y),
    "ped": lambda x, y, z: references.ped.ped(x, y),
    "rankme": lambda x, y, z: references.rankme.rankme(x),
    "sfda": lambda x, y, z: references.sfda.sfda(x, y, num_components=len(x) // 10),
    "sfda_published": lambda x, y, z: references.sfda.sfda(x, y),
    "tmi": lambda x, y, z: references.tmi.tmi(x, y),
    "transrate": lambda x, y, z: references.transrate.transrate(x, y),
}


@pytest.mark.parametrize("row", EXPECTED)
def test_peers_do_the_same_work(row, data):
    """Fast peers, naive references: the same values, but for what float32 and an optimiser that stops early lose."""
    expected = EXPECTED[row](data.features, data.labels, data.logits)
    tolerance = 1e-3 if row == "pactran_gauss" else 1e-5
    np.testing.assert_allclose(list(peers.PEERS[row].values(data).values()), np.atleast_1d(expected), rtol=tolerance)


def test_all_peers_but_random_ones_are_checked():
    """Those of the mixture and of neighbourhood components begin at random places."""
    assert set(peers.PEERS) - set(EXPECTED) == {"nleep", "feature_quality", "feature_quality_loo"}


def test_peers_are_of_metrics_that_there_are():
    assert {name for peer in peers.PEERS.values() for name in peer.metrics} <= set(metrics.names())


def test_made_up_features_decay_and_overlap():
    """At d = 2048, 80 % of the variance lie in some 55 components; most neighbours are of other classes, not all."""
    made = measuring.made_up(measuring.Size(1500, 2048, 100))
    variances = np.linalg.eigvalsh(np.cov(made.features, rowvar=False))[::-1]
    assert 45 <= np.searchsorted(np.cumsum(variances) / variances.sum(), 0.8) + 1 <= 65
    assert made.features.min() > 0
    assert 2 / made.num_classes < peers.knn(made) < 0.5


def test_a_tiny_run(tmp_path):
    """Metrics with and without a peer, the table, and what is left out, from the command line."""
    path = tmp_path / "numbers.csv"
    flags = ["--suite=metrics", "--sizes=60x12x3", "--metrics=leep,leep_published,gbc,gradient_ratio"]
    done = run(*flags, "--noisolate", "--seconds=0", f"--output={path}")
    assert done.returncode == 0, done.stderr
    assert "Left out: gradient_ratio" in done.stdout
    assert "All together (gbc, leep):" in done.stdout
    table = pd.read_csv(path).set_index("row")
    assert list(table.index) == ["gbc", "leep", "leep_published", "all together"]
    assert (table["seconds"] > 0).all()
    assert table.loc["leep_published", "peer_seconds"] == table.loc["leep", "peer_seconds"]
    assert table.loc["all together", "peer_seconds"] == table.loc[["gbc", "leep"], "peer_seconds"].sum()
    np.testing.assert_allclose(table["ratio"], table["peer_seconds"] / table["seconds"])
    np.testing.assert_allclose(table["single_ratio"], table["single_seconds"] / table["seconds"])
    assert not table["note"].fillna("").str.contains("differ").any()


def test_a_process_that_is_killed_leaves_a_note():
    assert "killed" in suite.in_process(os._exit, 1)["problem"]


def row(name, **numbers):
    known = {
        "seconds": 1.0,
        "peer_seconds": 2.0,
        "single_seconds": 1.5,
        "compiling": 1.0,
        "memory": 1e6,
        "peer_memory": 1e6,
    }
    texts = {"value": "", "peer_value": "", "note": ""}
    return {"row": name, "n": 100_000, "d": 2048, "c": 100, **known, **texts, **numbers}


def test_conclusions_name_what_is_slower_or_larger():
    rows = suite.completed([
        row("gbc", peer_seconds=9.0), row("logme", peer_seconds=0.5), row("parc", memory=7e8),
        row("logme_published"), row(suite.ALL, seconds=4.0, peer_seconds=float("nan")),
    ])  # fmt: skip
    small = "\n".join(suite.conclusions("small", rows))
    assert "NOT met by logme." in small
    assert "With one thread for the peer: logme 1.5, parc 1.5." in small
    assert "Not measured: nleep, sfda, ncti, h_score, feature_quality." in small
    assert "Asked: 5 times as fast as the peers. It is 2.9 times: NOT met." in small
    assert "With one thread for the peers it is 1.1 times." in small
    assert "It is 2.9 times: NOT met." in "\n".join(suite.conclusions("medium", rows))
    assert "Most: parc, 1.85 times; NOT met by parc." in "\n".join(suite.conclusions("large", rows))


def test_values_that_differ_are_flagged():
    size, peer = measuring.Size(60, 12, 3), peers.PEERS["gbc"]
    job = suite.Job("gbc", ("gbc",), peer)
    notes = [
        suite.row_of(job, size, {"values": {"gbc": -1.0}, "peer_values": {"gbc": other}})["note"]
        for other in (-1.0 - peer.tolerance / 2, -2.0, float("nan"))
    ]
    assert notes == ["", "values differ by 50.0%", "values differ by nan%"]


@pytest.mark.parametrize("text", ["huge", "10x5", "3x5x2", "10x0x2", "10x5x1"])
def test_sizes_that_are_none(text):
    with pytest.raises(InputError, match=re.escape(repr(text))):
        measuring.size_of(text)


def test_devices_agree_with_the_cpu(capsys):
    """Here the two are one device, unless there is an accelerator."""
    table = devices.run([SHORT])
    assert (table.drop(columns="architecture").to_numpy() <= 1e-3).all()
    assert "jax" in capsys.readouterr().out
