"""The rows of a table as text, and which of its columns are what."""

from __future__ import annotations

import csv
import dataclasses
import difflib
from pathlib import Path

import numpy as np
import pandas as pd

from transferjax._validate import fail, reason

SUFFIXES = (".csv", ".tsv", ".parquet")
_MISSING = ("", "nan")
# What else people write for nothing. As a class it may be meant; as a patient it would put strangers into one group.
_NOBODY = (*_MISSING, "na", "n/a", "none", "null", "unknown", "?", "-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table are what.

    Attributes:
      image: paths of the files.
      labels: one column of class names or numbers; or several, one per label of a multi-label target, of 0, 1, and
        nothing or -1 for a missing one. Several in which every row has exactly one 1 are taken as classes.
      split: train, val or test (or training, valid, validation, dev, testing); without such a column, or if this is
        empty, all is train.
      group: equal for images that must not be torn apart, such as those of one patient; there need be none, and empty
        for none.
      separator: if given, the one label column holds a list of labels with this between them, as in NIH's `a|b`; an
        empty list is no label.
      image_root: folder that paths are relative to; None for the table's own.
    """

    image: str = "image"
    labels: tuple[str, ...] = ("label",)
    split: str = "split"
    group: str = "group"
    separator: str | None = None
    image_root: str | None = None


class Rows:
    """The columns that are needed, as text without spaces around it.

    Attributes:
      path: of the table.
      text: one row for each image.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        """Reads and checks them; raises `InputError`."""
        self.path = path
        self._is_text = path.suffix.lower() != ".parquet"
        _check_columns(columns)
        needed = _needed(path, _header(path), columns)
        try:
            if self._is_text:  # no text means a missing value: a class may be called "NA" or "None"
                found = pd.read_csv(
                    path,
                    sep=_separator(path),
                    dtype=str,
                    keep_default_na=False,
                    encoding="utf-8-sig",
                    skip_blank_lines=False,
                    index_col=False,
                    skipinitialspace=True,
                )
                found = found.rename(columns=str.strip)[needed]
            else:
                found = pd.read_parquet(path, columns=needed)
                found = found.astype(object).where(found.notna(), "").map(str)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        found = found.apply(lambda column: column.fillna("").str.strip())
        self.text = found[(found != "").any(axis=1)]  # whose index is still that of the file
        if self.text.empty:
            raise fail(str(path), "has no rows", "Give one row for each image.")

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.text)

    def __contains__(self, column: str) -> bool:
        """Whether there is such a column."""
        return bool(column) and column in self.text

    def where(self, row: int) -> str:
        """Returns where in the file a row is, for messages."""
        number = int(self.text.index[row])
        return f"line {number + 2}" if self._is_text else f"row {number + 1}"  # a line is the header

    def empty(self, column: str) -> np.ndarray:
        """Returns which rows have no value there, bool [n]."""
        return self.text[column].str.lower().isin(_MISSING).to_numpy()

    def none_empty(self, column: str, what: str, remedy: str, *, nobody: bool = False) -> None:
        """Raises `InputError` if a row has no value there."""
        empty = self.text[column].str.lower().isin(_NOBODY).to_numpy() if nobody else self.empty(column)
        if empty.any():
            found = f"{empty.sum()} rows without {what} (first: {self.where(int(empty.argmax()))})"
            raise fail(f"{self.path}, {column}", found, remedy)


def _check_columns(columns: Columns) -> None:
    if len(set(columns.labels)) < len(columns.labels) or not all(columns.labels):
        raise fail("label_columns", ",".join(columns.labels) or "none", "Name each column once.")
    if columns.separator is None:
        return
    if not columns.separator:
        raise fail("label_separator", "''", "Give what is between the labels, such as |.")
    if len(columns.labels) != 1:
        found = f"{len(columns.labels)} columns with a label separator"
        raise fail("label_columns", found, "Give one column that holds lists, or no separator.")


def _separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _header(path: Path) -> list[str]:
    """Returns the names of all columns."""
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet  # here, since it takes a while to import

            return [str(name) for name in pyarrow.parquet.read_schema(path).names]
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = next(csv.reader(file, delimiter=_separator(path)), [])
    except (OSError, ValueError, csv.Error) as error:  # ValueError: what pyarrow and decoders raise
        raise _unreadable(path, error) from error
    names = [name.strip() for name in found]
    if not names:
        raise _unreadable(path, ValueError("it is empty"))
    again = sorted({name for name in names if name and names.count(name) > 1})
    if again:
        raise fail(str(path), f"has several columns {again[0]!r}", "Give each a name of its own.")
    return names


def _needed(path: Path, names: list[str], columns: Columns) -> list[str]:
    """Returns the columns to read; raises `InputError` if one that is asked for is not there."""
    flags = {columns.image: "image_column"} | dict.fromkeys(columns.labels, "label_columns")
    for column, usual, flag in (
        (columns.split, Columns.split, "split_column"),
        (columns.group, Columns.group, "group_column"),
    ):
        if not column:
            continue
        if column in names or column != usual:
            flags[column] = flag
            continue
        if alike := [name for name in names if name.casefold() == usual]:
            found = f"column {alike[0]!r} would not be read"
            raise fail(f"{path}, {flag}", found, f"Give {flag}={alike[0]}, or {flag}= to leave it out.")
    has = ", ".join(names)
    for column, flag in flags.items():
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if len(names) == 1 and (";" in has or "\t" in has):
                hint = f"; columns are to be separated by {_separator(path)!r}"
            raise fail(f"{path}, {flag}", f"no column {column!r}{hint}", f"It has: {has}. Name one of them.")
    return list(flags)


def _unreadable(path: Path, error: Exception) -> Exception:
    return fail(str(path), f"cannot be read ({reason(error)})", "Give a table with a header, as UTF-8 text or Parquet.")
