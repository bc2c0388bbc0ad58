"""Members of a population on the device: together, or one after the other.

- `Together`: every array has the members along its first axis, and programs are vmapped. On accelerators, where small
  networks leave most of the device idle and kernels are launched once for all: on an H200, eight members of ResNet-18
  with 16 channels took .76 of the time of single runs, compilation, which is most of it, included.
- `Singly`: one program for one member, called for each of them. On a CPU, where XLA makes grouped convolutions of
  kernels that differ from member to member: steps of eight members of ResNet-18 with 16 channels took 1.6 times as long
  as one after the other, whole runs, compilation included, 1.1 times (`experiments/benchmark.py --suite=population`).
  And it is compiled once, whatever the number of members.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import _compile
from transferjax.training import step
from transferjax.training.feed import Block, Feed, in_order
from transferjax.training.network import Design
from transferjax.training.state import Hyperparameters, State
from transferjax.types import Normalization

Way = Literal["together", "singly"]
_EVAL_BATCH = 256


def way_of_backend() -> Way:
    """Returns how members are trained on this backend: see above."""
    return "singly" if jax.default_backend() == "cpu" else "together"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """What all members share.

    Attributes:
      design: what is computed.
      frozen: variables of the network if it is not trained, else None.
      normalization: how the network wants its images.
      accumulate: see `FineTuning`.
    """

    design: Design
    frozen: Any
    normalization: Normalization
    accumulate: int


class Singly:
    """Members one after the other."""

    def __init__(self, shared: Pass, states: State, best: Any, hyper: Hyperparameters) -> None:
        """Puts members on the device.

        Args:
          shared: see `Pass`.
          states: of m members, stacked, as are the following.
          best: {"params", "batch_stats"} to be kept.
          hyper: their settings.
        """
        self._shared, self._count = shared, len(hyper.seed)
        self._states, self._best, self._hyper = (_unstacked(tree, self._count) for tree in (states, best, hyper))

    def train(self, block: Block, epoch: int, rate: float, running: np.ndarray) -> np.ndarray:
        """Takes those that run through a block, and returns the sums of their losses, [m]."""
        program = _program(step.train_block, ("design", "accumulate"), (0,))
        losses: dict[int, Any] = {}
        for i in np.flatnonzero(running).tolist():
            self._states[i], losses[i] = program(
                self._states[i],
                self._hyper[i],
                *_told(self._shared, block, epoch, rate),
                design=self._shared.design,
                accumulate=self._shared.accumulate,
            )
        sums = np.full(self._count, np.nan, np.float32)
        for i, loss in losses.items():
            sums[i] = np.asarray(loss)  # NumPy makes a ValueError of Ctrl-C when it converts by itself
        return sums

    def judge(self, feed: Feed, running: np.ndarray) -> np.ndarray:
        """Returns loss, AUC and accuracy of those that run on a split, float32 [3, m]."""
        logits = self._logits(feed, running, [(s.params, s.batch_stats) for s in self._states])
        found = np.full((3, self._count), np.nan, np.float32)
        for i, own in logits.items():
            found[:, i] = np.asarray(_program(step.judge)(own, feed.labels))
        return found

    def predict_best(self, feed: Feed, wanted: np.ndarray) -> np.ndarray:
        """Returns the logits of the best of those wanted, float32 [m, n, c]; NaN of the others."""
        logits = self._logits(feed, wanted, [(best["params"], best["batch_stats"]) for best in self._best])
        return _filled(logits, self._count, feed)

    def keep(self, improved: np.ndarray) -> None:
        """Keeps the present parameters and statistics of those that are better than ever."""
        for i in np.flatnonzero(improved).tolist():
            state = self._states[i]
            self._best[i] = _copied({"params": state.params, "batch_stats": state.batch_stats})

    def stacked(self) -> tuple[State, Any]:
        """Returns the states and what was kept, as NumPy arrays of their own, stacked."""
        return stacked(self._states), stacked(self._best)

    def _logits(self, feed: Feed, wanted: np.ndarray, variables: Sequence[Any]) -> dict[int, jax.Array]:
        program = _program(step.predict_block, ("design",))
        parts: dict[int, list[jax.Array]] = {int(i): [] for i in np.flatnonzero(wanted)}
        shared = self._shared
        for block in feed.blocks(in_order(len(feed), _EVAL_BATCH)):
            inputs = jnp.asarray(block.inputs)
            for i, found in parts.items():
                found.append(program(*variables[i], shared.frozen, inputs, shared.normalization, design=shared.design))
        return {i: _joined(found, len(feed)) for i, found in parts.items()}


class Together:
    """Members side by side; the methods are those of `Singly`.

    Once no more than half of them still run, half of them are computed, then a quarter ...: each is a program of its
    own.
    """

    def __init__(self, shared: Pass, states: State, best: Any, hyper: Hyperparameters) -> None:
        """Puts members on the device; see `Singly`."""
        self._shared, self._count = shared, len(hyper.seed)
        self._states, self._best, self._hyper = (jax.tree.map(jnp.array, tree) for tree in (states, best, hyper))

    def train(self, block: Block, epoch: int, rate: float, running: np.ndarray) -> np.ndarray:
        """See `Singly`."""
        rows = working(running)
        whole = len(rows) == self._count
        states, hyper = (self._states, self._hyper) if whole else _rows((self._states, self._hyper), rows)
        program = _program(_train_together, ("design", "accumulate"), (0,))
        states, losses = program(
            states,
            hyper,
            running[rows],
            *_told(self._shared, block, epoch, rate),
            design=self._shared.design,
            accumulate=self._shared.accumulate,
        )
        self._states = states if whole else _put(self._states, states, rows)
        sums = np.full(self._count, np.nan, np.float32)
        sums[rows] = np.asarray(losses)
        sums[~running] = np.nan
        return sums

    def judge(self, feed: Feed, running: np.ndarray) -> np.ndarray:
        """See `Singly`."""
        rows, logits = self._logits(feed, running, (self._states.params, self._states.batch_stats))
        found = np.full((3, self._count), np.nan, np.float32)
        found[:, rows] = np.asarray(_program(_judge_together)(logits, feed.labels)).T
        found[:, ~running] = np.nan
        return found

    def predict_best(self, feed: Feed, wanted: np.ndarray) -> np.ndarray:
        """See `Singly`."""
        rows, logits = self._logits(feed, wanted, (self._best["params"], self._best["batch_stats"]))
        return _filled({i: logits[place] for place, i in enumerate(rows.tolist()) if wanted[i]}, self._count, feed)

    def keep(self, improved: np.ndarray) -> None:
        """See `Singly`."""
        if improved.any():
            current = {"params": self._states.params, "batch_stats": self._states.batch_stats}
            self._best = _program(_kept, (), (0,))(self._best, current, improved)

    def stacked(self) -> tuple[State, Any]:
        """See `Singly`."""
        return jax.tree.map(np.array, (self._states, self._best))

    def _logits(self, feed: Feed, wanted: np.ndarray, variables: Any) -> tuple[np.ndarray, jax.Array]:
        rows = working(wanted)
        chosen = variables if len(rows) == self._count else _rows(variables, rows)
        shared, program = self._shared, _program(_predict_together, ("design",))
        parts = [
            program(*chosen, shared.frozen, block.inputs, shared.normalization, design=shared.design)
            for block in feed.blocks(in_order(len(feed), _EVAL_BATCH))
        ]
        return rows, _joined(parts, len(feed), axis=1)


def working(running: np.ndarray) -> np.ndarray:
    """Returns which members are computed together: all; half of them, a quarter ... once no more still run.

    A function of who runs alone, so that it is the same after an interruption.

    Args:
      running: bool [m].

    Returns:
      int [w], those that run and, to fill up, some that do not; rising.
    """
    size = len(running)
    while size // 2 >= max(1, running.sum()):
        size //= 2
    return np.sort(np.argsort(~running, kind="stable")[:size])


def group(way: Way, shared: Pass, states: State, best: Any, hyper: Hyperparameters) -> Singly | Together:
    """Returns members on the device; see the classes."""
    return (Singly if way == "singly" else Together)(shared, states, best, hyper)


def _told(shared: Pass, block: Block, epoch: int, rate: float) -> tuple[Any, ...]:
    numbers = np.int32(epoch), np.int32(block.first), np.float32(rate)
    return shared.frozen, block.inputs, block.labels, block.valid, *numbers, shared.normalization


def _train_together(
    states: State, hyper: Hyperparameters, running: jax.Array, *told: Any, design: Design, accumulate: int
) -> tuple[State, jax.Array]:
    def one(state: State, hyper: Hyperparameters) -> tuple[State, jax.Array]:
        return step.train_block(state, hyper, *told, design=design, accumulate=accumulate)

    after, losses = jax.vmap(one)(states, hyper)
    return _kept(states, after, running), losses


def _predict_together(params: Any, batch_stats: Any, *told: Any, design: Design) -> jax.Array:
    return jax.vmap(lambda *own: step.predict_block(*own, *told, design=design))(params, batch_stats)


def _judge_together(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jax.vmap(step.judge, (0, None))(logits, labels)


def _kept(old: Any, new: Any, chosen: jax.Array) -> Any:
    """Returns the new of the members that are chosen, the old of the others."""
    return jax.tree.map(lambda a, b: jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), b, a), old, new)


@functools.cache
def _program(fn: Callable[..., Any], static: tuple[str, ...] = (), donated: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Returns a function compiled; it takes the memory of the arguments that are donated."""
    options = _compile.compiler_options()
    return jax.jit(fn, static_argnames=static, donate_argnums=donated, compiler_options=options)


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


@jax.jit
def _rows(tree: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@functools.partial(jax.jit, donate_argnums=0)
def _put(tree: Any, parts: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf, part: leaf.at[rows].set(part), tree, parts)


def _unstacked(tree: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: jnp.array(leaf[i]), tree) for i in range(count)]


def stacked(trees: Sequence[Any]) -> Any:
    """Returns trees of one structure as one, of NumPy arrays with a first axis for them."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _joined(parts: Sequence[jax.Array], n: int, axis: int = 0) -> jax.Array:
    """Returns predictions of all blocks, without what filled the last one up."""
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)
    return jax.lax.slice_in_dim(whole, 0, n, axis=axis)


def _filled(logits: dict[int, jax.Array], count: int, feed: Feed) -> np.ndarray:
    classes = next((own.shape[-1] for own in logits.values()), 0)
    found = np.full((count, len(feed), classes), np.nan, np.float32)
    for i, own in logits.items():
        found[i] = np.asarray(own)
    return found
