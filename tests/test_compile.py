"""What XLA is told of this backend, and what is left out where it does not know it."""

from __future__ import annotations

import jax
import pytest

from transferjax import _compile


@pytest.fixture
def anew():
    _compile.compiler_options.cache_clear()
    yield
    _compile.compiler_options.cache_clear()


def test_an_option_that_xla_does_not_know_is_left_out(anew, monkeypatch):
    known = {"xla_cpu_multi_thread_eigen": True}
    monkeypatch.setattr(_compile, "_FOR_CPU", {"xla_cpu_of_another_version": "1", **known})
    assert _compile.compiler_options() == known


def test_nothing_is_told_to_other_backends(anew, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cuda")
    assert _compile.compiler_options() == {}


def double(x):
    return 2 * x


def test_a_function_is_compiled_once():
    assert _compile.compiled(double) is _compile.compiled(double)
    assert float(_compile.compiled(double)(1.5)) == 3
