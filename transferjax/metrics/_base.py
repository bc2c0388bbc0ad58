"""The metric protocol: what a metric is, how it is found, and how it sees a pair."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transferjax._validate import fail
from transferjax.types import TransferPair

Input = Literal["features", "labels", "logits", "gradients"]
Static = Literal["num_classes", "head"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A transferability score: bigger is better.

    Attributes:
      name: as in tables and flags.
      fn: the pure function: arrays (`inputs`, in this order), then keyword-only hyperparameters, to a scalar.
      inputs: the fields of a `TransferPair` that `fn` takes.
      static: the static fields of a pair that `fn` takes as keywords of the same names.
      stochastic: whether `fn` takes a keyword `rng`, a JAX key.
      jittable: whether `fn` as a whole can be traced; if not, the kernels inside are jit-compiled all the same.
      max_examples: pairs with more examples are scored on a seeded stratified subsample of this size, since time or
        memory grow faster than the number of examples; None if there is no limit.
      range: lower and upper bound of the score.
    """

    name: str
    fn: Callable[..., jax.Array]
    inputs: tuple[Input, ...]
    static: tuple[Static, ...] = ("num_classes",)
    stochastic: bool = False
    jittable: bool = True
    max_examples: int | None = None
    range: tuple[float, float] = (-float("inf"), float("inf"))

    def __call__(self, pair: TransferPair, rng: jax.Array) -> float:
        """Scores a pair.

        Args:
          pair: with all `inputs`.
          rng: a JAX key, the same for all metrics: each folds its own name in, so that adding a metric never moves
            another's numbers.

        Returns:
          The score.

        Raises:
          InputError: the pair lacks an input.
        """
        missing = [name for name in self.inputs if getattr(pair, name) is None]
        if missing:
            raise fail(f"metric {self.name}", f"the pair has no {', '.join(missing)}", "Extract them or leave it out.")
        rng = jax.random.fold_in(rng, zlib.crc32(self.name.encode()))
        pair = self.seen(pair, rng)
        keywords: dict[str, Any] = {name: getattr(pair, name) for name in self.static}
        if self.stochastic:
            keywords["rng"] = rng
        return float(self.fn(*(getattr(pair, name) for name in self.inputs), **keywords))

    def seen(self, pair: TransferPair, rng: jax.Array) -> TransferPair:
        """Returns the pair that `fn` sees: `pair` itself, or its stratified subsample of about `max_examples`."""
        n = len(pair.labels)
        if self.max_examples is None or n <= self.max_examples:
            return pair
        chosen = stratified_subsample(np.asarray(pair.labels), self.max_examples, rng)
        return dataclasses.replace(
            pair,
            features=pair.features[chosen],
            labels=pair.labels[chosen],
            logits=None if pair.logits is None else pair.logits[chosen],
        )


def stratified_subsample(labels: np.ndarray, size: int, rng: jax.Array) -> np.ndarray:
    """Returns about `size` sorted indices in which each class keeps its share, and at least one example."""
    order = np.asarray(jax.random.permutation(rng, len(labels)))
    chosen = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen.append(members[: max(1, round(size * len(members) / len(labels)))])
    return np.sort(np.concatenate(chosen))


@functools.cache
def _modules() -> tuple[str, ...]:
    package = importlib.import_module(__package__ or "")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


@functools.cache
def _presets(module: str) -> dict[str, Metric]:
    loaded = importlib.import_module(f"{__package__}.{module}")
    metrics = getattr(loaded, "METRICS", None) or (loaded.METRIC,)
    return {metric.name: metric for metric in metrics}


def names() -> tuple[str, ...]:
    """Returns the names of all metrics, presets included."""
    return tuple(sorted(name for module in _modules() for name in _presets(module)))


def get(name: str) -> Metric:
    """Returns the metric called `name`; imports its module only.

    Raises:
      InputError: there is none of that name; the message lists all.
    """
    for module in _modules():
        if name.startswith(module) and name in _presets(module):  # a preset's name begins with its module's
            return _presets(module)[name]
    raise fail("metrics", f"{name!r} is unknown", f"Choose from: {', '.join(names())}.")


def score(pair: TransferPair, names: Iterable[str], rng: jax.Array) -> dict[str, float]:
    """Scores a pair by several metrics.

    Args:
      pair: see `transferjax.types.make_pair`.
      names: of the metrics.
      rng: a JAX key (`jax.random.key(seed)`).

    Returns:
      Metric → score, in the order asked for; bigger is better.

    Raises:
      InputError: an unknown name, or a pair without something that a metric needs.
    """
    return {name: metric(pair, rng) for name, metric in {name: get(name) for name in names}.items()}


def probabilities(logits: jax.Array, head: str) -> jax.Array:
    """Returns the source probabilities [n, k], rows summing to 1, in the dtype of the logits.

    Args:
      logits: float [n, k].
      head: `"softmax"`; or `"sigmoid"` for a network trained with binary cross-entropy: each class for itself, then
        divided by the sum over classes.
    """
    if head == "sigmoid":
        # in logarithms, since all sigmoids of a row can underflow together
        return jax.nn.softmax(jax.nn.log_sigmoid(logits), axis=1)
    return jax.nn.softmax(logits, axis=1)


def output_dtype(array: jax.Array) -> jnp.dtype:
    """Returns the dtype of a score computed from `array`: float64 from float64, else float32."""
    return jnp.promote_types(array.dtype, jnp.float32)
