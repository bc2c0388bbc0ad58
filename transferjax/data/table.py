"""Data sets in tables: a row for each image file, with its labels and, if there are, its split and its group."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path

import numpy as np
import pandas as pd
from absl import logging

from transferjax._validate import fail
from transferjax.data import reading
from transferjax.data._checks import SPLITS, checked_dataset
from transferjax.data.image_files import open_files, torn_apart
from transferjax.types import TargetDataset

SUFFIXES = (".csv", ".tsv", ".parquet")
_SPLIT_OF = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_MISSING = ("", "nan")
_VALUES = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "-1": -1, "-1.0": -1, "": -1, "nan": -1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table are what.

    Attributes:
      image: paths of the files.
      labels: one column of class names or numbers; or several, one per label of a multi-label target, of 0, 1, and
        nothing or -1 for a missing one. Several in which every row has exactly one 1 are taken as classes.
      split: train, val or test (or training, valid, validation, dev, testing); without such a column all is train.
      group: equal for images that must not be torn apart, such as those of one patient; there need be none.
      separator: if given, the one label column holds a list of labels with this between them, as in NIH's `a|b`.
      image_root: folder that paths are relative to; None for the table's own.
    """

    image: str = "image"
    labels: tuple[str, ...] = ("label",)
    split: str = "split"
    group: str = "group"
    separator: str | None = None
    image_root: str | None = None


def load_table(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int | None = None,
    columns: Columns | None = None,
    skip_unreadable: bool = False,
    options: reading.Options = reading.DEFAULTS,
) -> TargetDataset:
    """Opens one split of a table; pixels are read when they are asked for.

    Classes are the different values of the label column over all splits, sorted, as numbers if all are numbers.

    Args:
      path: a `.csv`, `.tsv` or `.parquet` file.
      split: `"train"`, `"val"` or `"test"`.
      image_size: make every image this high and this wide; see `image_files.open_files`, also for the rest.
      columns: which columns are what.
      skip_unreadable: leave out files that are not there or cannot be read, and say so; without, it is an error.
      options: how to read what can be read in several ways.

    Returns:
      The data set, named as the file is, in the order of the rows; each slice or frame of a file is an image. Its
      groups are the column's; without one, the images of one file, if there are files with several.

    Raises:
      InputError: the table cannot be read, has not these columns, a row lacks its image or label, names an image again
        or has an unknown split, a class is not in the training split, or see `image_files.open_files`.
    """
    columns = columns or Columns()
    path = Path(path)
    rows = _rows(path, columns)
    labels, class_names, multilabel = _labels(path, rows, columns)
    splits = _splits(path, rows, columns)
    chosen = np.flatnonzero(splits == split)
    if not len(chosen):
        has = ", ".join(name for name in SPLITS if (splits == name).any())
        raise fail(str(path), f"no row of split {split!r}", f"Choose a split that it has: {has}.")
    if not multilabel and split != "train":
        _known_in_training(path, labels, splits, split, class_names)
    named = _files(path, rows, columns)
    files = [named[i] for i in chosen]
    if not skip_unreadable:
        _all_there(f"{path}, {columns.image}", files)
    opened = open_files(
        str(path),
        files,
        others=[named[i] for i in np.flatnonzero(splits != split)],
        image_size=image_size,
        skip_unreadable=skip_unreadable,
        options=options,
    )
    groups = torn_apart(opened.files)
    if columns.group in rows:
        groups = _groups(path, rows[columns.group])[chosen][opened.files]
    return checked_dataset(
        str(path),
        name=path.stem,
        images=opened.images,
        labels=labels[chosen][opened.files],
        class_names=class_names,
        task="multilabel" if multilabel else "multiclass",
        groups=groups,
        scored=split == "train",
        arrays=(columns.image, ", ".join(columns.labels[:3])),
    )


def splits_of_table(path: str | os.PathLike[str], *, columns: Columns | None = None) -> tuple[str, ...]:
    """Returns which splits `load_table` finds there."""
    columns = columns or Columns()
    found = set(_splits(Path(path), _rows(Path(path), columns), columns))
    return tuple(name for name in SPLITS if name in found)


def _rows(path: Path, columns: Columns) -> pd.DataFrame:
    """Returns the table with all values as text, and checks its columns."""
    try:
        if path.suffix.lower() == ".parquet":
            rows = pd.read_parquet(path)
            missing = rows.isna()
            rows = rows.astype(str).mask(missing, "")
        else:  # no text means a missing value: a class may be called "NA" or "None"
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            rows = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: what pandas and pyarrow raise on damaged or empty files
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        remedy = "Give a table with a header, as UTF-8 text or Parquet."
        raise fail(str(path), f"cannot be read ({reason})", remedy) from error
    if columns.separator is not None and len(columns.labels) != 1:
        found = f"{len(columns.labels)} columns with a label separator"
        raise fail("label_columns", found, "Give one column that holds lists, or no separator.")
    flags = {columns.image: "image_column"} | dict.fromkeys(columns.labels, "label_columns")
    if columns.split != Columns.split:
        flags[columns.split] = "split_column"
    if columns.group != Columns.group:
        flags[columns.group] = "group_column"
    for column, flag in flags.items():
        if column not in rows:
            close = difflib.get_close_matches(column, map(str, rows.columns), n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            has = ", ".join(map(str, rows.columns)) or "none"
            raise fail(f"{path}, {flag}", f"no column {column!r}{hint}", f"It has: {has}. Name one of them.")
    if rows.empty:
        raise fail(str(path), "has no rows", "Give one row for each image.")
    for column in (columns.image, *columns.labels):
        rows[column] = rows[column].str.strip()
    return rows


def _line(row: int) -> int:
    """Returns the line of a row in a text file, counted from 1, after the header."""
    return row + 2


def _labels(path: Path, rows: pd.DataFrame, columns: Columns) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """Returns labels [n] or [n, c] of all rows, the names of classes or labels, and whether it is multi-label."""
    if len(columns.labels) > 1:
        return _of_columns(path, rows, columns.labels)
    column = columns.labels[0]
    empty = rows[column].str.lower().isin(_MISSING).to_numpy()
    if empty.any():
        found = f"{empty.sum()} rows without a label (first: line {_line(int(empty.argmax()))})"
        raise fail(f"{path}, {column}", found, "Fill them in, or remove the rows.")
    if columns.separator is None:
        names = sorted(set(rows[column]), key=_as_number_or_text)
        return pd.Index(names).get_indexer(rows[column]), tuple(names), False
    lists = [{part.strip() for part in text.split(columns.separator)} - {""} for text in rows[column]]
    names = sorted(set().union(*lists))
    return np.array([[name in labels for name in names] for labels in lists], np.int8), tuple(names), True


def _as_number_or_text(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _of_columns(path: Path, rows: pd.DataFrame, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """Returns the labels of one column each; classes, if they are one-hot."""
    labels = np.empty((len(rows), len(names)), np.int8)
    for j, name in enumerate(names):
        values = rows[name].str.lower().map(_VALUES)
        if (wrong := values.isna().to_numpy()).any():
            row = int(wrong.argmax())
            found = f"{rows[name].iloc[row]!r} in line {_line(row)}"
            raise fail(f"{path}, {name}", found, "Labels in several columns are 0, 1, or nothing for a missing one.")
        labels[:, j] = values.to_numpy()
    if (labels >= 0).all() and (labels.sum(axis=1) == 1).all():
        logging.warning("%s: every row has one of the %d labels: they are taken as classes.", path, len(names))
        return labels.argmax(axis=1), names, False
    return labels, names, True


def _splits(path: Path, rows: pd.DataFrame, columns: Columns) -> np.ndarray:
    """Returns the split of each row."""
    if columns.split not in rows:
        return np.full(len(rows), "train", dtype=object)
    found = rows[columns.split].str.strip().str.lower().map(_SPLIT_OF)
    if (wrong := found.isna().to_numpy()).any():
        row = int(wrong.argmax())
        value = rows[columns.split].iloc[row]
        remedy = "Give train, val or test, or name another column as split_column."
        raise fail(f"{path}, {columns.split}", f"{value!r} in line {_line(row)} is no split", remedy)
    return found.to_numpy(dtype=object)


def _known_in_training(
    path: Path, labels: np.ndarray, splits: np.ndarray, split: str, class_names: tuple[str, ...]
) -> None:
    unknown = sorted(set(labels[splits == split]) - set(labels[splits == "train"]))
    if unknown:
        found = f"{class_names[unknown[0]]!r} is in split {split!r} but not in 'train'"
        raise fail(f"{path}, label", found, "Add examples for training, or remove these rows.")


def _groups(path: Path, column: pd.Series) -> np.ndarray:
    """Returns the groups as numbers."""
    text = column.str.strip()
    empty = text.str.lower().isin(_MISSING).to_numpy()
    if empty.any():
        found = f"{empty.sum()} rows without a group (first: line {_line(int(empty.argmax()))})"
        raise fail(f"{path}, {column.name}", found, "Give each row one, its own if nothing is known.")
    return pd.factorize(text)[0].astype(np.int32)


def _files(path: Path, rows: pd.DataFrame, columns: Columns) -> list[Path]:
    """Returns the files of the rows, after a look for missing names and repeated ones."""
    names = rows[columns.image]
    where = f"{path}, {columns.image}"
    empty = names.str.lower().isin(_MISSING).to_numpy()
    if empty.any():
        found = f"{empty.sum()} rows without a file (first: line {_line(int(empty.argmax()))})"
        raise fail(where, found, "Fill them in, or remove the rows.")
    root = Path(columns.image_root).expanduser() if columns.image_root is not None else path.parent
    if not root.is_dir():
        raise fail("image_root", f"{str(root)!r} is no folder", "Give the folder that the paths are relative to.")
    normal = names.map(os.path.normpath)
    again = normal.duplicated(keep="first").to_numpy()
    if again.any():
        row = int(again.argmax())
        first = int((normal == normal.iloc[row]).to_numpy().argmax())
        found = f"{names.iloc[row]!r} in line {_line(row)} is in line {_line(first)} too ({again.sum()} such rows)"
        raise fail(where, found, "Name each file once.")
    return [root / name for name in names]


def _all_there(where: str, files: list[Path]) -> None:
    absent = [file for file in files if not os.path.lexists(file)]
    if absent:
        found = f"{len(absent)} of {len(files)} files are not there (first: {absent[0]})"
        raise fail(where, found, "Correct the paths, give image_root, or skip_unreadable to leave them out.")
