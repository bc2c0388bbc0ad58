"""BLAS keeps to one thread for small matrices, and only meanwhile."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import threadpoolctl

from transferjax import _threads, metrics
from transferjax._threads import threads_for
from transferjax.metrics import _base
from transferjax.types import make_pair


def blas_threads():
    """Of the libraries that were there with JAX: others, which later imports bring, are none of its."""
    known = {library.filepath for library in _threads._LIBRARIES.lib_controllers}
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return {pool["num_threads"] for pool in pools if pool["filepath"] in known}


def fail_within():
    with threads_for(20, 4096):
        raise ZeroDivisionError


def test_one_thread_for_small_matrices_only():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert blas_threads() == {2}
        with threads_for(5000, 512):
            assert blas_threads() == {1}
        assert blas_threads() == {2}
        with threads_for(5000, 2048):
            assert blas_threads() == {2}
        with pytest.raises(ZeroDivisionError):
            fail_within()
        assert blas_threads() == {2}


def test_scores_are_computed_so(monkeypatch):
    seen = []
    real = _base.Metric.__call__

    def watching(metric, pair, rng):
        seen.append(blas_threads())
        return real(metric, pair, rng)

    monkeypatch.setattr(_base.Metric, "__call__", watching)
    features = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    pair = make_pair(features, np.resize([0, 1], 30), num_classes=2)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        metrics.score(pair, ["rankme"], jax.random.key(0))
        metrics.bootstrap(pair, ["rankme"], jax.random.key(0), 20)
        assert blas_threads() == {2}
    assert seen == [{1}, {1}]
