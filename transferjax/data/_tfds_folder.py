"""Where the files of a prepared TFDS dataset are."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

import tensorflow_datasets as tfds

from transferjax._validate import InputError, fail

_NAME = re.compile(r"(?P<dataset>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>(\d+|\*)\.(\d+|\*)\.(\d+|\*)))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def prepared_folder(name: str, root: Path) -> Path:
    """Returns the folder of a prepared dataset: of its newest version that fits.

    It is looked for without the dataset's code, some of which cannot be imported without TensorFlow.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise fail("tfds", f"{name!r} is no name of a dataset", "Write dataset, dataset/config or dataset:1.0.0.")
    folder = root / parts["dataset"]
    if parts["config"] is not None:
        folder /= parts["config"]
    elif not _versions(folder):
        folder = _default_config(name, folder)
    fitting = [
        version for version in _versions(folder) if tfds.core.Version(version).match(parts["version"] or "*.*.*")
    ]
    if not fitting:
        raise _not_prepared(name, parts["dataset"], root)
    return folder / max(fitting, key=lambda version: [int(number) for number in version.split(".")])


def _versions(folder: Path) -> list[str]:
    """Returns the versions that are in a folder."""
    if not folder.is_dir():
        return []
    entries = (entry for entry in folder.iterdir() if _VERSION.fullmatch(entry.name))
    return [entry.name for entry in entries if (entry / "dataset_info.json").is_file()]


def _default_config(name: str, folder: Path) -> Path:
    """Returns the folder of a dataset's default configuration, or of the only one that is prepared."""
    if not folder.is_dir():
        return folder
    prepared = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _versions(entry))
    try:
        default = json.loads((folder / ".config" / "metadata.json").read_text())["default_config_name"]
    except (OSError, ValueError, KeyError):
        default = None
    if default in prepared or len(prepared) == 1:
        return folder / (default if default in prepared else prepared[0])
    if prepared:
        dataset = folder.name
        choices = ", ".join(f"{dataset}/{config}" for config in prepared)
        raise fail("tfds", f"{name!r} has several configurations", f"Choose one: {choices}.")
    return folder


def _not_prepared(name: str, dataset: str, root: Path) -> InputError:
    """Returns the error for a dataset of which there are no files."""
    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(dataset, known, n=1)
    if dataset not in known and close:
        return fail("tfds", f"{name!r} is neither in {root} nor known to TFDS", f"Did you mean {close[0]!r}?")
    remedy = f"Where there is a network, and TensorFlow if TFDS asks for it: {command(name, root)}"
    return fail("tfds", f"{name!r} is not prepared in {root}", remedy)


def command(name: str, root: Path) -> str:
    """Returns what prepares a dataset in the format that can be read at random."""
    call = f"tfds.builder('{name}', data_dir='{root}', file_format='array_record').download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'
