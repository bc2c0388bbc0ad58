"""Images that stay in their files until they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_THREADS = min(16, os.cpu_count() or 1)  # decoders release Python's lock


class LazyImages:
    """Images like a uint8 array [n, h, w, 3] of which only the rows asked for are read, in several threads.

    `images[rows]`, rows being a slice or whole numbers, reads and returns an array; `images.take(rows)` reads nothing
    and returns such images again. Equal rows are read again each time.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        *,
        rows: np.ndarray,
        size: tuple[int, int],
        fingerprint: Callable[[int], bytes],
    ) -> None:
        """Keeps how to read.

        Args:
          read: number of an image → uint8 [h, w, 3]; called in threads.
          rows: whole numbers [n], the images' numbers for `read`.
          size: height and width of all images as `read` returns them.
          fingerprint: number of an image → what is equal only if what `read` returns is; cheaper than reading, such as
            a hash of the file.
        """
        self._read, self._fingerprint = read, fingerprint
        self._rows = np.asarray(rows, np.int64)
        self.shape = (len(self._rows), *size, 3)

    def __len__(self) -> int:
        """The number of images n."""
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Reads rows: uint8 [b, h, w, 3]."""
        return self._filled(self._rows[rows])

    def take(self, rows: slice | np.ndarray) -> LazyImages:
        """Returns the images of these rows, unread."""
        return LazyImages(
            self._read, rows=self._rows[rows], size=(self.shape[1], self.shape[2]), fingerprint=self._fingerprint
        )

    def fingerprints(self) -> list[bytes]:
        """Returns what tells each image from others without decoding it."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self._fingerprint, self._rows.tolist()))

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)

        def fill(place: int) -> None:
            images[place] = self._read(int(numbers[place]))

        pool = ThreadPoolExecutor(min(_THREADS, max(1, len(numbers))))
        try:
            list(pool.map(fill, range(len(numbers))))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or ctrl-C the rest is not read
        return images
