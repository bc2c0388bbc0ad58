"""The triplet margin loss over all triples of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transferjax._sets import set_overlap

MARGIN = 0.05
_ELEMENTS = 2**20  # of the temporaries of the anchors that are taken at once, if one of them does not need more


def triplet_loss(features: jax.Array, labels: jax.Array, *, margin: float = MARGIN) -> jax.Array:
    """Mean over all (anchor, positive, negative) triples of a batch whose loss is above zero.

    The loss of a triple is D(anchor, positive) - D(anchor, negative) + margin, with D the euclidean distance of
    L2-normalised features. Distances are taken from differences, not from inner products, so that those of nearly equal
    images keep their digits; the derivative of a distance at 0 is 0 (identical images occur).

    The positive is another example of the anchor's class, the negative one of another class. For a multi-label target,
    which the paper does not treat, the positive is any other example whose label set is more like the anchor's than the
    negative's is, by the Jaccard index over the labels known for both (`set_similarity`; two sets without any label are
    the same). Every such triple counts alike, however much more alike it is; an example that has no known label in
    common with the anchor is neither. Where all examples have exactly one of the c labels, or where there is only one
    label, to have or not to have, these are the triples of classes.

    Args:
      features: float [b, d].
      labels: int [b]; or [b, c] of a multi-label target: 0, 1, and -1 for a missing label.
      margin: see above.

    Returns:
      Scalar >= 0; 0 if no triple has a loss, in particular if the batch has one class (one label set) only. Works in
      chunks of anchors: O(b²·(b+d)) operations, with several labels O(b²·(b+d+c)); O(b·(b+d)) memory.

    References:
      Juodelyte, Ferrante, Lu, Singh, Vanschoren, Cheplygina, 2024. On dataset transferability in medical image
      classification. https://arxiv.org/abs/2412.20172
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    b, d = features.shape
    norms = jnp.sqrt(_positive(jnp.sum(features**2, axis=1, keepdims=True)))
    unit = features / jnp.maximum(norms, 1e-12)
    per_pair = d if labels.ndim == 1 else d + labels.shape[1]

    @jax.checkpoint  # backwards, a chunk's differences are computed again instead of being kept
    def of_anchor(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        squares = jnp.sum((unit[index] - unit) ** 2, axis=1)
        distances = jnp.where(squares > 0, jnp.sqrt(_positive(squares)), 0)
        if labels.ndim == 1:
            same = labels == labels[index]
            more_alike = same[:, None] & ~same
        else:
            more_alike = _more_alike(labels[index], labels)
        losses = distances[:, None] - distances + margin
        counted = (jnp.arange(b) != index)[:, None] & more_alike & (losses > 0)
        return jnp.sum(jnp.where(counted, losses, 0)), jnp.sum(counted, dtype=losses.dtype)  # b³ is too much for int32

    anchors = max(1, min(b, _ELEMENTS // (b * (b + per_pair))))
    losses, counts = jax.lax.map(of_anchor, jnp.arange(b), batch_size=anchors)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(counts), 1)


def _more_alike(anchor: jax.Array, others: jax.Array) -> jax.Array:
    """Returns bool [b, b]: whether label set i of `others` [b, c] is more like the anchor's [c] than label set j is."""
    both, either = set_overlap(anchor, others)
    comparable = jnp.any((anchor >= 0) & (others >= 0), axis=-1)
    more = both[:, None] * either > both * either[:, None]  # of whole numbers: equal fractions are equal
    return more & comparable[:, None] & comparable


def _positive(squares: jax.Array) -> jax.Array:
    """Replaces zeros by ones: the root of what is masked out must still have a finite derivative."""
    return jnp.where(squares > 0, squares, 1)
