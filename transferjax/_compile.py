"""How programs that run networks are compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# On CPU. Convolutions by Eigen instead of YNN: of networks' forward passes worth up to a third with jax 0.10. And
# everything is computed when it is needed, not as early as it can be: that takes twice the memory, fresh at every call,
# and few cores gain nothing from having much to choose from.
_FOR_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Returns what to tell XLA of this backend, without what it does not know, as in other versions."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _FOR_CPU.items() if _is_known(name, value)}


def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(jnp.float32(0)).compile()
    except (RuntimeError, ValueError):
        return False
    return True


@functools.cache
def compiled(fn: Callable[..., Any], static_argnames: Sequence[str] = ()) -> Callable[..., Any]:
    """Returns `jax.jit` of a function with these options, when first asked for: importing starts no backend.

    Args:
      fn: a function of a module, so that it is compiled once.
      static_argnames: a tuple, see `jax.jit`.
    """
    return jax.jit(fn, static_argnames=tuple(static_argnames), compiler_options=compiler_options())
