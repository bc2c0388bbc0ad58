"""Neighbourhood Components Analysis: the objective, its gradient, and the scores of given maps.

References:
  Goldberger, Hinton, Roweis and Salakhutdinov (2004), "Neighbourhood Components Analysis", NeurIPS, equations 1 to 5,
  https://papers.nips.cc/paper/2566-neighbourhood-components-analysis; Juodelyte et al. (2024),
  https://arxiv.org/abs/2412.20172 (the score: 5 neighbours in the mapped space, the example itself being one).
"""

from __future__ import annotations

import math

import numpy as np

from tests.references.knn import neighbor_share


def neighbor_probabilities(a: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns p_ij = exp(-|A x_i - A x_j|^2) / sum_{k != i} exp(-|A x_i - A x_k|^2), p_ii = 0: [n, n]."""
    mapped = [np.asarray(a, np.float64) @ x for x in np.asarray(features, np.float64)]
    n = len(mapped)
    p = np.zeros((n, n))
    for i in range(n):
        distances = {j: float(((mapped[i] - mapped[j]) ** 2).sum()) for j in range(n) if j != i}
        smallest = min(distances.values())  # cancels; keeps exp from being 0 everywhere
        weights = {j: math.exp(smallest - distance) for j, distance in distances.items()}
        for j, weight in weights.items():
            p[i, j] = weight / sum(weights.values())
    return p


def objective(a: np.ndarray, features: np.ndarray, labels: np.ndarray) -> float:
    """Returns sum_i p_i, where p_i is the sum of p_ij over the j of i's class: what NCA maximises.

    Args:
      a: the map A, [m, d].
      features: [n, d].
      labels: whole numbers [n].
    """
    p = neighbor_probabilities(a, features)
    n = len(p)
    return float(sum(p[i, j] for i in range(n) for j in range(n) if labels[i] == labels[j]))


def gradient(a: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the gradient of the objective with respect to A, [m, d], pair by pair.

    2 A sum_i (p_i sum_k p_ik x_ik x_ik^T - sum_{j in C_i} p_ij x_ij x_ij^T) with x_ij = x_i - x_j.
    """
    a, x = np.asarray(a, np.float64), np.asarray(features, np.float64)
    p = neighbor_probabilities(a, x)
    n, d = x.shape
    total = np.zeros((d, d))
    for i in range(n):
        p_i = sum(p[i, j] for j in range(n) if labels[j] == labels[i])
        for k in range(n):
            outer = np.outer(x[i] - x[k], x[i] - x[k])
            total += p_i * p[i, k] * outer
            if labels[k] == labels[i]:
                total -= p[i, k] * outer
    return 2 * a @ total


def score(a: np.ndarray, features: np.ndarray, labels: np.ndarray, *, include_self: bool = True) -> float:
    """Returns the mean share of the true class among the 5 nearest neighbours in the space that A maps to."""
    mapped = np.array([np.asarray(a, np.float64) @ x for x in np.asarray(features, np.float64)])
    return neighbor_share(mapped, labels, k=5, include_self=include_self)


def folds(features: np.ndarray, labels: np.ndarray, *, num_folds: int = 5) -> list[int]:
    """Returns the fold of each example: cards are dealt class by class, in a class from near the mean to far from it.

    The smallest class comes first, of equally large ones that with the example nearest to the mean.
    """
    x = np.asarray(features, np.float64)
    centre = x.mean(axis=0)
    distance = [float(((row - centre) ** 2).sum()) for row in x]
    members = {label: sorted(np.flatnonzero(labels == label), key=distance.__getitem__) for label in set(labels)}
    classes = sorted(members, key=lambda label: (len(members[label]), distance[members[label][0]]))
    deck = [example for label in classes for example in members[label]]
    fold = [0] * len(x)
    for place, example in enumerate(deck):
        fold[example] = place % num_folds
    return fold


def cross_fitted_score(maps: list[np.ndarray], fold: list[int], features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean share of the true class among the 5 nearest neighbours out of the other folds.

    Args:
      maps: for each fold the map [m, d] that was fitted to the examples of the others.
      fold: of each example.
      features: [n, d].
      labels: whole numbers [n].
    """
    x = np.asarray(features, np.float64)
    shares = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if fold[j] != fold[i]]
        others.sort(key=lambda j: float(((maps[fold[i]] @ (x[i] - x[j])) ** 2).sum()))
        nearest = others[:5]
        shares.append(sum(labels[j] == labels[i] for j in nearest) / len(nearest))
    return float(np.mean(shares))
