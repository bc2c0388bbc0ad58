"""The flags with which scripts are told of a target, and how it is opened."""

from __future__ import annotations

import pandas as pd
from absl import flags

from transferjax import data
from transferjax._validate import fail
from transferjax.types import TargetDataset

TARGET = flags.DEFINE_string(
    "target",
    "mri_tissue",
    "A demo task, medmnist:<dataset>/<size>, tfds:<dataset>, radimagenet:<folder>, a .npz in MedMNIST's layout, a "
    "folder of class folders, or a table (.csv, .tsv, .parquet) of image files.",
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Height and width to bring the target's images to.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps data sets. Default: its own, ~/tensorflow_datasets.")
_SKIP = flags.DEFINE_bool("skip_unreadable", False, "Leave out files that cannot be read, and say which.")
_IMAGE = flags.DEFINE_string("image_column", data.Columns.image, "Of a table: the column of paths.")
_LABELS = flags.DEFINE_list(
    "label_columns",
    list(data.Columns.labels),
    "Of a table: one column of classes, or one per label of 0, 1 or nothing.",
)
_SPLIT = flags.DEFINE_string("split_column", data.Columns.split, "Of a table: train, val or test; empty for none.")
_GROUP = flags.DEFINE_string("group_column", data.Columns.group, "Of a table: the patients, if known; empty for none.")
_SEPARATOR = flags.DEFINE_string("label_separator", None, "Of a table: what is between the labels of one column, as |.")
_ROOT = flags.DEFINE_string("image_root", None, "Of a table: the folder that paths are relative to. Default: its own.")
_WINDOW = flags.DEFINE_list(
    "window", None, "Centre and width of the values that become black to white, in DICOM, NIfTI and 16-bit files."
)
_AXIS = flags.DEFINE_integer("nifti_axis", 2, "Of NIfTI volumes: 0 for sagittal slices, 1 coronal, 2 axial.")
_STRIDE = flags.DEFINE_integer("nifti_stride", 1, "Of NIfTI volumes: take every so manieth slice.")

OF_FILES = (_SKIP, _IMAGE, _LABELS, _SPLIT, _GROUP, _SEPARATOR, _ROOT, _WINDOW, _AXIS, _STRIDE)
"""The flags that tell how folders and tables are read."""


def load_target(split: str = "train", *, target: str | None = None, scored: bool | None = None) -> TargetDataset:
    """Opens a split of the target that the flags tell of, or of another; `scored` as for `data.load`."""
    return data.load(
        TARGET.value if target is None else target,
        split=split,
        image_size=_IMAGE_SIZE.value,
        data_dir=DATA_DIR.value,
        columns=_columns(),
        skip_unreadable=_SKIP.value,
        options=data.Options(window=_window(), nifti_axis=_AXIS.value, nifti_stride=_STRIDE.value),
        scored=scored,
    )


def splits(target: str | None = None) -> tuple[str, ...]:
    """Returns which splits the target has."""
    return data.splits_of(TARGET.value if target is None else target, data_dir=DATA_DIR.value, columns=_columns())


def counts_text(counts: pd.DataFrame) -> str:
    """Returns a table of counts, with thousands apart and their sums below."""
    total = counts.sum().to_frame("all").T
    return pd.concat([counts, total]).map("{:,}".format).to_string()


def _columns() -> data.Columns:
    return data.Columns(
        image=_IMAGE.value,
        labels=tuple(_LABELS.value),
        split=_SPLIT.value,
        group=_GROUP.value,
        separator=_SEPARATOR.value,
        image_root=_ROOT.value,
    )


def _window() -> tuple[float, float] | None:
    if _WINDOW.value is None:
        return None
    try:
        centre, width = map(float, _WINDOW.value)
    except ValueError as error:
        raise fail("window", ",".join(_WINDOW.value), "Give two numbers: centre,width.") from error
    return centre, width
