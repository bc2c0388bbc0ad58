"""How many threads the BLAS library behind JAX's CPU factorisations uses."""

from __future__ import annotations

import contextlib
import functools

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

# Two threads save a quarter of the time of an eigendecomposition of this size, and a third of one twice as large
# (two cores, OpenBLAS 0.3.30).
_SMALL = 1024


def threads_for(n: int, d: int) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which small factorisations keep to one thread.

    On CPU, JAX calls SciPy's BLAS library for them. Its threads spin on after every call and take cores from XLA's:
    all metrics together take .7 to .9 of the time with one thread (1100 examples, 512 features, 11 classes; two cores),
    and where other processes run, single calls no longer stall for seconds. The limit holds for the whole process until
    the context ends. Where there is no such library, or JAX runs on an accelerator, nothing changes.

    Args:
      n: how many examples.
      d: how many features; the matrices have min(n, d) rows.
    """
    if min(n, d) > _SMALL:
        return contextlib.nullcontext()
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # finds the loaded ones: JAX loads its own when it is imported
