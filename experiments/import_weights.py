"""Turns pretrained weights into a file that says everything about itself, and reports what became of each tensor.

From the repository:

    python -m experiments.import_weights --architecture=resnet50 --weights=path/to/model.pth
    python -m experiments.import_weights --architecture=densenet121 --weights=imagenet --output=densenet121.safetensors
    python -m experiments.import_weights --architecture=resnet50 --weights=radimagenet:path/to/RadImageNet_pytorch

`transferjax.models.load` says what weights can be. The file that is written is a source by itself:
`python -m experiments.rank_sources --sources=densenet121.safetensors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from absl import flags

from experiments import _cli
from transferjax import models
from transferjax._validate import InputError, fail
from transferjax.evaluation import static
from transferjax.models.preprocessing import normalize
from transferjax.types import ChannelOrder, Normalization, SourceModel

_ARCHITECTURE = flags.DEFINE_string("architecture", None, f"One of: {', '.join(models.names())}.", required=True)
_WEIGHTS = flags.DEFINE_string(
    "weights", "imagenet", "imagenet, radimagenet, medmnist:<dataset>, a file, a folder or a URL."
)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write. Default: <architecture>_<weights>.safetensors here.")
_FOLDER = flags.DEFINE_string("weights_dir", None, "Where downloads are kept. Default: ~/.cache/transferjax/weights.")
_SHA256 = flags.DEFINE_string("sha256", None, "Of the file, or how it begins.")
_MEAN = flags.DEFINE_list("mean", None, "Of the three channels, 0..1. Default: as published, or ImageNet's.")
_STD = flags.DEFINE_list("std", None, "Likewise; for images in -1..1 both are 0.5,0.5,0.5.")
_ORDER = flags.DEFINE_enum("channel_order", None, ["rgb", "bgr"], "In which order the network takes the colours.")
_GREY = flags.DEFINE_bool("grey", None, "Whether it was trained on grey images, so that colours are removed first.")
_SIZE = flags.DEFINE_integer("size", None, "Height and width to bring images to. Default: as they are.")


def main(_argv: list[str]) -> None:
    """Imports, reports, writes."""
    options: dict[str, Any] = {"weights": _WEIGHTS.value, "folder": _FOLDER.value, "sha256": _SHA256.value}
    source, report = models.load_and_report(_ARCHITECTURE.value, **options)
    if (changed := changes(source.normalization)) != source.normalization:
        source, report = models.load_and_report(_ARCHITECTURE.value, normalization=changed, **options)
    name = source.name if source.name.startswith(source.architecture) else f"{source.architecture}_{source.name}"
    path = Path(_OUTPUT.value or f"{name}.safetensors")
    if path.suffix != ".safetensors":
        raise fail("output", f"{str(path)!r} does not end in .safetensors", "Choose such a name.")
    for line in told(source, report):
        print(line)
    models.save(path, source)
    if models.load(path).weights_hash != source.weights_hash:
        raise InputError(f"{path} does not hold what was written. The disk may be damaged.")
    print(f"Written to {path}; rank it with --sources={path}")


def changes(published: Normalization) -> Normalization:
    """Returns the normalization with what the flags say."""
    given = {"mean": _MEAN.value, "std": _STD.value}
    values = {}
    for name, texts in given.items():
        if texts is None:
            values[name] = getattr(published, name)
            continue
        try:
            values[name] = tuple(float(text) for text in texts)
        except ValueError as error:
            raise fail(name, f"{','.join(texts)!r}", "Give three numbers, separated by commas.") from error
    return Normalization(
        **values,
        channel_order=cast(ChannelOrder, _ORDER.value or published.channel_order),
        grey=published.grey if _GREY.value is None else _GREY.value,
        size=published.size if _SIZE.value is None else _SIZE.value,
    )


def told(source: SourceModel, report: models.Imported | None) -> list[str]:
    """Returns, in lines, what was imported: tensors, parameters, and a number to compare with elsewhere."""
    lines = [f"{source.architecture} from {source.origin}"]
    if report is not None:
        lines.append(f"Tensors matched: {len(report.matched)}; unmatched: none, or this would have been an error.")
        for path, key in list(report.matched.items())[:2]:
            lines.append(f"  for example {key} → {path}")
        lines.append(f"Dropped on purpose: {len(report.dropped)}")
        others = [key for key in report.dropped if not key.endswith("num_batches_tracked")]
        if len(others) < len(report.dropped):
            lines.append(f"  {len(report.dropped) - len(others)} x num_batches_tracked, which inference never reads")
        lines += [f"  {key}" for key in others]
        lines += [f"Note: {note}." for note in report.notes]
    lines += [f"{name}: {value:,.10g}" for name, value in static.controls(source).items()]
    normalization = source.normalization
    lines.append(
        f"Images: mean {normalization.mean}, std {normalization.std}, {normalization.channel_order}"
        f"{', grey' if normalization.grey else ''}, size {normalization.size or 'as they are'}"
    )
    output = models.run(source.module, source.variables, normalize(fixed_image(), normalization))
    features, logits = (np.asarray(array[0], np.float64) for array in (output.features, output.logits))
    lines.append(f"On a fixed image of 64 pixels: {len(features)} features, norm {np.linalg.norm(features):.6g}")
    if len(logits):
        first = ", ".join(f"{value:.5g}" for value in logits[:4])
        lines.append(f"  {len(logits)} logits, sum {logits.sum():.6g}, norm {np.linalg.norm(logits):.6g}: {first} ...")
    return lines


def fixed_image() -> jax.Array:
    """Returns an image uint8 [1, 64, 64, 3] of ramps: red grows down, green to the right, blue with their product."""
    ramp = np.arange(64) * 4
    red, green = np.broadcast_to(ramp[:, None], (64, 64)), np.broadcast_to(ramp, (64, 64))
    return jax.numpy.asarray(np.stack([red, green, red * green // 252], axis=-1)[None].astype(np.uint8))


if __name__ == "__main__":
    _cli.run(main)
