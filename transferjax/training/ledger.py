"""Who of a population still runs, and when each was best: decided on the host, epoch by epoch."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

RUNNING, STOPPED, FAILED = 0, 1, 2
"""Values of `Ledger.status`; who is RUNNING after the last epoch has had them all."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """Of m members.

    Attributes:
      status: int32 [m], see `RUNNING`.
      best_value: float64 [m], the best monitored value so far: bigger is better.
      best_epoch: int32 [m], when that was, 0 being the first epoch; -1 before it.
      last_epoch: int32 [m], the last one that each has had, likewise.
    """

    status: np.ndarray
    best_value: np.ndarray
    best_epoch: np.ndarray
    last_epoch: np.ndarray

    @property
    def running(self) -> np.ndarray:
        """Who runs, bool [m]."""
        return np.asarray(self.status) == RUNNING


def fresh_ledger(members: int) -> Ledger:
    """Returns the ledger before the first epoch."""
    return Ledger(
        status=np.full(members, RUNNING, np.int32),
        best_value=np.full(members, -np.inf, np.float64),
        best_epoch=np.full(members, -1, np.int32),
        last_epoch=np.full(members, -1, np.int32),
    )


def close_epoch(
    ledger: Ledger, epoch: int, value: np.ndarray, losses: tuple[np.ndarray, np.ndarray], *, patience: int
) -> tuple[Ledger, np.ndarray]:
    """Enters an epoch: who got no better for too long stops, whose loss is not finite has failed.

    Args:
      ledger: before it.
      epoch: its number.
      value: float [m], the monitored value; bigger is better. That of members that do not run is not looked at.
      losses: float [m] each, in training and in validation; likewise.
      patience: see `FineTuning`.

    Returns:
      The ledger after it, and who is better than ever, bool [m].
    """
    running = ledger.running
    fine = np.isfinite(losses[0]) & np.isfinite(losses[1])
    improved = running & fine & (value > ledger.best_value)
    best_epoch = np.where(improved, epoch, ledger.best_epoch).astype(np.int32)
    after = np.where(fine, np.where(epoch - best_epoch >= patience, STOPPED, RUNNING), FAILED)
    closed = Ledger(
        status=np.where(running, after, ledger.status).astype(np.int32),
        best_value=np.where(improved, value, ledger.best_value).astype(np.float64),
        best_epoch=best_epoch,
        last_epoch=np.where(running, epoch, ledger.last_epoch).astype(np.int32),
    )
    return closed, improved
