"""experiments/pretrain.py: what it trains, prints, writes and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from tests.conftest import SHORT
from tests.data import test_medmnist as medmnist_files
from tests.data import test_radimagenet as radimagenet_files
from tests.training import scripts, tiny
from transferjax import data, models
from transferjax._lazy import LazyImages
from transferjax._validate import InputError
from transferjax.data.medmnist_info import INFO
from transferjax.training import Where, predict


@pytest.fixture(scope="module")
def script():
    tiny.source()  # registers the architecture
    with scripts.alone("experiments.pretrain") as module:
        yield module


@pytest.fixture
def run(script, tmp_path, capsys):
    def run(**changes):
        wanted = {"architecture": tiny.ARCHITECTURE, "epochs": 2, "batch_size": 16, "output_dir": str(tmp_path / "out")}
        with flagsaver.flagsaver(**{**wanted, **changes}):
            script.main(["pretrain"])
        return capsys.readouterr().out

    run.folder = tmp_path / "out"
    run.manifest = lambda: json.loads((run.folder / "manifest.json").read_text())
    return run


@pytest.fixture(scope="module")
def medmnist(tmp_path_factory):
    """All MedMNIST sets, small and made up, prepared by TFDS's builders."""
    folder = tmp_path_factory.mktemp("medmnist")
    for name in INFO:
        medmnist_files.write(folder, name, 28)
        medmnist_files.prepare(folder, name, 28)
    data.load(
        f"medmnist:{name}/28", data_dir=folder / "tfds", scored=False
    )  # defines flags of Grain's, which stay then
    return folder / "tfds"


def test_sources_of_single_data_sets(run):
    flags = {"architecture": SHORT, "width": 4, "epochs": 1, "batch_size": 64}
    out = run(datasets=["faces", "random"], **flags)
    assert "faces: validation AUC " in out
    assert "random: an untrained control" in out
    assert f"Sources and manifest.json are in {run.folder} (" in out
    assert sorted(path.name for path in run.folder.iterdir()) == ["faces.safetensors", "manifest.json"]
    assert list(run.manifest()) == ["faces", "random"]
    faces, control = run.manifest().values()
    source = models.load(run.folder / "faces.safetensors")
    assert (source.architecture, source.options, source.head) == (SHORT, {"width": 4}, "softmax")
    assert source.weights_hash == faces["weights_hash"]
    assert source.num_train_examples == len(data.load("faces")) == faces["train_examples"]
    assert (faces["task"], faces["seed"], faces["recipe"]["epochs"]) == ("faces", 0, 1)
    assert f"test AUC {faces['test_auc']:.4f} (epoch 1 of 1)" in out
    same = models.random_source("random", SHORT, num_classes=control["num_classes"], seed=0, width=4)
    assert control["weights_hash"] == same.weights_hash


def test_what_is_there_is_not_trained_again(script, run, tmp_path, monkeypatch):
    images = tiny.target(60, classes=3)
    np.savez(tmp_path / "mine.npz", train_images=images.images, train_labels=images.labels[:, None].astype(np.uint8))
    asked = []
    real = script.pretrain
    monkeypatch.setattr(script, "pretrain", lambda *args, **named: asked.append(named["name"]) or real(*args, **named))
    mine = {"datasets": [str(tmp_path / "mine.npz")]}
    out = run(**mine)
    assert "mine comes without val and test" in out
    before = run.manifest()["mine"]
    out = run(**mine)
    assert "mine: already there. validation AUC" in out
    assert asked == ["mine"]
    monkeypatch.chdir(tmp_path)
    run(datasets=["mine.npz"], output_dir="again")
    assert asked.pop() == "mine"
    assert "mine: already there" in run(datasets=["./mine.npz"], output_dir="again")
    run(**mine, seed=1)
    after = run.manifest()["mine"]
    assert asked == ["mine", "mine"]
    assert (after["seed"], after["recipe"]["data_seed"]) == (1, 1)
    assert after["weights_hash"] != before["weights_hash"]
    run(**mine, seed=1, image_size=24)
    assert len(asked) == 3, "these are other images"
    (run.folder / "mine.safetensors").unlink()
    run(**mine, seed=1, image_size=24)
    assert len(asked) == 4


def test_a_source_of_another_kind_is_not_overwritten(run):
    run(datasets=["faces"])
    before = run.manifest()
    with pytest.raises(InputError, match=r"output_dir: .* has another faces: tiny of faces\. Choose another folder."):
        run(datasets=["faces"], architecture=SHORT)
    assert run.manifest() == before


def test_a_kill_after_training_costs_no_training(script, run, monkeypatch):
    seen = []
    real = script.Epochs._on_epoch
    monkeypatch.setattr(script.Epochs, "_on_epoch", lambda *told: seen.append(told[1]) or real(*told))
    with monkeypatch.context() as patched:
        patched.setattr(script.models, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(datasets=["faces"])
    assert seen == [0, 1]
    assert not (run.folder / "manifest.json").exists()
    run(datasets=["faces"])
    assert seen == [0, 1]
    assert sorted(path.name for path in run.folder.iterdir()) == ["faces.safetensors", "manifest.json"]


@pytest.mark.parametrize(("target", "labels"), [("pneumoniamnist", 69), ("chestmnist", 56)])
def test_the_union_without_the_target_from_tfds_to_a_source(run, medmnist, target, labels):
    out = run(recipe="leave_target_out", target=target, data_dir=str(medmnist))
    name = f"medmnist-without-{target}-28"
    assert f"{name}: validation AUC " in out
    (entry,) = run.manifest().values()
    assert entry["recipe"]["sampling"] == "class_balanced"
    assert (entry["recipe"]["augmentation"], entry["recipe"]["monitor"]) == ("mild", "loss")
    assert entry["train_examples"] == 11 * medmnist_files.COUNTS["train"]
    source = models.load(run.folder / f"{name}.safetensors")
    assert source.head == "sigmoid"
    assert source.variables["params"]["fc"]["bias"].shape == (labels,)
    target_itself = data.load(f"medmnist:{target}/28", split="test", data_dir=medmnist, scored=False)
    probabilities = predict(source, target_itself)
    assert probabilities.shape == (medmnist_files.COUNTS["test"], labels)
    assert np.isfinite(probabilities).all()


def test_images_may_stay_in_their_files(script, run, medmnist, tmp_path, monkeypatch):
    flags = {"recipe": "leave_target_out", "target": "octmnist", "data_dir": str(medmnist)}
    run(**flags)
    kinds = []
    real = script.pretrain

    def told(architecture, splits, **named):
        kinds.extend(type(part.images) for part in (splits.train, splits.val, splits.test))
        return real(architecture, splits, **named)

    monkeypatch.setattr(script, "pretrain", told)
    monkeypatch.setattr(script, "_IN_MEMORY", 0)
    run(**flags, output_dir=str(tmp_path / "lazy"))
    assert all(issubclass(kind, LazyImages) for kind in kinds)
    name = "medmnist-without-octmnist-28.safetensors"
    in_memory, lazy = (models.load(folder / name) for folder in (run.folder, tmp_path / "lazy"))
    assert in_memory.weights_hash == lazy.weights_hash


def test_radimagenet_tells_its_top_5(run, tmp_path):
    folder = radimagenet_files.make(tmp_path / "radimagenet", [f"CT/{i}" for i in range(165)], per_class=1)
    out = run(recipe="radimagenet", folder=str(folder), image_size=16, epochs=1)
    (entry,) = run.manifest().values()
    assert f", top-5 accuracy {entry['test_top_5_accuracy']:.4f} (" in out
    assert 0 <= entry["test_top_5_accuracy"] <= 1
    assert entry["test_top_5_accuracy"] >= entry["test_accuracy"]
    assert entry["recipe"]["patience"] == 10
    source = models.load(run.folder / "radimagenet.safetensors")
    assert source.variables["params"]["fc"]["bias"].shape == (165,)
    assert source.num_train_examples == 165


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"datasets": []}, "datasets: none"),
        ({"datasets": ["nothing"]}, "target: 'nothing' is unknown"),
        ({"datasets": ["faces", "faces"]}, "datasets: several are called 'faces'"),
        ({"datasets": ["faces"], "recipe": "radimagenet"}, r"datasets: \['faces'\] with --recipe=radimagenet. Leave"),
        ({"target": "retina"}, "target: 'retina' with --recipe=single. Leave it out: it is for --recipe=leave_target"),
        ({"recipe": "leave_target_out"}, "target: is not given. Name the set to leave out, of: pathmnist"),
        ({"recipe": "leave_target_out", "target": "retina"}, "target: 'retina' is unknown. Choose from: pathmnist"),
        ({"recipe": "leave_target_out", "target": "octmnist", "size": 30}, "size: '30' is unknown"),
        ({"recipe": "leave_target_out", "target": "octmnist", "image_size": 9}, "image_size: 9 with"),
        ({"recipe": "leave_target_out", "target": "octmnist", "split_seed": 1}, "split_seed: 1 with"),
        (
            {"recipe": "leave_target_out", "target": "octmnist", "window": ["40", "400"]},
            r"window: \['40', '400'\] with",
        ),
        ({"recipe": "radimagenet", "folder": "nowhere", "image_column": "file"}, "image_column: 'file' with"),
        ({"recipe": "radimagenet"}, "folder: is not given"),
        ({"recipe": "radimagenet", "folder": "nowhere"}, "nowhere: is no folder"),
        ({"datasets": ["faces"], "architecture": "resnet1"}, "resnet1"),
        ({"datasets": ["faces"], "architecture": "vgg11", "width": 4}, "no option width"),
        ({"datasets": ["faces"], "learning_rate": 0.0}, "learning_rate: 0.0"),
    ],
)
def test_flags_that_are_none(run, changes, told):
    with pytest.raises(InputError, match=told):
        run(**changes)


def test_what_is_not_prepared_is_told(run, tmp_path):
    with pytest.raises(InputError, match=r"not prepared .* Run: python -m experiments\.prepare_data"):
        run(recipe="leave_target_out", target="octmnist", data_dir=str(tmp_path))


def test_a_damaged_manifest_is_told(run):
    run.folder.mkdir()
    (run.folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: cannot be read \("):
        run(datasets=["random"])


def test_checkpoints_are_each_their_own(script, run, monkeypatch):
    folders = []
    real = script.pretrain

    def told(*args, where: Where, **named):
        folders.append(where.folder)
        return real(*args, where=where, **named)

    monkeypatch.setattr(script, "pretrain", told)
    run(datasets=["faces", "retina"], epochs=1)
    assert folders == [run.folder / "checkpoints" / name for name in ("faces", "retina")]
