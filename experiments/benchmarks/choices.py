"""What the design choices in the metrics rest on, each against its alternative in one run.

Speed is shown as a ratio against the alternative or against scikit-learn, best of several repeats, compiled beforehand;
accuracy as the difference from float64. Nothing is written.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis

from transferjax._linalg import mirrored, neighbor_share, principal_axes, smallest, upper_products
from transferjax.metrics.feature_quality import feature_quality, nca_loss_and_gradient


def seconds(fn: Callable[[], object], repeats: int) -> float:
    """Returns the shortest of `repeats` runs, after one that compiles."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return min(times[1:])


def interleaved(fns: tuple[Callable[[], object], ...], rounds: int) -> list[float]:
    """Returns the shortest time of each in `rounds` rounds, in turn, so that what else runs hits all alike."""
    times = [[seconds(fn, 1) for fn in fns] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def clusters(n: int, d: int, c: int, spread: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Made-up features as after a ReLU, float32 [n, d], and labels [n]: c centres with noise around them."""
    labels = np.arange(n) % c
    centres = 2 * np.maximum(rng.standard_normal((c, d)), 0)
    return np.maximum(centres[labels] + spread * rng.standard_normal((n, d)), 0).astype(np.float32), labels


def automatic(transform: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of `nca_loss_and_gradient` for automatic differentiation."""
    mapped = jnp.matmul(features, transform.T, precision="highest")
    squares = jnp.sum(mapped**2, axis=1)
    distances = squares[:, None] + squares - 2 * jnp.matmul(mapped, mapped.T, precision="highest")
    picks = jax.nn.softmax(jnp.where(jnp.eye(len(mapped), dtype=bool), -jnp.inf, -distances), axis=1)
    return -jnp.sum(jnp.where(labels[:, None] == labels, picks, 0))


def nca_speed(rng: np.random.Generator) -> None:
    """The written-out gradient against the automatic one, and feature_quality against scikit-learn's."""
    features, labels = clusters(1100, 512, 11, 10.0, rng)
    with jax.enable_x64(True):
        wide, classes = jnp.asarray(features, jnp.float64), jnp.asarray(labels)
        centred = wide - wide.mean(axis=0)
        arguments = (principal_axes(centred, 50), centred, classes)
        written = seconds(functools.partial(nca_loss_and_gradient, *arguments), 20)
        derived = seconds(functools.partial(jax.jit(jax.value_and_grad(automatic)), *arguments), 20)
    print(f"NCA gradient, n=1100, d=512: written {1e3 * written:.1f} ms, automatic {1e3 * derived:.1f} ms,", end=" ")
    print(f"ratio {written / derived:.2f}")
    ours = seconds(lambda: feature_quality(jnp.asarray(features), jnp.asarray(labels), num_classes=11), 2)

    def scikit_learn() -> float:
        model = NeighborhoodComponentsAnalysis(50, init="pca", max_iter=50, tol=1e-5, random_state=0)
        mapped = model.fit_transform(features.astype(np.float64), labels)
        shares = KNeighborsClassifier(5).fit(mapped, labels).predict_proba(mapped)
        return float(shares[np.arange(len(labels)), labels].mean())

    theirs = seconds(scikit_learn, 1)
    print(f"feature_quality, the same data: {ours:.2f} s, scikit-learn {theirs:.2f} s, ratio {ours / theirs:.2f}")


def residual_digits(rng: np.random.Generator) -> None:
    """What a linear model leaves over, from a Gram matrix in float32 and in float64: logme needs its logarithm."""
    for spread in (1e-1, 1e-2, 1e-3):
        features, labels = clusters(300, 128, 3, spread, rng)
        target = (labels == 0).astype(np.float64)
        exact = np.linalg.lstsq(features.astype(np.float64), target, rcond=None)[1][0]
        left = []
        for dtype in (np.float32, np.float64):
            x: np.ndarray = features.astype(dtype)
            gram, cross = np.asarray(x.T @ x, np.float64), np.asarray(x.T @ target.astype(dtype), np.float64)
            values, vectors = np.linalg.eigh(gram)
            kept = values > values[-1] * np.finfo(np.float64).eps * len(values)
            left.append(target @ target - np.sum((vectors[:, kept].T @ cross) ** 2 / values[kept]))
        print(
            f"squared residual, spread {spread:g}: float32 Gram {left[0]:.3g}, float64 {left[1]:.3g}, exact {exact:.3g}"
        )


def neighbor_digits(rng: np.random.Generator) -> None:
    """Neighbours within four groups that lie far apart: distances from inner products in float32 and in float64."""
    labels, group = np.arange(200) % 2, np.repeat(np.arange(4), 50)
    offsets, direction = 30 * rng.standard_normal((4, 64)), rng.standard_normal(64)
    noise = 1e-3 * rng.standard_normal((200, 64))
    points = (offsets[group] + 0.005 * labels[:, None] * direction + noise).astype(np.float32)
    narrow = points - points.mean(axis=0)
    distances = (narrow**2).sum(axis=1) - 2 * narrow @ narrow.T
    np.fill_diagonal(distances, np.inf)
    share = (labels[np.argsort(distances, axis=1)[:, :5]] == labels[:, None]).mean()
    ours = float(neighbor_share(jnp.asarray(points), jnp.asarray(labels)))
    print(f"share of the own class among 5 neighbours: float32 {share:.2f}, float64 {ours:.2f}")


def product_speed(rng: np.random.Generator) -> None:
    """The product of a chunk of float64 rows with itself: in strips, as one, and NumPy's, which does half the work."""
    for n, r in ((1100, 512), (2048, 2048)):
        rows = rng.standard_normal((n, r))
        with jax.enable_x64(True):
            wide = jnp.asarray(rows)
            in_strips = jax.jit(upper_products, static_argnames="num_strips")
            whole = jax.jit(mirrored)
            strips = in_strips(wide)
            fns = (
                functools.partial(in_strips, wide),
                functools.partial(in_strips, wide, num_strips=1),
                functools.partial(whole, strips),
                functools.partial(np.matmul, rows.T, rows),
            )
            times = [1e3 * time for time in interleaved(fns, 10)]
        print(f"float64 product, n={n}, r={r}: strips {times[0]:.1f} ms, one product {times[1]:.1f} ms,", end=" ")
        print(f"ratio {times[0] / times[1]:.2f}; mirrored, once for all chunks, {times[2]:.1f} ms;", end=" ")
        print(f"NumPy {times[3]:.1f} ms")


def selection_speed(rng: np.random.Generator) -> None:
    """The five smallest of each row against `jax.lax.top_k`."""
    with jax.enable_x64(True):
        values = jnp.asarray(rng.standard_normal((1104, 1104)))
        ours = functools.partial(jax.jit(smallest, static_argnums=1), values, 5)
        theirs = functools.partial(jax.jit(lambda values: jax.lax.top_k(-values, 5)[1]), values)
        times = interleaved((ours, theirs), 5)
    print(f"5 smallest of each row, n=1104: {1e3 * times[0]:.1f} ms, top_k {1e3 * times[1]:.1f} ms,", end=" ")
    print(f"ratio {times[0] / times[1]:.3f}")


def run() -> None:
    """Runs the suite."""
    rng = np.random.default_rng(0)
    for measure in (nca_speed, product_speed, selection_speed, residual_digits, neighbor_digits):
        measure(rng)
