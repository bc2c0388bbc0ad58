"""Per-example gradients of convolutions and dense layers from one backward pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transferjax._patches import (
    Geometry,
    Rows,
    batch_gradient_in_chunks,
    example_gradients,
    fold,
    geometry_of,
    squared_norms,
)
from transferjax._validate import fail, one_of
from transferjax.gradients.per_example import Loss, Path, as_pytree, parameters_at
from transferjax.gradients.triplet import triplet_loss

Wanted = Literal["batch", "norms", "squares", "directions"]
# Elements of the patches and gradients that are held at once: what stays in a core's caches; elsewhere enough for large
# products.
_CPU_ELEMENTS, _ELEMENTS = 2**21, 2**25
State = tuple[jax.Array | None, jax.Array | None, jax.Array | None, jax.Array | None]


class KernelGradients(NamedTuple):
    """What is known of the gradients of a batch loss at l kernels. What was not wanted is None.

    Attributes:
      features: float [b, d].
      batch: the gradient of the batch loss at each kernel, of its shape.
      norms: float [b, l], the Frobenius norms of the examples' shares of it.
      squares: at each kernel, of its shape, the sum of the squared entries of the shares.
      directions: at each kernel, [c, *kernel], the sums of the shares of each class's examples, each divided by its
        norm (0 stays 0).
    """

    features: jax.Array
    batch: tuple[jax.Array, ...] | None
    norms: jax.Array | None
    squares: tuple[jax.Array, ...] | None
    directions: tuple[jax.Array, ...] | None


def kernel_gradients(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    paths: Sequence[Path],
    loss: Loss = triplet_loss,
    wanted: Sequence[Wanted] = ("batch",),
    micro_batch: int | None = None,
    num_classes: int | None = None,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
) -> KernelGradients:
    """Gradients of a batch loss at chosen kernels, whole and by example, from one backward pass.

    The backward pass ends at the *outputs* of the chosen layers: it computes gradients of activations down to the
    earliest of them, and no parameter's. From the gradient g_ip at output position p of example i, and the patch x_ip
    of the layer's input there, follows the example's share of the kernel's gradient, Σ_p x_ip·g_ipᵀ
    (`per_example.example_gradients` has the definition). Shares are formed a few examples at a time and only summed up.

    If norms alone are wanted, of each layer the way of fewer operations is taken: with P positions, K entries of the
    kernel per output and o outputs the shares take 2·P·K·o, the two Gram matrices of patches and of gradients 2·P²·(K +
    o) (Goodfellow, 2015; for convolutions Rochette et al., 2019): these for P below some 50, as in dense layers.

    Args:
      module: a Flax network that returns features, see `transferjax.types.ModelOutput`, in inference mode.
      variables: of the network.
      images: [b, h, w, 3].
      labels: what the loss takes, e.g. int [b].
      paths: of the kernels in `variables["params"]`, those of convolutions (grouped, strided, dilated ones too) and
        dense layers that are called once.
      loss: features [b, d], labels → scalar. A `jax.tree_util.Partial` can hold arrays, as `on_head` does, so that
        others of the same shapes compile nothing again.
      wanted: what to compute, see `KernelGradients`; with "directions" labels are int [b] in 0..num_classes-1.
      micro_batch: how many images go through the network at a time; None for all. If there are more, their features
        are computed first, and each micro-batch is run again to go backwards: memory does not grow with the batch,
        one forward pass more is the price, and the loss is that of the whole batch as before.
      num_classes: c, for "directions".
      prepare: what is done to images before the network sees them, a micro-batch at a time; None for nothing. Likewise.

    Returns:
      `KernelGradients`, in the order of the paths.

    Raises:
      InputError: a path that is not the kernel of such a layer.

    References:
      Goodfellow, 2015. Efficient per-example gradient computations. https://arxiv.org/abs/1510.01799
      Rochette, Manoel, Tramel, 2019. Efficient per-example gradient computations in convolutional neural networks.
      https://arxiv.org/abs/1912.06015
    """
    for name in wanted:
        one_of("wanted", name, ["batch", "norms", "squares", "directions"])
    if "directions" in wanted and (num_classes is None or labels.ndim != 1):
        raise fail("wanted", "directions without classes", "Give num_classes, and labels of one class each.")
    parameters_at(variables, paths)
    if others := ["/".join(path) for path in paths if path[-1] != "kernel"]:
        raise fail("paths", f"{', '.join(others)}: not a kernel", "Take gradients.example_gradients for these.")
    return _kernel_gradients(
        variables,
        images,
        labels,
        as_pytree(loss),
        as_pytree(prepare or _unchanged),
        module=module,
        paths=tuple(map(tuple, paths)),
        wanted=tuple(wanted),
        micro_batch=micro_batch,
        num_classes=num_classes,
    )


def _unchanged(images: jax.Array) -> jax.Array:
    return images


@functools.partial(jax.jit, static_argnames=("module", "paths", "wanted", "micro_batch", "num_classes"))
def _kernel_gradients(
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    loss: Loss,
    prepare: Callable[[jax.Array], jax.Array],
    *,
    module: nn.Module,
    paths: tuple[Path, ...],
    wanted: tuple[Wanted, ...],
    micro_batch: int | None,
    num_classes: int | None,
) -> KernelGradients:
    b = len(images)
    size = min(micro_batch or b, b)
    layers = tuple(path[:-1] for path in paths)
    network = functools.partial(_Pass.run, module, variables, layers, prepare)
    if size == b:
        whole = network(images)
        found = _summarized(whole, jax.grad(loss)(whole.features, labels), labels, wanted, num_classes)
        return KernelGradients(whole.features, *found)

    # Equal parts, the last one filled up with the last image, on which nothing pulls.
    count = -(-b // size)
    size = -(-b // count)
    places = jnp.minimum(jnp.arange(count * size), b - 1).reshape(count, size)

    def embed(rows: jax.Array) -> jax.Array:
        features: jax.Array = module.apply(variables, prepare(images[rows])).features  # type: ignore[union-attr]
        return features

    features = jax.lax.map(embed, places).reshape(count * size, -1)[:b]
    pulls = jax.grad(loss)(features, labels)
    present = (jnp.arange(count * size) < b).reshape(count, size)

    def part(index: jax.Array) -> tuple[Any, ...]:
        rows = places[index]
        pull = jnp.where(present[index][:, None], pulls[rows], 0)
        return _summarized(network(images[rows]), pull, labels[rows], wanted, num_classes)

    def add(index: jax.Array, state: tuple[Any, ...]) -> tuple[Any, ...]:
        batch, norms, squares, directions = part(index)
        if norms is not None:
            norms = jax.lax.dynamic_update_slice_in_dim(state[1], norms, index * size, axis=0)
        sums = jax.tree.map(jnp.add, (state[0], state[2], state[3]), (batch, squares, directions))
        return sums[0], norms, sums[1], sums[2]

    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, jnp.int32(0)))
    if start[1] is not None:
        start = (start[0], jnp.zeros((count * size, len(paths)), start[1].dtype), *start[2:])
    batch, norms, squares, directions = jax.lax.fori_loop(0, count, add, start)
    return KernelGradients(features, batch, None if norms is None else norms[:b], squares, directions)


class _Pass(NamedTuple):
    """A forward pass, and the way back from features to the chosen layers' outputs."""

    features: jax.Array
    inputs: tuple[jax.Array, ...]
    pullback: Callable[[jax.Array], tuple[jax.Array, ...]]
    geometries: tuple[Geometry, ...]

    @classmethod
    def run(
        cls,
        module: nn.Module,
        variables: Mapping[str, Any],
        layers: tuple[Path, ...],
        prepare: Callable[[jax.Array], jax.Array],
        images: jax.Array,
    ) -> _Pass:
        """Runs the network with a tap, of zeros, at the outputs of the layers: its gradient is that at the outputs."""
        geometries: dict[Path, Geometry] = {}

        def forward(taps: Mapping[Path, jax.Array] | None) -> tuple[jax.Array, dict[Path, jax.Array]]:
            inputs: dict[Path, jax.Array] = {}

            def tapped(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
                outputs, path = call(*args, **kwargs), context.module.path
                if path not in layers or context.method_name != "__call__":
                    return outputs
                if path in inputs:
                    remedy = "Choose a layer that is called once."
                    raise fail("paths", f"{'/'.join(path)} is called more than once", remedy)
                inputs[path] = args[0]
                if taps is not None:
                    return outputs + taps[path]
                kernel: jax.Array = context.module.get_variable("params", "kernel")
                geometries[path] = geometry_of(context.module, args[0], outputs, kernel)
                shapes[path] = jax.ShapeDtypeStruct(outputs.shape, outputs.dtype)
                return outputs

            with nn.intercept_methods(tapped):
                features = module.apply(variables, prepare(images)).features  # type: ignore[union-attr]
            return features, inputs

        shapes: dict[Path, jax.ShapeDtypeStruct] = {}
        jax.eval_shape(lambda: forward(None))
        if unused := ["/".join(path) for path in layers if path not in shapes]:
            raise fail("paths", f"{', '.join(unused)} is not called", "Choose layers on the way to the features.")
        zeros = {path: jnp.zeros(shapes[path].shape, shapes[path].dtype) for path in layers}
        features, pullback, inputs = jax.vjp(forward, zeros, has_aux=True)

        def pull(cotangents: jax.Array) -> tuple[jax.Array, ...]:
            taps = pullback(cotangents)[0]
            return tuple(taps[path] for path in layers)

        return cls(features, tuple(inputs[path] for path in layers), pull, tuple(geometries[path] for path in layers))


def _summarized(
    found: _Pass, pulls: jax.Array, labels: jax.Array, wanted: Sequence[Wanted], num_classes: int | None
) -> tuple[Any, ...]:
    """Returns `batch`, `norms`, `squares` and `directions` of `KernelGradients`."""
    layers = [
        jax.lax.platform_dependent(
            inputs,
            pull,
            labels,
            cpu=functools.partial(_of_layer, geometry, wanted, num_classes, _CPU_ELEMENTS),
            default=functools.partial(_of_layer, geometry, wanted, num_classes, _ELEMENTS),
        )
        for inputs, pull, geometry in zip(found.inputs, found.pullback(pulls), found.geometries, strict=True)
    ]
    batch, norms, squares, directions = zip(*layers, strict=True)
    return (
        batch if "batch" in wanted else None,
        jnp.stack(norms, axis=1) if "norms" in wanted else None,
        squares if "squares" in wanted else None,
        directions if "directions" in wanted else None,
    )


def _of_layer(
    geometry: Geometry,
    wanted: Sequence[Wanted],
    num_classes: int | None,
    elements: int,
    inputs: jax.Array,
    pulls: jax.Array,
    labels: jax.Array,
) -> State:
    """Returns `batch`, `norms`, `squares` and `directions` of one layer, a chunk of examples at a time."""
    n, dtype = len(inputs), pulls.dtype
    shares = set(wanted) - {"batch"}
    if not shares:
        return batch_gradient_in_chunks(inputs, pulls, geometry, elements=elements), None, None, None
    held = geometry.groups * geometry.patch * geometry.positions
    if set(wanted) == {"norms"} and geometry.gram_flops < geometry.flops:

        def add_norms(norms: jax.Array, rows: Rows) -> jax.Array:
            return rows.put(norms, jnp.sqrt(squared_norms(rows.take(inputs), rows.take(pulls), geometry)))

        held += 2 * geometry.groups * geometry.positions**2
        return None, fold(add_norms, jnp.zeros(n, dtype), n, size=elements // held), None, None

    def add(state: State, rows: Rows) -> State:
        batch, norms, squares, directions = state
        gradients = example_gradients(rows.take(inputs), rows.take(pulls), geometry)
        lengths, new = jnp.sqrt(jnp.sum(gradients.reshape(len(gradients), -1) ** 2, axis=1)), rows.new.astype(dtype)
        if batch is not None:
            batch = batch + jnp.tensordot(new, gradients, 1, precision="highest")
        if norms is not None:
            norms = rows.put(norms, lengths)
        if squares is not None:
            squares = squares + jnp.tensordot(new, gradients**2, 1, precision="highest")
        if directions is not None:
            weights = jnp.where(lengths > 0, new / jnp.where(lengths > 0, lengths, 1), 0)
            members = jax.nn.one_hot(rows.take(labels), num_classes or 0, dtype=dtype, axis=0) * weights
            directions = directions + jnp.tensordot(members, gradients, 1, precision="highest")
        return batch, norms, squares, directions

    kernel = jnp.zeros(geometry.kernel, dtype)
    start = (
        kernel if "batch" in wanted else None,
        jnp.zeros(n, dtype) if "norms" in wanted else None,
        kernel if "squares" in wanted else None,
        jnp.zeros((num_classes or 0, *geometry.kernel), dtype) if "directions" in wanted else None,
    )
    return fold(add, start, n, size=elements // (held + math.prod(geometry.kernel)))
