"""Golden values and small made-up inputs that several tests use."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from transferjax import models
from transferjax.models.resnet import BasicBlock, ResNet

_TESTS = itertools.count(1)
GOLDEN = Path(__file__).parent / "golden"


# Compiling is most of what tests do. So XLA does it in a quarter of the time (without its fusion emitters, from jaxlib
# 0.12 on, in two thirds), for programs that are slower.
_QUICK = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def pytest_addoption(parser):
    parser.addoption("--as-shipped", action="store_true", help="let XLA compile as it does for users")


def pytest_configure(config):
    """XLA reads its flags when it starts; the processes of tests, and what those start, inherit them.

    Tests that are run by hand, `-m slow` or `-m torch`, get the programs that users get.
    """
    by_hand = "not slow" not in config.getoption("markexpr")
    if by_hand or config.getoption("--as-shipped") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    command = [sys.executable, "-c", "import jax; jax.jit(lambda x: x + 1)(0)"]
    known = _QUICK
    while known:  # a flag that XLA does not know ends the process, with a message that names it
        flags = " ".join([*known, os.environ.get("XLA_FLAGS", "")]).strip()
        env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        tried = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            os.environ["XLA_FLAGS"] = flags
            return
        before, known = known, tuple(flag for flag in known if flag not in tried.stderr)
        if known == before:
            return


def pytest_report_header():
    return f"XLA: {os.environ.get('XLA_FLAGS') or 'as shipped'}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One process runs all tests of a metric, or of a file, so that no program is compiled in both."""
    for item in items:
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        by_metric = item.path.parent.name == "metrics" and isinstance(name, str)
        item.add_marker(pytest.mark.xdist_group(name if by_metric else str(item.path)))


@pytest.fixture(autouse=True)
def _let_go_of_programs():
    """Each compiled program takes a few memory mappings, of which Linux allows a process 65,530: then XLA aborts."""
    yield
    maps = Path("/proc/self/maps")
    if next(_TESTS) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory):
    """Programs compiled by one test are there for the others, and for the scripts that they start."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # for all workers the same
        folder = folder.parent
    settings = {
        "jax_compilation_cache_dir": str(folder / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    yield
    for name in settings:
        del os.environ[name.upper()]


def rounded_products(exported):
    """Returns those products of a lowered program whose float32 factors a GPU or TPU would round."""
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", str(exported.mlir_module()))
    return [product for product in products if "xf32>" in product and "HIGHEST" not in product]


SHORT = "short_resnet"


@pytest.fixture(scope="session", autouse=True)
def _short_resnet():
    """An architecture of two blocks, for tests of what is done with networks: quickly compiled."""
    models.register(
        dataclasses.replace(
            models.get("resnet18"),
            name=SHORT,
            module=functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock),
            imagenet=None,
        )
    )


@pytest.fixture(scope="session")
def metric_goldens():
    """Case → (features, labels, logits, scores of the published code)."""
    scores = json.loads((GOLDEN / "metrics.json").read_text())
    arrays = np.load(GOLDEN / "metrics.npz")
    return {
        case: (*(arrays[f"{case}/{name}"] for name in ("features", "labels", "logits")), scores[case])
        for case in scores
    }


def torch_state_dict(manifest: dict[str, list], seed: int) -> dict[str, np.ndarray]:
    """A torchvision state dict filled by the recipe of golden/README.md."""
    state = {}
    for key, (shape, kind) in manifest.items():
        rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
        if kind == "kernel":
            array = rng.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
        elif kind == "shift":
            array = 0.1 * rng.standard_normal(shape)
        else:
            array = rng.uniform(0.5, 1.5, shape)
        state[key] = array.astype(np.float32)
    return state


@pytest.fixture(scope="session")
def model_goldens():
    """Architecture → (torch state dict, images [n, h, w, 3], golden values)."""
    models = json.loads((GOLDEN / "models.json").read_text())["models"]
    manifests = json.loads((GOLDEN / "models_manifest.json").read_text())
    goldens = {}
    for name, golden in models.items():
        seed, n, size = golden["seed"], golden["n"], golden["size"]
        images = np.random.default_rng(seed + 100).standard_normal((n, 3, size, size)).astype(np.float32)
        goldens[name] = (torch_state_dict(manifests[name], seed), images.transpose(0, 2, 3, 1), golden)
    return goldens
