"""The few types that all parts share: a target, a source, their pair, and a table of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from transferjax._lazy import LazyImages
from transferjax._validate import fail, one_of

if TYPE_CHECKING:
    from flax import linen as nn

Task = Literal["multiclass", "binary", "multilabel"]
Head = Literal["softmax", "sigmoid"]
ChannelOrder = Literal["rgb", "bgr"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetDataset:
    """Labelled images of the data set for which a source is wanted: on the host, one split.

    Attributes:
      name: what tables and plots call it.
      images: uint8 [n, h, w, 3]; or `LazyImages` of this shape, which are read when their rows are asked for.
      labels: int32 [n] in 0..c-1; for a multi-label task int8 [n, c] with -1 for a missing label.
      class_names: one name per class; their number is c.
      task: `"binary"` is a multi-class task with two classes.
      groups: int32 [n], equal for what must not be torn apart, such as the images of one patient; None if unknown.
    """

    name: str
    images: np.ndarray | LazyImages
    labels: np.ndarray
    class_names: tuple[str, ...]
    task: Task = "multiclass"
    groups: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes c."""
        return len(self.class_names)

    def __len__(self) -> int:
        """The number of examples n."""
        return len(self.images)

    def take(self, indices: np.ndarray) -> TargetDataset:
        """Returns the data set of these examples, in the order given."""
        images = self.images.take(indices) if isinstance(self.images, LazyImages) else self.images[indices]
        groups = None if self.groups is None else self.groups[indices]
        return dataclasses.replace(self, images=images, labels=self.labels[indices], groups=groups)


class ModelOutput(NamedTuple):
    """What every network returns.

    Attributes:
      logits: float [b, k], the head's outputs before softmax or sigmoid.
      features: float [b, d], exactly the input of the head.
    """

    logits: jax.Array
    features: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalization:
    """How a source wants its images: `(image / 255 - mean) / std`, per channel, and what is done before.

    Another range of values is another mean and std: for -1..1 both are .5, for 0..255 they are 0 and 1/255.

    Attributes:
      mean: of the channels in the order in which the network takes them, in the range 0..1.
      std: likewise.
      channel_order: in which order the network takes red, green and blue.
      grey: whether colours are replaced by their luminance, for networks trained on grey images.
      size: height and width to bring images to (bilinear, antialiased); None to take them as they are.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: ChannelOrder = dataclasses.field(default="rgb", metadata={"static": True})
    grey: bool = dataclasses.field(default=False, metadata={"static": True})
    size: int | None = dataclasses.field(default=None, metadata={"static": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceModel:
    """A pretrained network: a candidate for fine-tuning.

    Attributes:
      name: what tables and plots call it.
      architecture: as in `transferjax.models.get`.
      options: of the architecture, e.g. `width`, as far as they differ from its defaults.
      module: the Flax module; `module.apply(variables, images)` gives a `ModelOutput`.
      variables: its parameters and BatchNorm statistics, float32.
      first_two_kernels: paths in `variables["params"]` of the two convolution kernels whose gradients are taken.
      head_path: path in `variables["params"]` of the head: what makes logits of the features. Weights without a head
        have nothing there.
      normalization: how the images are scaled.
      head: whether its logits go through a softmax or, after training with binary cross-entropy, a sigmoid.
      weights_hash: SHA-256 over names, shapes and bytes of all variables.
      origin: where the weights came from: a path, a URL, or how they were made.
      num_train_examples: how many images it was trained on, if known.
      imagenet_accuracy: top-1 accuracy on ImageNet, 0..1, if it was trained there.
    """

    name: str
    architecture: str
    options: Mapping[str, int]
    module: nn.Module
    variables: Mapping[str, Any]
    first_two_kernels: tuple[tuple[str, ...], tuple[str, ...]]
    head_path: tuple[str, ...]
    normalization: Normalization = Normalization()
    head: Head = "softmax"
    weights_hash: str = ""
    origin: str = ""
    num_train_examples: int | None = None
    imagenet_accuracy: float | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientStats:
    """Norms of the gradients of the l chosen kernels; never the gradients themselves.

    Attributes:
      batch_norms: float32 [batches, l], the Frobenius norm of each batch loss's gradient.
    """

    batch_norms: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleGradientStats:
    """What is known of the examples' shares of the batch losses' gradients at the l chosen kernels.

    Attributes:
      norms: float32 [n, l], Frobenius norms.
      signal_to_noise: float32 [batches, l], see `transferjax.gradients.statistics.signal_to_noise`.
      alignment: float32 [batches, l, 2], mean cosines within and between classes, see `statistics.alignment` there; or
        None for a multi-label target, which has no classes.
    """

    norms: jax.Array
    signal_to_noise: jax.Array
    alignment: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferPair:
    """What a source makes of a target: all that the metrics see. Build it with `make_pair`, which checks values.

    Attributes:
      features: float [n, d].
      labels: int32 [n] in 0..c-1; for a multi-label target int32 [n, c] of 0, 1 and -1 for a missing label.
      logits: float [n, k], or None if the source has no head.
      gradients: of the batches; or None if they were not asked for.
      example_gradients: by example; or None if they were not asked for.
      num_classes: c; static.
      max_class_size: no class has more examples than this; static, since it is the size of what a kernel holds of one
        class. `class_size_bound` gives it; that of a pair is good for all parts of it that keep the classes.
      head: how logits become probabilities; static.
    """

    features: jax.Array
    labels: jax.Array
    logits: jax.Array | None = None
    gradients: GradientStats | None = None
    example_gradients: ExampleGradientStats | None = None
    num_classes: int = dataclasses.field(metadata={"static": True})
    max_class_size: int = dataclasses.field(metadata={"static": True})
    head: Head = dataclasses.field(default="softmax", metadata={"static": True})

    @property
    def multilabel(self) -> bool:
        """Whether an example can have several labels, or none."""
        return self.labels.ndim == 2

    def take(self, rows: Any) -> TransferPair:
        """Returns the pair of these examples, in the order given; what is known of batches stays whole."""
        changed: dict[str, Any] = {"features": self.features[rows], "labels": self.labels[rows]}
        if self.logits is not None:
            changed["logits"] = self.logits[rows]
        if (stats := self.example_gradients) is not None:
            changed["example_gradients"] = dataclasses.replace(stats, norms=stats.norms[rows])
        return dataclasses.replace(self, **changed)


def make_pair(
    features: Any,
    labels: Any,
    *,
    num_classes: int,
    logits: Any = None,
    gradients: GradientStats | None = None,
    example_gradients: ExampleGradientStats | None = None,
    head: Head = "softmax",
) -> TransferPair:
    """Builds a pair from arrays and checks, once, what the metrics rely on.

    Args:
      features: float [n, d].
      labels: whole numbers [n] in 0..num_classes-1; or [n, num_classes] of 0, 1 and -1 for a missing label.
      num_classes: c, at least 2; 1 will do for a multi-label target.
      logits: float [n, k].
      gradients: norms taken on the same examples.
      example_gradients: likewise.
      head: `"softmax"` or `"sigmoid"`.

    Returns:
      The pair, its arrays on the device; half-precision floats are widened to float32.

    Raises:
      InputError: a shape, a dtype or a value is off; the message names it.
    """
    one_of("head", head, ["softmax", "sigmoid"])
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or not jnp.issubdtype(features.dtype, jnp.floating):
        raise fail("features", f"shape {features.shape}, {features.dtype}", "Give floats of shape [n, d].")
    n = len(features)
    if n == 0 or features.shape[1] == 0:
        raise fail("features", f"shape {features.shape} is empty", "Give at least one example and one feature.")
    _check_labels(labels, n, num_classes)
    features = _at_least_float32(features)
    arrays = {"features": features}
    if logits is not None:
        logits = np.asarray(logits)
        if logits.ndim != 2 or len(logits) != n or not jnp.issubdtype(logits.dtype, jnp.floating):
            raise fail("logits", f"shape {logits.shape}, {logits.dtype}", f"Give floats of shape [{n}, k].")
        logits = arrays["logits"] = _at_least_float32(logits)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0, 0])
            raise fail(name, f"not finite at example {row}", "Check the weights and the image of that example.")
    return TransferPair(
        features=jnp.asarray(features),
        labels=jnp.asarray(labels, dtype=np.int32),
        logits=None if logits is None else jnp.asarray(logits),
        gradients=gradients,
        example_gradients=example_gradients,
        num_classes=num_classes,
        max_class_size=class_size_bound(labels),
        head=head,
    )


def class_size_bound(labels: np.ndarray) -> int:
    """Returns at most how many examples a class has: the largest class's size or, rounded up, up to an eighth more.

    Rounded, since it is part of compiled programs, so that one example more or less compiles nothing again.

    Args:
      labels: int [n]; or [n, c] of a multi-label target, whose bound is n.
    """
    n = len(labels)
    size = n if labels.ndim == 2 else int(np.bincount(labels).max())
    step = 2 ** max(0, size.bit_length() - 4)
    return min(n, -(-size // step) * step)


def _check_labels(labels: np.ndarray, n: int, num_classes: int) -> None:
    """Raises unless the labels are [n] in 0..c-1, or [n, c] of -1, 0 and 1."""
    multilabel = labels.ndim == 2
    if num_classes < (1 if multilabel else 2):
        raise fail("num_classes", f"{num_classes}", "A target needs at least two classes, or one label.")
    if labels.shape not in ((n,), (n, num_classes)) or not np.issubdtype(labels.dtype, np.integer):
        remedy = f"Give whole numbers of shape [{n}], or [{n}, {num_classes}] if an example can have several labels."
        raise fail("labels", f"shape {labels.shape}, {labels.dtype}", remedy)
    low, high = (-1, 1) if multilabel else (0, num_classes - 1)
    if labels.min() < low or labels.max() > high:
        meaning = "0, 1, or -1 for a missing label" if multilabel else f"0..{high}, with num_classes={num_classes}"
        raise fail("labels", f"{labels.min()}..{labels.max()}", f"They have to be {meaning}.")


def _at_least_float32(array: np.ndarray) -> np.ndarray:
    """Widens half precision: neighbours and evidence need more digits than it has."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


SCORE_COLUMNS = ("source", "target", "metric", "score", "rank", "lower", "upper")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores of candidate sources for targets, tidy: one row per source, target and metric.

    Attributes:
      rows: columns `source, target, metric, score, rank, lower, upper`. Bigger scores are better; rank 1 is the best
        source of its target by its metric, equal scores share the smaller rank; `lower` and `upper` bound the score
        where an interval was computed and are missing otherwise.
      details: what else is known of how the table was made: versions, seeds, hashes, timings.
    """

    rows: pd.DataFrame
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def wide(self, target: str | None = None) -> pd.DataFrame:
        """Returns sources × metrics of one target, best source by the first metric first.

        Raises:
          InputError: the table holds several targets and none is named, or not the one named.
        """
        targets = list(dict.fromkeys(self.rows["target"]))
        if target is None and len(targets) == 1:
            target = targets[0]
        if target not in targets:
            raise fail("target", f"{target!r}", f"Name one of: {', '.join(targets)}.")
        rows = self.rows[self.rows["target"] == target]
        metrics = list(dict.fromkeys(rows["metric"]))
        table = rows.pivot(index="source", columns="metric", values="score")[metrics]
        order = rows[rows["metric"] == metrics[0]].sort_values("rank", kind="stable")["source"]
        return table.loc[list(order)].rename_axis(columns=None)
