"""Measurements of the suites `gradients` and `cell`, in a process of their own.

    python -m experiments.benchmarks.gradient_cases <seconds> <variant>:<size>x<batch> ...

Prints one line of JSON for each, one after the other.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import models
from transferjax._compile import compiler_options
from transferjax.extraction import extract
from transferjax.gradients import example_norms, kernel_gradients, triplet_loss
from transferjax.metrics import score
from transferjax.ranking import DEFAULT_METRICS
from transferjax.types import SourceModel, TargetDataset

VARIANTS = ("forward", "two", "plain", "norms", "vmap")


def network(num_classes: int = 1000) -> SourceModel:
    """Returns an untrained ResNet-18 of full width."""
    return models.random_source("resnet18", "resnet18", num_classes=num_classes, seed=0, width=64)


def function_of(variant: str, source: SourceModel) -> Callable[..., Any]:
    """Returns what a variant computes: variables without the head, images [b, h, w, 3] and labels [b] → arrays."""
    module, paths = source.module.clone(num_classes=0), source.first_two_kernels

    def features(variables: Any, images: jax.Array) -> jax.Array:
        return models.run(module, variables, images).features

    def plain(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        """Automatic differentiation by both kernels."""
        params = variables["params"]
        (first, _), (block, second, _) = paths

        def loss(kernels: tuple[jax.Array, jax.Array]) -> jax.Array:
            changed = {
                **params,
                first: {"kernel": kernels[0]},
                block: {**params[block], second: {"kernel": kernels[1]}},
            }
            return triplet_loss(features({**variables, "params": changed}, images), labels)

        gradients = jax.grad(loss)((params[first]["kernel"], params[block][second]["kernel"]))
        return [jnp.linalg.norm(gradient.ravel()) for gradient in gradients]

    def two(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        found = kernel_gradients(module, variables, images, labels, paths=paths)
        assert found.batch is not None
        return found.features, [jnp.linalg.norm(gradient.ravel()) for gradient in found.batch]

    functions: dict[str, Callable[..., Any]] = {
        "forward": lambda variables, images, labels: features(variables, images),
        "plain": plain,
        "two": two,
        "norms": functools.partial(kernel_gradients, module, paths=paths, wanted=("norms",)),
        "vmap": functools.partial(example_norms, module, paths=paths),
    }
    return functions[variant]


def arguments(source: SourceModel, size: int, batch: int) -> tuple[Any, jax.Array, jax.Array]:
    """Returns variables without the head, made-up normalised images, and labels of five classes."""
    images = np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)
    variables = jax.device_put(models.headless(source)[1])
    return variables, jnp.asarray(images), jnp.arange(batch) % 5


def measured(run: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Returns the first call's time, the median of the others', and the peak of resident memory after the first."""
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    start = time.perf_counter()
    while not times or (len(times) < 20 and time.perf_counter() - start < seconds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return {"first": first, "seconds": float(np.median(times)), "resident": resident}


def main(variant: str, size: int, batch: int, seconds: float) -> dict[str, Any]:
    """Measures one variant."""
    source = network()
    if variant == "cell":
        return cell(source, size, batch, seconds)
    values = arguments(source, size, batch)
    start = time.perf_counter()
    lowered = jax.jit(function_of(variant, source), compiler_options=compiler_options()).lower(*values)
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()
    memory, costs = program.memory_analysis(), program.cost_analysis() or {}
    return {
        **measured(lambda: jax.block_until_ready(program(*values)), seconds),
        "tracing": traced - start,
        "compiling": compiled - traced,
        "temporaries": memory.temp_size_in_bytes if memory else None,
        "flops_xla": costs.get("flops"),
    }


def cell(source: SourceModel, size: int, n: int, seconds: float) -> dict[str, Any]:
    """Measures the whole way from images of eleven classes to the default metrics."""
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 11
    images = generator.standard_normal((n, size, size, 3), np.float32)
    images += 0.1 * generator.standard_normal((11, 1, 1, 3))[labels]
    pixels = np.clip(128 + 40 * images, 0, 255).astype(np.uint8)
    target = TargetDataset(
        name="made up", images=pixels, labels=labels.astype(np.int32), class_names=tuple(map(str, range(11)))
    )
    values: dict[str, float] = {}

    def run() -> None:
        values.update(score(extract(source, target), DEFAULT_METRICS, jax.random.key(0)))

    return {**measured(run, seconds), "values": values}


if __name__ == "__main__":
    for text in sys.argv[2:]:
        name, _, shape = text.partition(":")
        pixels, _, count = shape.partition("x")
        print(json.dumps(main(name, int(pixels), int(count), float(sys.argv[1]))), flush=True)
