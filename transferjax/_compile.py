"""How programs that run networks are compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# On CPU, convolutions by Eigen instead of YNN: of networks' forward passes worth up to a third with jax 0.10.
_FOR_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Returns what to tell XLA of this backend; nothing where it does not know it, as in other versions."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_FOR_CPU).lower(jnp.float32(0)).compile()
    except (RuntimeError, ValueError):
        return {}
    return _FOR_CPU


@functools.cache
def compiled(fn: Callable[..., Any], static_argnames: Sequence[str] = ()) -> Callable[..., Any]:
    """Returns `jax.jit` of a function with these options, when first asked for: importing starts no backend.

    Args:
      fn: a function of a module, so that it is compiled once.
      static_argnames: a tuple, see `jax.jit`.
    """
    return jax.jit(fn, static_argnames=tuple(static_argnames), compiler_options=compiler_options())
