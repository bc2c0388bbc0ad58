"""Reading ahead: the next batch of images is read while the device computes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from transferjax._lazy import LazyImages

_AHEAD = 2  # batches: one is waiting, one is being read


class Waited:
    """How long the device had nothing to do because images were not there yet.

    Attributes:
      seconds: the sum so far.
    """

    seconds: float = 0.0


def batches(
    images: np.ndarray | LazyImages, rows: Iterable[Sequence[int] | np.ndarray | slice], waited: Waited | None = None
) -> Iterator[np.ndarray]:
    """Yields the images of each batch of rows, uint8 [b, h, w, 3]; lazy ones are read ahead.

    Args:
      images: of which rows are taken.
      rows: of each batch.
      waited: where to add up the seconds of waiting for the files.
    """
    if not isinstance(images, LazyImages):
        for chosen in rows:
            yield images[chosen]
        return
    source = images
    pool = ThreadPoolExecutor(1)
    remaining = iter(rows)

    def read(chosen: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        return source[chosen if isinstance(chosen, slice) else np.asarray(chosen)]

    try:
        queue: list[Future[np.ndarray]] = [pool.submit(read, chosen) for chosen in islice(remaining, _AHEAD)]
        while queue:
            start = time.perf_counter()
            batch = queue.pop(0).result()
            if waited is not None:
                waited.seconds += time.perf_counter() - start
            queue += [pool.submit(read, chosen) for chosen in islice(remaining, 1)]
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
