"""Images that stay in their files until they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

_BLOCK = 64
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
        self._size = size
        self._known: list[bytes] | None = None
        self.shape = (len(self._rows), *size, 3)

    def __len__(self) -> int:
        """The number of images n."""
        return len(self._rows)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        """Reads rows: uint8 [b, h, w, 3]; or one, [h, w, 3]."""
        if isinstance(rows, int | np.integer):
            return self._read(int(self._rows[rows]))
        return self._filled(self._rows[rows])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Reads all."""
        del copy  # they are always fresh
        return self[:].astype(dtype or np.uint8, copy=False)

    def take(self, rows: slice | np.ndarray) -> LazyImages:
        """Returns the images of these rows, unread."""
        return LazyImages(self._read, rows=self._rows[rows], size=self._size, fingerprint=self._fingerprint)

    def changed(self, change: Callable[[np.ndarray], np.ndarray], *, size: tuple[int, int], name: str) -> LazyImages:
        """Returns images that are changed when they are read.

        Args:
          change: uint8 [h, w, 3] → uint8 of the new size.
          size: the new height and width.
          name: of the change, for the fingerprints.
        """
        return _Changed(self, change, size=size, name=name.encode())

    def fingerprint(self, row: int) -> bytes:
        """Returns what tells one image from others without decoding it."""
        return self._fingerprint(int(self._rows[row]))

    def fingerprints(self) -> list[bytes]:
        """Returns that of each image; worked out once."""
        if self._known is None:
            self._known = self._worked_out()
        return self._known

    def _worked_out(self) -> list[bytes]:
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


class _Changed(LazyImages):
    """Images that are changed when they are read."""

    def __init__(
        self, source: LazyImages, change: Callable[[np.ndarray], np.ndarray], *, size: tuple[int, int], name: bytes
    ) -> None:
        super().__init__(
            lambda row: change(source[row]),
            rows=np.arange(len(source)),
            size=size,
            fingerprint=lambda row: source.fingerprint(row) + name,
        )
        self._source, self._change, self._name = source, change, name

    def take(self, rows: slice | np.ndarray) -> LazyImages:
        return _Changed(self._source.take(self._rows[rows]), self._change, size=self._size, name=self._name)

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for start in range(0, len(numbers), _BLOCK):  # not many of the old size at once
            for place, image in enumerate(self._source[numbers[start : start + _BLOCK]], start):
                images[place] = self._change(image)
        return images
