"""How many threads the BLAS library behind JAX's CPU factorisations uses."""

from __future__ import annotations

import contextlib

import jaxlib.lapack  # noqa: F401 - it loads SciPy's BLAS
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

# Above, an eigendecomposition gains from threads more than the spinning costs.
_SMALL = 1024
# Found now, not when first needed: the search calls back from C, where ctrl-C would be lost.
_LIBRARIES = ThreadpoolController()


def threads_for(n: int = 0, d: int = 0) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which small factorisations keep to one thread.

    On CPU, JAX calls SciPy's BLAS library for them. Its threads spin on after every call and take cores from XLA's. The
    limit holds for the whole process until the context ends. Where there is no such library, or JAX runs on an
    accelerator, nothing changes.

    Args:
      n: how many examples; none for a pair without features, which the metrics refuse.
      d: how many features; the matrices have min(n, d) rows.
    """
    if min(n, d) > _SMALL:
        return contextlib.nullcontext()
    return _LIBRARIES.limit(limits=1, user_api="blas")
