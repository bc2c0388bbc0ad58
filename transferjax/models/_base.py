"""What a family of networks tells of itself, and the strict import of weights from elsewhere."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from transferjax._validate import InputError, fail
from transferjax.types import ModelOutput, Normalization

Path = tuple[str, ...]


def torch_key(path: Path) -> str:
    """Maps a path in the variables to PyTorch's key where modules have PyTorch's names, dots included.

    ("params", "features.0.0", "kernel") becomes "features.0.0.weight", and so on.
    """
    *modules, leaf = path[1:]
    renamed = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return ".".join([*modules, renamed.get(leaf, leaf)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Where published weights are, and what is known of them.

    Attributes:
      location: a URL; or a file's path in a Python package.
      package: that package, or None for a URL.
      sha256: of the file, or how it begins.
      accuracy: top-1 on ImageNet, 0..1.
      num_train_examples: how many images it was trained on.
      normalization: how the weights want their images.
    """

    location: str
    sha256: str
    accuracy: float
    package: str | None = None
    num_train_examples: int = 1_281_167
    normalization: Normalization = dataclasses.field(default_factory=Normalization)


def torchvision(file: str, *, accuracy: float, normalization: Normalization | None = None) -> Pretrained:
    """Returns where torchvision publishes weights trained on ImageNet; the file's name ends in its hash."""
    return Pretrained(
        location=f"https://download.pytorch.org/models/{file}",
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        accuracy=accuracy,
        normalization=normalization or Normalization(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One architecture.

    Attributes:
      name: as in `models.get(name)`.
      module: the Flax module's class or factory; takes `num_classes` and what `options` lists; with `num_classes=0` it
        has no head.
      first_two_kernels: paths in `params` of the two convolution kernels whose gradients are taken.
      head_path: path in `params` of the head: what makes logits of the features.
      head: the head's module, by the number of classes; a dense layer as a rule.
      logits_path: path in `params` of the dense layer that ends the head; `head_path` if None.
      options: what else `build` accepts, with its default (e.g. `width`).
      torch_key: maps a path in the variables (collection first) to torchvision's key.
      torch_drops: how keys begin that are left out on purpose.
      torch_renames: (regular expression, replacement) for keys, as they are called elsewhere.
      imagenet: where its weights trained on ImageNet are.
    """

    name: str
    module: Callable[..., nn.Module]
    first_two_kernels: tuple[Path, Path]
    head_path: Path
    head: Callable[[int], nn.Module] = nn.Dense
    logits_path: Path | None = None
    options: Mapping[str, int] = dataclasses.field(default_factory=dict)
    torch_key: Callable[[Path], str] = torch_key
    torch_drops: tuple[str, ...] = ()
    torch_renames: tuple[tuple[str, str], ...] = ()
    imagenet: Pretrained | None = None

    @property
    def bias_path(self) -> Path:
        """The path in `params` of the head's last bias, whose size is the number of classes."""
        return (*(self.logits_path or self.head_path), "bias")

    def build(self, *, num_classes: int, **options: int) -> nn.Module:
        """Returns the module with a head of `num_classes` outputs; `options` are those of the architecture.

        Raises:
          InputError: an option that this architecture does not have, or that is not a positive whole number.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            has = ", ".join(self.options) or "none"
            raise InputError(f"{self.name}: no option {', '.join(unknown)}. It has: {has}.")
        for option, value in options.items():
            if not isinstance(value, int) or value < 1:
                raise fail(f"{self.name}, {option}", f"{value!r}", "Give a whole number of at least 1.")
        return self.module(num_classes=num_classes, **{**self.options, **options})


def run(module: nn.Module, variables: Any, images: jax.Array) -> ModelOutput:
    """Returns what the network makes of images [b, h, w, 3], in inference mode."""
    return cast(ModelOutput, module.apply(variables, images))


@functools.lru_cache(maxsize=64)
def _memory_per_image(module: nn.Module, shapes: tuple[Any, ...], image: tuple[int, ...]) -> int:
    total = 0

    def count(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal total
        outputs = call(*args, **kwargs)
        if context.module.path:  # not the network as a whole
            total += sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(outputs))
        return outputs

    leaves, tree = shapes
    variables = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    with nn.intercept_methods(count):
        jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct((1, *image), np.float32))
    return total


def memory_per_image(module: nn.Module, variables: Any, image: tuple[int, ...]) -> int:
    """Returns about how many bytes a pass and its way back take for an image [h, w, 3]: all layers' outputs."""
    leaves, tree = jax.tree.flatten(variables)
    return _memory_per_image(module, (tuple((leaf.shape, leaf.dtype) for leaf in leaves), tree), tuple(image))


@functools.lru_cache(maxsize=64)
def variable_shapes(module: nn.Module) -> Mapping[Path, tuple[int, ...]]:
    """Returns path → shape of all variables of `module`, without computing any."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    with jax.default_matmul_precision("highest"):  # as in extraction, which finds what was traced here
        shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return types.MappingProxyType({path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()})


def check_tensors(name: str, wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]) -> None:
    """Checks that `given` has exactly the `wanted` keys and shapes, and finite floating-point values.

    Raises:
      InputError: lists all problems at once: missing, surplus, misshapen, non-finite tensors.
    """
    problems = [f"missing: {key} {list(wanted[key])}" for key in wanted if key not in given]
    problems += [f"unexpected: {key} {list(given[key].shape)}" for key in given if key not in wanted]
    for key in given:
        if key not in wanted:
            continue
        array = given[key]
        if array.shape != wanted[key]:
            problems.append(f"misshapen: {key} is {list(array.shape)}, should be {list(wanted[key])}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"not floating point: {key} is {array.dtype}")
        elif not np.isfinite(array.astype(np.float32)).all():
            problems.append(f"not finite: {key}")
    if problems:
        count = f"{len(problems)} tensors do" if len(problems) > 1 else "1 tensor does"
        raise InputError(
            f"{name}: {count} not fit. Check that file and architecture belong together.\n  " + "\n  ".join(problems)
        )


def nested(leaves: Mapping[Path, np.ndarray]) -> Any:
    """Returns path → array as nested dicts of contiguous float32 arrays, as `module.apply` takes them."""
    return traverse_util.unflatten_dict({path: np.ascontiguousarray(a, np.float32) for path, a in leaves.items()})


def torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape that PyTorch gives the leaf at `path`: kernels HWIO → OIHW, dense kernels transposed."""
    if path[-1] == "layer_scale":
        return (*shape, 1, 1)
    if path[-1] != "kernel":
        return shape
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def from_torch(path: Path, array: np.ndarray) -> np.ndarray:
    """Returns PyTorch's `array` for the leaf at `path` in Flax's layout: the way back of `torch_shape`."""
    if path[-1] == "layer_scale":
        return array[:, 0, 0]
    if path[-1] != "kernel":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
