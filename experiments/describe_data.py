"""A data set's card: how many examples of each class and split, sizes, colours, repeats; and a contact sheet.

From the repository:

    python -m experiments.describe_data --target=histology
    python -m experiments.describe_data --target=path/to/folder
    python -m experiments.describe_data --target=images.csv --label_columns=diagnosis --group_column=patient
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from absl import flags

from experiments import _cli, _target
from transferjax._files import atomic_write, writable_folder
from transferjax.data.card import Card, describe
from transferjax.report.contact_sheet import plot_contact_sheet
from transferjax.types import TargetDataset

_SEED = flags.DEFINE_integer("seed", 0, "Of the draw of the images that are shown.", lower_bound=0)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where card and sheet go. Default: ./runs/describe_<target>.")


def main(_argv: list[str]) -> None:
    """Describes, prints, writes."""
    start = time.perf_counter()
    splits = {name: _target.load_target(name, scored=False) for name in _target.splits()}
    first = next(iter(splits.values()))
    workdir = writable_folder(
        "workdir", _WORKDIR.value or Path("runs") / f"describe_{first.name}", files=("card.txt", "contact_sheet.png")
    )
    text = _text(first, describe(splits))
    print(text)
    with atomic_write(workdir / "card.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    shown = plot_contact_sheet(first, workdir / "contact_sheet.png", rng=np.random.default_rng(_SEED.value))
    if shown < first.num_classes:
        print(f"The contact sheet shows the first {shown} classes.")
    print(f"\nWrote card.txt and contact_sheet.png to {workdir} in {time.perf_counter() - start:.0f} s.")


def _text(first: TargetDataset, card: Card) -> str:
    several = first.labels.ndim == 2
    what = "labels, several of which an image may have" if several else "classes"
    lines = [f"{first.name}: {first.num_classes} {what}.", "", _target.counts_text(card.counts)]
    if several:
        lines[-1] = card.counts.map("{:,}".format).to_string()  # whose sums would count images several times
    if card.missing is not None:
        lines += ["", "Missing labels:", card.missing.map("{:,}".format).to_string()]
    lines.append("")
    for name, (n, height, width) in card.sizes.items():
        groups = f", in {card.groups[name]:,} groups" if name in card.groups else ""
        lines.append(f"{name}: {n:,} images of {height} x {width} pixels (height x width){groups}.")
    lines.append(f"{'Colour' if card.colours else 'Grey'} images (of {card.looked_at:,} looked at).")
    lines.append(f"Imbalance: the largest class has {card.imbalance:.3g} times the examples of the smallest.")
    repeats = {pair: count for pair, count in card.duplicates.items() if count}
    for pair, count in repeats.items():
        if "," in pair:
            one, other = pair.split(", ")
            lines.append(f"LEAK: {count:,} images of {other} are in {one} too.")
        else:
            lines.append(f"{count:,} images of {pair} are repeats of others in it.")
    if not repeats:
        lines.append("No image is in two splits, or twice in one.")
    for pair, count in card.shared_groups.items():
        if count:
            lines.append(f"LEAK: {count:,} groups are in both {pair.replace(', ', ' and ')}.")
    return "\n".join(lines)


if __name__ == "__main__":
    _cli.run(main)
