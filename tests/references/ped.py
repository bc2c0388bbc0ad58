"""PED: potential energy decline, followed by SFDA.

References:
  Li, Hu, Ge, Shan and Duan (2023), "Exploring Model Transferability through the Lens of Potential Energy", ICCV,
  https://arxiv.org/abs/2308.15074, section 3; without the rescaling by features of ImageNet.
"""

from __future__ import annotations

import numpy as np

from tests.references.sfda import sfda


def moved(features: np.ndarray, labels: np.ndarray, *, num_sigmas: float = 0.6) -> np.ndarray:
    """Returns the features after the classes have pushed each other apart, pair by pair and step by step."""
    x = np.array(features, np.float64)
    classes = np.unique(labels)
    first = None
    for _ in range(6):
        means = {c: x[labels == c].mean(axis=0) for c in classes}
        radii = {c: num_sigmas * np.sqrt(x[labels == c].var(axis=0).sum()) for c in classes}
        moves = {c: np.zeros(x.shape[1]) for c in classes}
        for a in classes:
            for b in classes:
                distance = np.linalg.norm(means[a] - means[b])
                if a != b and distance > 0:
                    overlap = max(radii[a] + radii[b] - distance, 0.0)
                    moves[a] += 0.5 * 0.1**2 * overlap * (means[a] - means[b]) / distance
        size = sum(np.linalg.norm(move) for move in moves.values())
        first = size if first is None else first
        if not size > 0.5 * first:
            break
        for c in classes:
            x[labels == c] += moves[c]
    return x


def ped(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns SFDA, with its guard, of the moved features."""
    return sfda(moved(features, labels), labels, num_components=len(features) // 10)
