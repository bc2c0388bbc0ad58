"""k nearest neighbours, each example left out of its own."""

from __future__ import annotations

import jax

from transferjax._linalg import neighbor_share
from transferjax.metrics._base import Metric


def knn(features: jax.Array, labels: jax.Array, *, num_classes: int, num_neighbors: int = 5) -> jax.Array:
    """Leave-one-out nearest neighbours in the features as they are: no training, no map, no optimism.

    Invariances: rotation, translation, scaling.

    Args:
      features: float [n, d].
      labels: int [n]; or [n, c] of a multi-label target, where the similarity of label sets (their Jaccard index, see
        `set_similarity`) takes the place of being of the same class.
      num_classes: c; not needed, present because every metric of features and labels takes it.
      num_neighbors: of how many; fewer if there are not so many others.

    Returns:
      Scalar in 0..1: the mean share of the own class among the neighbours; bigger is better.

    References:
      Renggli, Pinto, Rimanic, Puigcerver, Riquelme, Zhang, Lucic, 2022. Which model to transfer? Finding the
      needle in the growing haystack. https://arxiv.org/abs/2010.06402
    """
    del num_classes
    return neighbor_share(features, labels, num_neighbors=num_neighbors)


METRIC = Metric(
    name="knn",
    fn=knn,
    inputs=("features", "labels"),
    range=(0.0, 1.0),
    multilabel="sets",
    invariances=frozenset({"rotation", "translation", "scaling"}),
)
