"""Makes TFDS datasets of MedMNIST's files, from which images are read at random; without TensorFlow.

From the repository:

    python -m experiments.prepare_data --dataset=bloodmnist --size=224
    python -m experiments.prepare_data --dataset=bloodmnist,breastmnist --size=28,224 --medmnist_root=~/.medmnist
    python -m experiments.prepare_data --dataset=all --size=224 --data_dir=/data/tensorflow_datasets

A dataset is there when it is whole: a run can be stopped at any moment, and the next one goes on. Then, for example:
`python -m experiments.rank_sources --target=medmnist:bloodmnist/224`.
"""

from __future__ import annotations

import time

from absl import flags

from experiments import _cli
from transferjax._validate import fail
from transferjax.data import medmnist, medmnist_info

_DATASET = flags.DEFINE_list(
    "dataset", None, f"From: {', '.join(medmnist_info.INFO)}; separated by commas; or all.", required=True
)
_SIZE = flags.DEFINE_list("size", ["28"], "Height and width: from 28, 64, 128, 224; separated by commas; or all.")
_ROOT = flags.DEFINE_string(
    "medmnist_root",
    None,
    "The folder with the files as MedMNIST names them: bloodmnist.npz, bloodmnist_224.npz; the medmnist package keeps "
    "them in ~/.medmnist. Default: they are downloaded, and kept in downloads/medmnist of data_dir.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its datasets. Default: ~/tensorflow_datasets.")
_VERIFY = flags.DEFINE_bool(
    "verify", True, "Whether files in medmnist_root have to be those that MedMNIST published: numbers of images, MD5."
)


def main(_argv: list[str]) -> None:
    """Prepares what is not there, and says so."""
    datasets = list(medmnist_info.INFO) if _DATASET.value == ["all"] else _DATASET.value
    sizes = list(medmnist_info.SIZES) if _SIZE.value == ["all"] else [_whole(size) for size in _SIZE.value]
    wanted = [(dataset, size) for size in map(medmnist_info.checked_size, sizes) for dataset in datasets]
    for dataset in datasets:
        medmnist_info.info(dataset)
    missing = medmnist.missing_files(wanted, medmnist_root=_ROOT.value, data_dir=_DATA_DIR.value)
    if missing:  # said before hours of work
        remedy = "Put them there, or leave out --medmnist_root to have them downloaded."
        raise fail("medmnist_root", f"not there: {', '.join(map(str, missing))}", remedy)
    for dataset, size in wanted:
        start = time.perf_counter()
        there = medmnist.prepared_folder(dataset, size, data_dir=_DATA_DIR.value)
        folder = there or medmnist.prepare_medmnist(
            *(dataset, size),
            medmnist_root=_ROOT.value,
            data_dir=_DATA_DIR.value,
            verify=_VERIFY.value,
        )
        what = "was prepared already" if there else f"prepared in {time.perf_counter() - start:.0f} s"
        print(f"{dataset} {size}: {what}. {_described(dataset, size)} {folder}", flush=True)


def _described(dataset: str, size: int) -> str:
    """Returns how many images of which classes a prepared dataset has."""
    splits = {
        split: medmnist.open_medmnist(dataset, size, split=split, data_dir=_DATA_DIR.value) for split in medmnist.SPLITS
    }
    first = splits["train"]
    numbers = ", ".join(f"{split} {len(data):,}" for split, data in splits.items())
    official = {split: len(data) for split, data in splits.items()} == medmnist_info.INFO[dataset].num_examples
    return (
        f"{sum(map(len, splits.values())):,} images ({numbers}), {first.num_classes} "
        f"{'labels' if first.task == 'multilabel' else 'classes'}{'' if official else ', not the official numbers'}."
    )


def _whole(size: str) -> int:
    if not size.isdecimal():
        raise fail("size", f"{size!r}", f"Give some of {', '.join(map(str, medmnist_info.SIZES))}, or all.")
    return int(size)


if __name__ == "__main__":
    _cli.run(main)
