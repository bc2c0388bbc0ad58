"""Weights from torchvision's state dicts and from files: strict, and all problems at once."""

from __future__ import annotations

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from transferjax import InputError, models
from transferjax.models._base import torch_shape, variable_shapes
from transferjax.types import Normalization

WIDTH = 4


def thin(num_classes=3, seed=0):
    return models.random_source("thin", "resnet18", num_classes=num_classes, seed=seed, width=WIDTH)


def torch_state(num_classes=3):
    """A thin network's weights under torchvision's keys, with the counters that torchvision adds."""
    spec = models.get("resnet18")
    rng = np.random.default_rng(0)
    state = {}
    for path, shape in variable_shapes(spec.build(num_classes=num_classes, width=WIDTH)).items():
        state[spec.torch_key(path)] = rng.uniform(0.1, 1, torch_shape(path, shape)).astype(np.float32)
    return state | {"bn1.num_batches_tracked": np.asarray(7)}


def test_every_key_ends_in_its_leaf():
    state = torch_state()
    variables = models.import_torch("resnet18", state, width=WIDTH)
    params, stats = variables["params"], variables["batch_stats"]
    np.testing.assert_array_equal(params["conv1"]["kernel"], state["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["fc"]["kernel"], state["fc.weight"].T)
    np.testing.assert_array_equal(
        params["layer2_0"]["downsample_conv"]["kernel"], state["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(params["layer2_0"]["downsample_bn"]["scale"], state["layer2.0.downsample.1.weight"])
    np.testing.assert_array_equal(stats["layer4_1"]["bn2"]["var"], state["layer4.1.bn2.running_var"])
    assert len(traverse_util.flatten_dict(variables)) == len(state) - 1


def test_all_problems_in_one_message():
    state = torch_state()
    del state["layer1.0.bn1.bias"]
    state["layer9.weight"] = np.zeros((2, 2), np.float32)
    state["conv1.weight"] = state["conv1.weight"][..., :3]
    state["layer3.1.bn2.running_var"][0] = np.nan
    state["bn1.weight"] = state["bn1.weight"].astype(np.int32)
    with pytest.raises(InputError) as caught:
        models.import_torch("resnet18", state, width=WIDTH)
    message = str(caught.value)
    for line in (
        "resnet18: 5 tensors do not fit",
        "missing: layer1.0.bn1.bias [4]",
        "unexpected: layer9.weight [2, 2]",
        "misshapen: conv1.weight is [4, 3, 7, 3], should be [4, 3, 7, 7]",
        "not finite: layer3.1.bn2.running_var",
        "not floating point: bn1.weight is int32",
    ):
        assert line in message


def test_half_a_head_is_named_and_none_is_none():
    state = torch_state()
    del state["fc.bias"]
    with pytest.raises(InputError, match=r"2 tensors do not fit[^~]*missing: fc.bias"):
        models.import_torch("resnet18", state, width=WIDTH)
    del state["fc.weight"]
    imported = models.import_state_dict("resnet18", state, width=WIDTH)
    assert (imported.num_classes, imported.notes) == (0, ("there is no head, so there will be no logits",))


def test_saved_and_loaded(tmp_path):
    made = thin()
    source = models.make_source(
        "mine",
        "resnet18",
        made.variables,
        options={"width": WIDTH},
        normalization=Normalization(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        head="sigmoid",
        num_train_examples=123,
        imagenet_accuracy=0.5,
    )
    models.save(tmp_path / "mine.safetensors", source)
    loaded = models.load(str(tmp_path / "mine.safetensors"))
    assert loaded.weights_hash == source.weights_hash == made.weights_hash
    for field in (
        "name",
        "architecture",
        "options",
        "normalization",
        "head",
        "num_train_examples",
        "imagenet_accuracy",
    ):
        assert getattr(loaded, field) == getattr(source, field)
    assert models.load(f"resnet18:{tmp_path / 'mine.safetensors'}").weights_hash == source.weights_hash
    images = np.random.default_rng(0).standard_normal((2, 28, 28, 3)).astype(np.float32)
    output, again = (models.run(s.module, s.variables, images) for s in (source, loaded))
    np.testing.assert_array_equal(output.logits, again.logits)
    with pytest.raises(InputError, match="holds a resnet18"):
        models.load(f"resnet34:{tmp_path / 'mine.safetensors'}")


def test_half_precision_rounds_and_keeps_float32_in_memory(tmp_path):
    source = thin()
    models.save(tmp_path / "half.safetensors", source, dtype=np.float16)
    loaded = models.load(tmp_path / "half.safetensors")
    assert loaded.weights_hash != source.weights_hash
    for kept, leaf in zip(jax.tree.leaves(loaded.variables), jax.tree.leaves(source.variables), strict=True):
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, leaf.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_torchvision_s_keys_in_a_file(tmp_path, model_goldens, dtype):
    state, _, _ = model_goldens["resnet18"]
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({key: array.astype(dtype) for key, array in state.items()}, path)
    source = models.load(f"resnet18:{path}")
    assert (source.name, source.origin, source.head) == ("weights", str(path), "softmax")
    expected = state["layer1.0.conv1.weight"].astype(dtype).astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(source.variables["params"]["layer1_0"]["conv1"]["kernel"], expected)


def test_a_file_that_does_not_fit_lists_everything(tmp_path, model_goldens):
    state = dict(model_goldens["resnet18"][0])
    del state["bn1.weight"]
    state["more"] = np.ones(3, np.float32)
    state["fc.weight"] = np.ascontiguousarray(state["fc.weight"].T)
    path = tmp_path / "bad.safetensors"
    safetensors.numpy.save_file(state, path)
    with pytest.raises(InputError) as caught:
        models.load(f"resnet18:{path}")
    message = str(caught.value)
    for part in (
        str(path),
        "3 tensors",
        "missing: bn1.weight",
        "unexpected: more",
        "misshapen: fc.weight is [512, 1000]",
    ):
        assert part in message


def test_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="there is no file"):
        models.load(f"resnet18:{path}")
    path.write_bytes(b"not a safetensors file at all")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        models.load(f"resnet18:{path}")
    safetensors.numpy.save_file({"a": np.ones(2)}, path)
    with pytest.raises(InputError, match="does not say its architecture"):
        models.load(path)
    whole = tmp_path / "whole.safetensors"
    models.save(whole, thin())
    path.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        models.load(path)


GOOD = {
    "architecture": "resnet18",
    "options": {"width": WIDTH},
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "head": "softmax",
    "num_train_examples": 1,
    "imagenet_accuracy": None,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": None}, "its header is damaged"),
        ({"options": {"width": "16"}}, "resnet18, width: '16'"),
        ({"options": {"width": 0}}, "resnet18, width: 0"),
        ({"options": {"depth": 1}}, "no option depth"),
        ({"mean": [0.5]}, r"normalization.mean: \(0.5,\)"),
        ({"mean": "abc"}, "normalization.mean: "),
        ({"std": [1, 1, 0]}, "normalization.std: "),
        ({"head": "tanh"}, "head: 'tanh' is unknown"),
        ({"num_train_examples": "many"}, "num_train_examples: 'many'"),
        ({"architecture": "resnet19"}, "architecture: 'resnet19' is unknown"),
    ],
)
def test_a_header_that_cannot_be_used(tmp_path, changes, message):
    path = tmp_path / "x.safetensors"
    arrays = {"params": np.ones(2, np.float32), "params/x": np.ones(2, np.float32)}
    metadata = {"format": "transferjax-1", "transferjax": json.dumps(GOOD | changes)}
    safetensors.numpy.save_file(arrays, path, metadata=metadata)
    with pytest.raises(InputError, match=message) as caught:
        models.load(path)
    assert str(path) in str(caught.value)


def test_tensors_of_other_names_under_a_good_header(tmp_path):
    arrays = {"params": np.ones(2, np.float32), "params/x": np.ones(2, np.float32)}
    metadata = {"format": "transferjax-1", "transferjax": json.dumps(GOOD)}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=r"unexpected: params \[2\]"):
        models.load(tmp_path / "x.safetensors")


def test_an_unknown_architecture_before_a_file(tmp_path):
    models.save(tmp_path / "w.safetensors", thin())
    with pytest.raises(InputError, match=r"resnet101:.* is unknown.*resnet18"):
        models.load(f"resnet101:{tmp_path / 'w.safetensors'}")


def test_home_is_expanded_after_a_colon(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    models.save(tmp_path / "w.safetensors", thin())
    assert models.load("resnet18:~/w.safetensors").name == "w"


def test_an_unknown_source_lists_what_there_is():
    with pytest.raises(InputError, match=r"sources: 'nothing' is unknown.*photos.*resnet18"):
        models.load("nothing")


def test_saving_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors.numpy, "save_file", lambda *_args, **_kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        models.save(tmp_path / "x.safetensors", thin())
    assert list(tmp_path.iterdir()) == []


def test_demo_sources_are_those_of_the_manifest():
    names = models.demo_names()
    assert {"mri_tissue", "mri_plane", "nuclei", "histology", "retina", "digits", "faces", "photos", "random"} == set(
        names
    )
    for name in names:
        source = models.load(name)  # checks the hash of the weights
        assert source.name == name
        assert source.options == {"width": 16}


def test_the_control_is_the_same_everywhere():
    """Drawn, not stored: these numbers, RandomState(0)'s times sqrt(2 / 196), may never change."""
    kernel = thin().variables["params"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel[0, 0, :, 0], [0.17819619, 0.18865184, -0.01042668], rtol=1e-6)
    again = thin()
    assert again.weights_hash == thin().weights_hash
    assert thin(seed=1).weights_hash != again.weights_hash
