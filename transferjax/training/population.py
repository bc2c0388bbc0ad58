"""Many runs at once: members that share every batch and differ in their settings, or in the weights they start from.

What a population costs. Let P be a network's parameters, A the bytes of one image's activations, F the operations of
one image's forward pass, b the batch and m the members. A step takes m·b·3F operations (backwards is twice forwards),
and m·(4·P·5 + b·A) bytes where members go through it together: parameters, momentum, the best parameters so far, the
gradient and the update. One after the other (`groups.way_of_backend`) the term b·A counts once.

ResNet-18 at 28 pixels: P = 11.2 million, F = 0.08·10⁹, A = 0.4 MB (`models.memory_per_image`); with b = 128 a member
takes 0.22 + 0.05 GB, so that some 230 fit into four fifths of 80 GB, and a step of one member is 3·10¹⁰ operations: 0.3
ms at 100·10¹² a second, which is less than a host takes to launch the step's several hundred kernels. Alone it leaves
the GPU waiting for launches; m members launch once. At 224 pixels F = 3.6·10⁹ and A = 23 MB: 3.2 GB and 1.4·10¹²
operations a member, 14 ms, and 20 members fit: there a population saves little time but that of augmentation. This is
arithmetic. Measured on an H200, eight members of ResNet-18 with 16 channels took .76 of the time of eight single runs,
most of which is compiling (`experiments/benchmark.py --suite=population`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from transferjax import _compile
from transferjax._validate import fail
from transferjax.data.union import class_balanced_epochs
from transferjax.training import groups, step
from transferjax.training.checkpoints import Checkpoints
from transferjax.training.feed import Block, Feed
from transferjax.training.ledger import Ledger, close_epoch, fresh_ledger
from transferjax.training.network import Design
from transferjax.training.recipes import AUGMENTATIONS, FineTuning, Settings
from transferjax.training.state import AUGMENT, ORDER, Hyperparameters, State, fresh_state, hyperparameters, stream
from transferjax.types import Normalization

HISTORY = ("train_loss", "val_loss", "val_auc", "val_accuracy")
_OF_LOSS = 1e-5  # at most; less than one pair of examples is worth in the AUC of a small split
OnEpoch = Callable[[int, np.ndarray, np.ndarray], None]


class Problem(NamedTuple):
    """What a population is trained on, and by.

    Attributes:
      design: what is computed.
      frozen: variables of the network if it is not trained, else None.
      train: the training examples.
      val: those of validation.
      normalization: how the network wants its images.
      size: height and width of augmented images.
      recipe: see `FineTuning`.
      way: how members are trained; None for the backend's.
    """

    design: Design
    frozen: Any
    train: Feed
    val: Feed
    normalization: Normalization
    size: int
    recipe: FineTuning
    way: groups.Way | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where m members stand between two epochs: what a checkpoint holds. All arrays are NumPy's, members first.

    Attributes:
      hyper: their settings.
      states: see `State`.
      best: {"params", "batch_stats"} after the best epoch of each.
      ledger: who runs, and when each was best.
      history: float32 [epochs, 4, m], by `HISTORY`; NaN where a member did not run.
      seconds: float64 scalar, spent so far.
    """

    hyper: Hyperparameters
    states: State
    best: Any
    ledger: Ledger
    history: Any
    seconds: Any


def start(members: Sequence[tuple[Any, Any, Settings]], *, epochs: int) -> Progress:
    """Returns where members stand before the first epoch.

    Args:
      members: of each the parameters to be trained, the BatchNorm statistics ({} for none), and settings.
      epochs: of the recipe.
    """
    hypers = [hyperparameters(settings) for _, _, settings in members]
    states = [fresh_state(*own[:2], hyper) for own, hyper in zip(members, hypers, strict=True)]
    stacked = groups.stacked(states)
    return Progress(
        hyper=groups.stacked(hypers),
        states=stacked,
        best={"params": stacked.params, "batch_stats": stacked.batch_stats},
        ledger=fresh_ledger(len(members)),
        history=np.full((epochs, len(HISTORY), len(members)), np.nan, np.float32),
        seconds=np.float64(0),
    )


def train(
    problem: Problem,
    progress: Progress,
    *,
    checkpoints: Checkpoints | None = None,
    on_epoch: OnEpoch | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Progress:
    """Trains until all members have stopped, failed, or had all epochs.

    Members whose training or validation loss is not finite have failed; the others go on.

    Args:
      problem: what is trained, and on what.
      progress: before the first epoch.
      checkpoints: from where to go on, and where to save; None for nowhere.
      on_epoch: called after each epoch with its number, its history float32 [4, m], and which members ran, bool [m].
      clock: seconds since the call, which are added up over interruptions.

    Returns:
      The members after the last epoch. The same bits with and without interruptions.

    Raises:
      InputError: a checkpoint cannot be written or read.
    """
    recipe, done = problem.recipe, 0
    if checkpoints is not None and (found := checkpoints.restore(progress)) is not None:
        done, progress = found
    before, saved = float(progress.seconds), done
    ledger, history = progress.ledger, np.array(progress.history)
    members = _on_device(problem, progress)

    def now() -> Progress:
        states, best = members.stacked()
        seconds = np.float64(before + clock())
        return dataclasses.replace(
            progress, states=states, best=best, ledger=ledger, history=history.copy(), seconds=seconds
        )

    while done < recipe.epochs and ledger.running.any():
        running, epoch = ledger.running, done
        losses = np.zeros(len(running), np.float32)
        rows = _batches(problem, epoch)
        for block in _blocks(problem, rows, epoch):
            losses += members.train(block, epoch, recipe.rate(epoch), running)
        history[epoch, 0] = losses / len(rows)
        history[epoch, 1:] = members.judge(problem.val, running)
        monitored = _monitored(history[epoch], recipe.monitor)
        ledger, improved = close_epoch(
            ledger, epoch, monitored, (history[epoch, 0], history[epoch, 1]), patience=recipe.patience
        )
        members.keep(improved)
        done += 1
        if on_epoch is not None:
            on_epoch(epoch, history[epoch], running)
        if checkpoints is not None and checkpoints.due():
            checkpoints.save(done, now())
            saved = done
    after = now()
    if checkpoints is not None:
        if done > saved:
            checkpoints.save(done, after)
        checkpoints.wait()
    return after


def predict_best(problem: Problem, progress: Progress, feed: Feed, wanted: np.ndarray) -> np.ndarray:
    """Returns the logits float32 [m, n, c] of each member's best epoch, NaN of those that are not wanted."""
    return _on_device(problem, progress).predict_best(feed, wanted)


def _monitored(history: np.ndarray, monitor: str) -> np.ndarray:
    """Returns what is to be as big as it can, float64 [m]; of an epoch's history [4, m]."""
    _, loss, auc, _ = history.astype(np.float64)
    if monitor == "loss":
        return -loss
    return auc if monitor == "auc" else auc + _OF_LOSS / (1 + loss)


def _on_device(problem: Problem, progress: Progress) -> groups.Singly | groups.Together:
    shared = groups.Pass(
        design=problem.design,
        frozen=problem.frozen,
        normalization=problem.normalization,
        accumulate=problem.recipe.accumulate,
    )
    way = problem.way or groups.way_of_backend()
    return groups.group(way, shared, progress.states, progress.best, progress.hyper)


def _blocks(problem: Problem, rows: np.ndarray, epoch: int) -> Iterator[Block]:
    """Yields the batches of an epoch, on the device and augmented."""
    recipe = AUGMENTATIONS[problem.recipe.augmentation] if problem.recipe.mode != "probe" else None
    key = stream(problem.recipe.data_seed, AUGMENT)
    for block in problem.train.blocks(rows):
        inputs = block.inputs
        if recipe is not None:
            program = _compile.compiled(step.augment_block, ("recipe", "size"))
            numbers = np.int32(epoch), np.int32(block.first)
            inputs = program(inputs, *numbers, key, recipe=recipe, size=problem.size)
        yield block._replace(inputs=jax.device_put(inputs))


def _batches(problem: Problem, epoch: int) -> np.ndarray:
    """Returns the epoch's rows, int [steps, b]."""
    recipe = problem.recipe
    order = _order(problem, epoch)
    size = min(recipe.batch_size, len(order) // recipe.accumulate * recipe.accumulate)
    if size == 0:
        raise fail("accumulate", f"{recipe.accumulate} parts of {len(order)} images", "Take fewer parts.")
    return order[: len(order) // size * size].reshape(-1, size)


def _order(problem: Problem, epoch: int) -> np.ndarray:
    """Returns the epoch's rows, int [n]: a function of the seed and the epoch alone, so that nothing is remembered."""
    recipe = problem.recipe
    if recipe.sampling == "class_balanced":
        rng = np.random.default_rng([recipe.data_seed, ORDER, epoch])
        return next(class_balanced_epochs(problem.train.labels, rng=rng))
    key = jax.random.fold_in(stream(recipe.data_seed, ORDER), epoch)
    return np.asarray(_permutation(key, len(problem.train)))


@functools.partial(jax.jit, static_argnums=1)
def _permutation(key: jax.Array, n: int) -> jax.Array:
    return jax.random.permutation(key, n)
