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

from transferjax._threads import threads_for
from transferjax._validate import fail
from transferjax.metrics._view import Share, View, label_views
from transferjax.types import TransferPair

Input = Literal["features", "labels", "logits", "gradients", "example_gradients"]
Static = Literal["num_classes", "max_class_size", "head"]
Multilabel = Literal["per_label", "columns", "sets", "refused"]
Resampling = Literal["bootstrap", "half", "batches"]
Invariance = Literal["rotation", "translation", "scaling"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A transferability score: bigger is better.

    Attributes:
      name: as in tables and flags.
      fn: the pure function: arrays (`inputs`, in this order), then keyword-only hyperparameters, to a scalar.
      inputs: the fields of a `TransferPair` that `fn` takes.
      static: the static fields of a pair that `fn` takes as keywords of the same names.
      shares: what `fn` takes as keywords of the same names, default None, if it was computed for another metric before;
        given None, `fn` computes it itself. See `View`.
      stochastic: whether `fn` takes a keyword `rng`, a JAX key.
      jittable: whether `fn` as a whole can be traced; if not, the kernels inside are jit-compiled all the same.
      max_examples: pairs with more examples are scored on a seeded stratified subsample of this size, since time or
        memory grow faster than the number of examples; None if there is no limit.
      range: lower and upper bound of the score.
      multilabel: what is done for a multi-label target. `"per_label"`: each label is a binary target, scored on the
        examples where it is known; the mean over the labels that have both values. `"columns"`: `fn` takes labels
        [n, c] of 0 and 1 and gives the mean over the columns; labels known for different examples are given to it
        separately. `"sets"`: `fn` takes labels [n, c] with -1 for a missing one, and compares sets. `"refused"`: an
        error that names the metric. A metric without labels among its inputs is not concerned.
      resampling: how its uncertainty is estimated, see `bootstrap`. `"bootstrap"`: resampling with replacement.
        `"half"`: halves without replacement, for scores that examples occurring twice bias (whose neighbour is their
        own copy). `"batches"`: it sees what is known of the gradients of batches, which are resampled.
      invariances: changes of the features that leave the score as it is, as its definition implies: `"rotation"` (and
        reflection), `"translation"`, `"scaling"` of all by one factor.
    """

    name: str
    fn: Callable[..., jax.Array]
    inputs: tuple[Input, ...]
    static: tuple[Static, ...] = ("num_classes",)
    shares: tuple[Share, ...] = ()
    stochastic: bool = False
    jittable: bool = True
    max_examples: int | None = None
    range: tuple[float, float] = (-float("inf"), float("inf"))
    multilabel: Multilabel = "per_label"
    resampling: Resampling = "half"
    invariances: frozenset[Invariance] = frozenset()

    def __call__(self, pair: TransferPair | View, rng: jax.Array) -> float:
        """Scores a pair.

        Args:
          pair: with all `inputs`; or a `View` of it, which keeps for other metrics what they share.
          rng: a JAX key, the same for all metrics: each folds its own name in, so that adding a metric never moves
            another's numbers.

        Returns:
          The score.

        Raises:
          InputError: the pair lacks an input, has examples of one class only, is multi-label and the metric cannot do
            that; or the score is not finite.
        """
        view = pair if isinstance(pair, View) else View(pair)
        self.check(view.pair)
        rng = jax.random.fold_in(rng, zlib.crc32(self.name.encode()))
        with jax.enable_x64(True):  # of what metrics share, much is float64, which JAX would narrow outside this scope
            view = self.seen(view, rng)
            if not view.pair.multilabel or "labels" not in self.inputs or self.multilabel == "sets":
                value = float(self.traced(view, rng))
            else:
                value = self.over_labels(view, rng)
        if not np.isfinite(value):
            remedy = "Leave it out for this source, and please report this."
            raise fail(f"metric {self.name}", f"its score is {value}", remedy)
        return value

    def check(self, pair: TransferPair) -> None:
        """Raises `InputError` if the pair is not one that this metric can score."""
        missing = [name for name in self.inputs if getattr(pair, name) is None]
        if missing:
            raise fail(f"metric {self.name}", f"the pair has no {', '.join(missing)}", "Extract them or leave it out.")
        self.check_labels(np.asarray(pair.labels))

    def check_labels(self, labels: np.ndarray) -> None:
        """Raises `InputError` if the labels, [n] or [n, c], are not those of a target that this metric can score."""
        if "labels" not in self.inputs:
            return
        multilabel = labels.ndim == 2
        if multilabel and self.multilabel == "refused":
            remedy = "Leave it out, or take a metric that the README's table has for several labels."
            raise fail(f"metric {self.name}", "it is not defined for multi-label targets", remedy)
        if multilabel and not ((labels == 0).any(axis=0) & (labels == 1).any(axis=0)).any():
            raise fail("labels", "no label has examples with and without it", "Take more examples.")
        if not multilabel and (labels == labels[0]).all():
            found = f"all {len(labels)} examples are of class {labels[0]}"
            raise fail("labels", found, f"Metric {self.name} needs examples of two classes at least.")

    def traced(self, view: View, rng: jax.Array) -> jax.Array:
        """Returns the score as a scalar array; for all metrics that are `jittable`, also inside a trace.

        Args:
          view: of a pair that is not multi-label, or in a form that `fn` takes.
          rng: the metric's own key.
        """
        keywords: dict[str, Any] = {name: getattr(view.pair, name) for name in self.static}
        keywords |= {name: getattr(view, name) for name in self.shares}
        if self.stochastic:
            keywords["rng"] = rng
        return self.fn(*(getattr(view.pair, name) for name in self.inputs), **keywords)

    def over_labels(self, view: View, rng: jax.Array) -> float:
        """Returns the mean over the labels of a multi-label target."""
        total, count = 0.0, 0
        for part, size in label_views(view, columns=self.multilabel == "columns"):
            total += size * float(self.traced(part, rng))
            count += size
        return total / count

    def seen(self, view: View, rng: jax.Array) -> View:
        """Returns what `fn` sees: `view` itself, or that of its stratified subsample of about `max_examples`."""
        labels = view.pair.labels
        if self.max_examples is None or len(labels) <= self.max_examples:
            return view
        rows = stratified_subsample(np.asarray(labels), self.max_examples, rng)
        needed = view.pair if "logits" in self.inputs else dataclasses.replace(view.pair, logits=None)
        return View(needed.take(rows))


def stratified_subsample(labels: np.ndarray, size: int, rng: jax.Array) -> np.ndarray:
    """Returns about `size` sorted indices in which each class keeps its share, and at least one example.

    Of a multi-label target, labels [n, c], the sample is a plain random one.
    """
    order = np.asarray(jax.random.permutation(rng, len(labels)))
    if labels.ndim == 2:
        return np.sort(order[:size])
    chosen = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen.append(members[: max(1, round(size * len(members) / len(labels)))])
    return np.sort(np.concatenate(chosen))


# Scores that several metrics make together, once these are scaled over the candidates (`transferjax.combine`).
OVER_CANDIDATES = {
    "ncti": ("ncti_seli", "ncti_ncc", "ncti_vc"),
    "ncti_published": ("ncti_seli_published", "ncti_ncc_published", "ncti_vc_published"),
}


@functools.cache
def _modules() -> tuple[str, ...]:
    package = importlib.import_module(__package__ or "")
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    return tuple(sorted(name for name in found if name != "bootstrap"))


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
    if name in OVER_CANDIDATES:
        remedy = f"Ask rank_sources for it, or score {', '.join(OVER_CANDIDATES[name])} and combine them."
        raise fail("metrics", f"{name!r} is scaled over several candidates, one pair has no such score", remedy)
    for module in _modules():
        if name.startswith(module) and name in _presets(module):  # a preset's name begins with its module's
            return _presets(module)[name]
    raise fail("metrics", f"{name!r} is unknown", f"Choose from: {', '.join(names())}.")


def score(pair: TransferPair, names: Iterable[str], rng: jax.Array) -> dict[str, float]:
    """Scores a pair by several metrics; what several of them need is computed once.

    Args:
      pair: see `transferjax.types.make_pair`.
      names: of the metrics.
      rng: a JAX key (`jax.random.key(seed)`).

    Returns:
      Metric → score, in the order asked for; bigger is better, never NaN.

    Raises:
      InputError: an unknown name, a pair without something that a metric needs, or a score that is not finite.
    """
    chosen = {name: get(name) for name in names}
    view = View(pair)
    with threads_for(*np.shape(pair.features)):
        return {name: metric(view, rng) for name, metric in chosen.items()}


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
