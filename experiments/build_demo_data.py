"""Builds the small image tasks in `transferjax/data/demo` from real pixels that pip packages ship.

Needs `pip install -e '.[demo-data]'` and no network. The same package versions and seed give the same bytes:

    python -m experiments.build_demo_data
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from absl import flags

from experiments import _cli
from experiments.demo_tasks import patches, sources
from transferjax import _files

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "transferjax/data/demo", "Folder that the files are written to.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all choices: regions, patches and their order.", lower_bound=0)


def encode(task: sources.Task) -> bytes:
    """Returns the task as an npz file in MedMNIST's layout, with the names of the classes beside it."""
    arrays: dict[str, Any] = {"class_names": np.array(task.class_names)}
    for split in patches.SPLITS:
        arrays[f"{split}_images"] = task.images[split]
        arrays[f"{split}_labels"] = task.labels[split]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def main(argv: list[str]) -> None:
    """Builds every task, then writes all files."""
    del argv
    sources.require()
    # These need the packages that were just asked for.
    from experiments.demo_tasks import describe, microscopy, mri, photos

    folder = _files.writable_folder("--output_dir", _OUTPUT_DIR.value)
    builders = (
        *(mri.tissue, mri.plane, microscopy.nuclei, microscopy.histology, microscopy.retina),
        *(photos.digits, photos.faces, photos.photos),
    )
    tasks = []
    for number, build in enumerate(builders):
        tasks.append(build(np.random.default_rng([_SEED.value, number])))
        print(f"{tasks[-1].name} is built.")
    contents = {f"{task.name}.npz": encode(task) for task in tasks}
    contents["README.md"] = describe.readme(tasks).encode()
    contents["contact_sheet.png"] = describe.contact_sheet(tasks)
    for name, content in contents.items():
        with _files.atomic_write(folder / name) as path:
            path.write_bytes(content)
        print(f"{len(content):>9,} bytes  {folder / name}")


if __name__ == "__main__":
    _cli.run(main)
