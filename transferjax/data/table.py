"""Data sets in tables: a row for each image file, with its labels and, if there are, its split and its group."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from absl import logging

from transferjax._validate import fail
from transferjax.data import reading
from transferjax.data._checks import SPLIT_OF, SPLITS, checked_dataset
from transferjax.data._table_rows import SUFFIXES, Columns, Rows
from transferjax.data.image_files import files_as_groups, open_files
from transferjax.types import TargetDataset

__all__ = ["SUFFIXES", "Columns", "load_table", "splits_of_table"]

_VALUES = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "-1": -1, "-1.0": -1, "": -1, "nan": -1}


def load_table(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    image_size: int | None = None,
    columns: Columns | None = None,
    skip_unreadable: bool = False,
    options: reading.Options = reading.DEFAULTS,
    scored: bool | None = None,
) -> TargetDataset:
    """Opens one split of a table; pixels are read when they are asked for.

    Classes are the different values of the label column over all splits, sorted, numbers before other names.

    Args:
      path: a `.csv`, `.tsv` or `.parquet` file.
      split: `"train"`, `"val"` or `"test"`.
      image_size: make every image this high and this wide; see `image_files.open_files`, also for the rest.
      columns: which columns are what.
      skip_unreadable: leave out files that are not there or cannot be read, and say so; without, it is an error.
      options: how to read what can be read in several ways.
      scored: see `transferjax.data.load`.

    Returns:
      The data set, named as the file is, in the order of the rows; each slice or frame of a file is an image. Its
      groups are the column's; without one, the images of one file, if there are files with several.

    Raises:
      InputError: the table cannot be read, has not these columns, a row lacks its image or label, names an image again
        or has an unknown split, a class is not in the training split, or see `image_files.open_files`.
    """
    columns = columns or Columns()
    path = Path(path)
    rows = Rows(path, columns)
    labels, class_names, multilabel = _labels(rows, columns)
    splits = _splits(rows, columns)
    chosen = np.flatnonzero(splits == split)
    if not len(chosen):
        has = ", ".join(name for name in SPLITS if (splits == name).any())
        raise fail(str(path), f"no row of split {split!r}", f"Choose a split that it has: {has}.")
    if not multilabel and split != "train" and scored is not False:
        _known_in_training(rows, columns, labels, splits, split, class_names)
    if multilabel:
        _known_labels(rows, labels)
    named = _files(rows, columns)
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
    if columns.group in rows:
        rows.none_empty(columns.group, "a group", "Give each row one, its own if nothing is known.", nobody=True)
        groups = pd.factorize(rows.text[columns.group])[0].astype(np.int32)[chosen][opened.files]
    else:
        groups = files_as_groups(opened.files, chosen)
    return checked_dataset(
        str(path),
        name=path.stem,
        images=opened.images,
        labels=labels[chosen][opened.files],
        class_names=class_names,
        task="multilabel" if multilabel else "multiclass",
        groups=groups,
        scored=split == "train" if scored is None else scored,
        arrays=(columns.image, ", ".join(columns.labels[:3])),
    )


def splits_of_table(path: str | os.PathLike[str], *, columns: Columns | None = None) -> tuple[str, ...]:
    """Returns which splits `load_table` finds there."""
    columns = columns or Columns()
    found = set(_splits(Rows(Path(path), columns), columns))
    return tuple(name for name in SPLITS if name in found)


def _labels(rows: Rows, columns: Columns) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """Returns labels [n] or [n, c] of all rows, the names of classes or labels, and whether it is multi-label."""
    if len(columns.labels) > 1:
        return _of_columns(rows, columns.labels)
    column = rows.text[columns.labels[0]]
    if columns.separator is None:
        rows.none_empty(columns.labels[0], "a label", "Fill them in, or remove the rows.")
        names = sorted(set(column), key=_as_number_or_text)
        _warn_of_spellings(rows, names)
        return pd.Index(names).get_indexer(column), tuple(names), False
    lists = [{part.strip() for part in text.split(columns.separator)} - {""} for text in column]
    names = sorted(set().union(*lists))
    if not names:
        raise fail(f"{rows.path}, {columns.labels[0]}", "no row has a label", "Name the column that has them.")
    return np.array([[name in labels for name in names] for labels in lists], np.int8), tuple(names), True


def _warn_of_spellings(rows: Rows, names: list[str]) -> None:
    """Tells of classes that are the same but for capital letters, or as numbers."""
    known: dict[object, str] = {}
    for name in names:
        kind, number, _ = _as_number_or_text(name)
        key = number if kind == 0 else name.casefold()
        if key in known:
            logging.warning("%s: %r and %r are two classes. Are they meant to be?", rows.path, known[key], name)
        known.setdefault(key, name)


def _as_number_or_text(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _of_columns(rows: Rows, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """Returns the labels of one column each; classes, if they are one-hot."""
    labels = np.empty((len(rows), len(names)), np.int8)
    for j, name in enumerate(names):
        values = rows.text[name].str.lower().map(_VALUES)
        if (wrong := values.isna().to_numpy()).any():
            row = int(wrong.argmax())
            found = f"{rows.text[name].iloc[row]!r} in {rows.where(row)}"
            remedy = "Labels in several columns are 0, 1, or nothing for a missing one."
            raise fail(f"{rows.path}, {name}", found, remedy)
        labels[:, j] = values.to_numpy()
    if (labels >= 0).all() and (labels.sum(axis=1) == 1).all():
        logging.warning("%s: every row has one of the %d labels: they are taken as classes.", rows.path, len(names))
        return labels.argmax(axis=1), names, False
    return labels, names, True


def _known_labels(rows: Rows, labels: np.ndarray) -> None:
    unknown = (labels < 0).all(axis=1)
    if unknown.any():
        found = f"{unknown.sum()} rows without any known label (first: {rows.where(int(unknown.argmax()))})"
        raise fail(str(rows.path), found, "Remove these rows.")


def _splits(rows: Rows, columns: Columns) -> np.ndarray:
    """Returns the split of each row."""
    if columns.split not in rows:
        return np.full(len(rows), "train", dtype=object)
    found = rows.text[columns.split].str.lower().map(SPLIT_OF)
    if (wrong := found.isna().to_numpy()).any():
        row = int(wrong.argmax())
        value = rows.text[columns.split].iloc[row]
        remedy = "Give train, val or test; or name another column as split_column, or none."
        raise fail(f"{rows.path}, {columns.split}", f"{value!r} in {rows.where(row)} is no split", remedy)
    return found.to_numpy(dtype=object)


def _known_in_training(
    rows: Rows, columns: Columns, labels: np.ndarray, splits: np.ndarray, split: str, class_names: tuple[str, ...]
) -> None:
    in_training = set(labels[splits == "train"])
    unknown = sorted(set(labels[splits == split]) - in_training)
    if unknown and in_training:
        found = f"{class_names[unknown[0]]!r} is in split {split!r} but not in 'train'"
        where = f"{rows.path}, {', '.join(columns.labels[:3])}"
        raise fail(where, found, "Add examples for training, or remove these rows.")


def _files(rows: Rows, columns: Columns) -> list[Path]:
    """Returns the files of the rows, after a look for missing names and repeated ones."""
    where = f"{rows.path}, {columns.image}"
    rows.none_empty(columns.image, "a file", "Fill them in, or remove the rows.")
    root = Path(columns.image_root).expanduser() if columns.image_root is not None else rows.path.parent
    if not root.is_dir():
        raise fail("image_root", f"{str(root)!r} is no folder", "Give the folder that the paths are relative to.")
    names = rows.text[columns.image]
    files = [root / Path(name).expanduser() for name in names]
    normal = pd.Series([os.path.abspath(file) for file in files])
    again = normal.duplicated(keep="first").to_numpy()
    if again.any():
        row = int(again.argmax())
        first = int((normal == normal.iloc[row]).to_numpy().argmax())
        found = f"{names.iloc[row]!r} in {rows.where(row)} is in {rows.where(first)} too ({again.sum()} such rows)"
        raise fail(where, found, "Name each file once.")
    return files


def _all_there(where: str, files: list[Path]) -> None:
    absent = [file for file in files if not os.path.lexists(file)]
    if absent:
        found = f"{len(absent)} of {len(files)} files are not there (first: {absent[0]})"
        remedy = "Correct the paths, give image_root, or skip_unreadable to leave them out."
        if os.sep == "/" and "\\" in str(absent[0]):
            remedy = f"Write / between folders. {remedy}"
        raise fail(where, found, remedy)
