"""PyTorch's checkpoints read without torch: what is right comes out, and nothing else does any harm.

The files are written here, by Python's pickler with stand-ins for torch's classes. Whether PyTorch writes the same is
the last section's matter.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import pickle
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections import OrderedDict
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

from transferjax import InputError
from transferjax.models._torch_file import read_torch

KINDS = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}
BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
MAGIC = 0x1950A86A20F9469CFC6C
ROOM = 64_000_000


@dataclasses.dataclass(frozen=True)
class Name:
    """Pickled as a class or function of that name is."""

    module: str
    name: str

    def __call__(self) -> None:  # the pickler wants it to be callable
        raise NotImplementedError


@dataclasses.dataclass(eq=False)
class Stored:
    array: np.ndarray
    key: str
    view: Any = None
    claim: Any = ...  # how many numbers are said to be there

    @property
    def kind(self):
        return Name("torch", f"{KINDS[self.array.dtype.name]}Storage")


@dataclasses.dataclass(eq=False)
class Call:
    """Pickled as an object made by a call, with a state if one is given."""

    function: Name
    arguments: tuple
    state: Any = None


def tensor(storage, offset, size, stride):
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage, offset, size, stride, False, OrderedDict()))


def parameter(data):
    return Call(Name("torch._utils", "_rebuild_parameter"), (data, True, OrderedDict()))


KEYS = itertools.count()


def plain(array):
    """A contiguous tensor with a storage of its own."""
    array = np.asarray(array)
    stride = tuple(s // array.itemsize for s in np.empty(array.shape, array.dtype).strides)
    return tensor(Stored(array.reshape(-1), str(next(KEYS))), 0, array.shape, stride)


class Pickler(pickle._Pickler):
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file, protocol, legacy):
        super().__init__(file, protocol)
        self.legacy, self.stored = legacy, {}

    def persistent_id(self, value):
        if not isinstance(value, Stored):
            return None
        self.stored[value.key] = value.array
        count = len(value.array) if value.claim is ... else value.claim
        return ("storage", value.kind, value.key, "cpu", count, *((value.view,) if self.legacy else ()))

    def reducer_override(self, value):
        if not isinstance(value, Call):
            return NotImplemented
        return (value.function, value.arguments) + (() if value.state is None else (value.state,))

    def save_name(self, value):
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    dispatch[Name] = save_name


def pickled(value, *, protocol=2, legacy=False):
    file = io.BytesIO()
    pickler = Pickler(file, protocol, legacy)
    pickler.dump(value)
    return file.getvalue(), pickler.stored


def as_zip(program, stored=None, *, order="little", folder="weights", more=(), compression=zipfile.ZIP_STORED):
    """A checkpoint in the present format; None as the order leaves it out."""
    entries = {f"{folder}/data.pkl": program}
    entries |= {} if order is None else {f"{folder}/byteorder": order.encode()}
    for key, array in (stored or {}).items():
        swapped = array.view(f"u{array.itemsize}").astype(f"{'>' if order == 'big' else '<'}u{array.itemsize}")
        entries[f"{folder}/data/{key}"] = swapped.tobytes()
    entries |= {f"{folder}/version": b"3\n"} | dict(more)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def as_legacy(program, stored=None):
    """A checkpoint in the earlier format."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = sorted(stored or {})
    parts = [pickle.dumps(value, 2) for value in (MAGIC, 1001, facts)] + [program, pickle.dumps(keys, 2)]
    for key in keys:
        array = stored[key]
        parts += [
            struct.pack("<q", len(array)),
            array.view(f"u{array.itemsize}").astype(f"<u{array.itemsize}").tobytes(),
        ]
    return b"".join(parts)


def checkpoint(value, *, legacy=False, protocol=2, **options):
    return (as_legacy if legacy else as_zip)(*pickled(value, protocol=protocol, legacy=legacy), **options)


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        return read_torch(path)

    return read


@pytest.fixture
def refused(tmp_path, read):
    """Reads what cannot be read; returns the message. No file of any size may take long or much memory."""

    def refused(content):
        tracemalloc.start()
        start = time.perf_counter()
        try:
            with pytest.raises(InputError) as caught:
                read(content)
            assert tracemalloc.get_traced_memory()[1] <= len(content) + ROOM
        finally:
            tracemalloc.stop()
        assert time.perf_counter() - start < 30
        message = str(caught.value)
        assert message.startswith(str(tmp_path / "weights.pth") + ": ")
        assert len(message) < 1000
        assert message.isprintable()
        return message

    return refused


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert isinstance(found[name], np.ndarray)
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


# What state dicts hold.


@BOTH
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype(read, legacy, protocol):
    rng = np.random.default_rng(0)
    dtypes = [np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in KINDS]
    arrays = {dtype.name: rng.integers(0, 2 if dtype.kind == "b" else 99, (2, 3)).astype(dtype) for dtype in dtypes}
    arrays |= {"scalar": np.asarray(1.5), "count": np.asarray(7), "empty": np.zeros((0, 3), np.float32)}
    found, left_out = read(checkpoint({k: plain(v) for k, v in arrays.items()}, legacy=legacy, protocol=protocol))
    same(found, arrays)
    assert left_out == ()


@BOTH
def test_views_share_their_storage(read, legacy):
    base = np.arange(24, dtype=np.float32)
    storage = Stored(base, "0")
    views = {
        "whole": tensor(storage, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": tensor(storage, 0, (4, 6), (1, 4)),
        "sliced": tensor(storage, 5, (3, 2), (6, 2)),
        "scalar": tensor(storage, 23, (), ()),
        "repeated": tensor(storage, 3, (5, 2), (0, 1)),
        "one": tensor(storage, 3, (1, 2), (2**62, 1)),  # PyTorch leaves the stride of such a dimension as it was
    }
    found, _ = read(checkpoint(views | {"tied": views["sliced"]}, legacy=legacy))
    expected = {
        "whole": base.reshape(2, 3, 4),
        "transposed": base.reshape(6, 4).T,
        "sliced": np.lib.stride_tricks.as_strided(base[5:], (3, 2), (24, 8)),
        "scalar": base[23],
        "repeated": np.tile(base[3:5], (5, 1)),
        "one": base[None, 3:5],
    }
    same(found, {k: np.asarray(v) for k, v in (expected | {"tied": expected["sliced"]}).items()})
    assert np.shares_memory(found["sliced"], found["tied"])
    assert all(np.shares_memory(found["whole"], array) and not array.flags.writeable for array in found.values())


def test_views_of_storages_in_the_earlier_format(read):
    base = np.arange(10, dtype=np.int64)
    state = {"a": tensor(Stored(base, "7", ("8", 4, 3)), 1, (2,), (1,)), "b": tensor(Stored(base, "7"), 0, (10,), (1,))}
    found, _ = read(checkpoint(state, legacy=True))
    same(found, {"a": base[5:7], "b": base})


@pytest.mark.parametrize("order", ["big", "little", None])
def test_byte_order(read, order):
    arrays = {name: np.arange(-3, 3).astype(name) for name in ("float64", "float32", "float16", "int16", "int8")}
    arrays["bfloat16"] = np.arange(6).astype(ml_dtypes.bfloat16)
    found, _ = read(checkpoint({name: plain(array) for name, array in arrays.items()}, order=order))
    same(found, arrays)


@BOTH
def test_what_is_no_tensor_is_named(read, legacy):
    entries = {
        "float": 0.5,
        "int": 3,
        "large": 2**80,
        "none": None,
        "text": "abc",
        "bytes": b"abc",
        "list": [1, (2, [3, ()]), {"x": True}],
        "set": {1, 2},
        "size": Call(Name("torch", "Size"), ((2, 3),)),
        "device": Call(Name("torch", "device"), ("cuda", 0)),
        "dtype": Name("torch", "float32"),
        7: "seven",
    }
    state = OrderedDict(entries, weight=plain(np.ones(2)))
    state._metadata = OrderedDict({"": {"version": 1}})
    found, left_out = read(checkpoint(state, legacy=legacy, protocol=4))
    same(found, {"weight": np.ones(2)})
    assert left_out == tuple(str(key) for key in entries)


@BOTH
def test_parameters_of_all_times(read, legacy):
    data, ordered = plain(np.ones(3)), Name("collections", "OrderedDict")
    first = Name("torch._utils", "_rebuild_tensor")
    state = [
        ["now", parameter(data)],
        ["first", Call(first, data.arguments[:4])],
    ]
    found, _ = read(checkpoint(Call(ordered, (state,)), legacy=legacy))  # the pairs in a list, as of Python 2
    same(found, {"now": np.ones(3), "first": np.ones(3)})


@BOTH
@pytest.mark.parametrize("kind", ["torch.nn.parameter\nParameter", "torch\nDoubleTensor"])
def test_tensors_of_before_0_4(read, legacy, kind):
    """Made empty, and the contents given as their state."""
    data = plain(np.ones(3))
    state = (data, True, OrderedDict(), True, False) if kind.endswith("Parameter") else data.arguments[:4]
    program, stored = pickled({"w": Call(Name("a", "b"), (), state)}, legacy=legacy)
    reduced, made = b"ca\nb\nq\x02)R", b"c" + kind.encode() + b"\nq\x02)\x81"
    assert program.count(reduced) == 1
    found, _ = read((as_legacy if legacy else as_zip)(program.replace(reduced, made), stored))
    same(found, {"w": np.ones(3)})


def test_numbers_may_be_many(read):
    """A checkpoint in the middle of training has histories of its losses."""
    state = {"net": {"w": plain(np.ones(2))}, "losses": list(np.random.default_rng(0).uniform(size=50_000).tolist())}
    same(read(checkpoint(state))[0], {"w": np.ones(2)})


# Where the state dict is and what its tensors are called.

ONE = np.ones(2, np.float32)


@BOTH
@pytest.mark.parametrize(
    ("wrap", "left_out"),
    [
        (lambda state: {"net": state, "acc": 97.5, "epoch": 3}, ()),
        (lambda state: {"epoch": 3, "state_dict": state, "best_acc1": plain(np.asarray(0.5))}, ()),
        (lambda state: {"model": {"state_dict": {"net": state}}}, ()),
        (lambda state: {"model": {"depth": 18}, "model_state_dict": state}, ()),
        (lambda state: state | {"model": {"depth": 18}}, ("model",)),
        (lambda state: {"state_dict": state | {"n": None}, "net": {"b": plain(ONE)}}, ("n",)),
    ],
)
def test_wrappers(read, legacy, wrap, left_out):
    found = read(checkpoint(wrap({"a": plain(ONE), "b.c": plain(ONE)}), legacy=legacy))
    same(found[0], {"a": ONE, "b.c": ONE})
    assert found[1] == left_out


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b.c"], ["a", "b.c"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module._orig_mod.backbone.a", "module._orig_mod.backbone.b"], ["a", "b"]),
        (["model.encoder.a.model.b"], ["a.model.b"]),
        (["backbone.a", "fc.weight", "fc.bias"], ["a", "fc.weight", "fc.bias"]),
        (["module.backbone.module.a", "module.head.b"], ["module.a", "head.b"]),
        (["model.a", "fc.weight"], ["model.a", "fc.weight"]),
        (["backbone.a", "decoder.b"], ["backbone.a", "decoder.b"]),
        (["fc.weight", "head.bias"], ["fc.weight", "head.bias"]),
        (["modules.a"], ["modules.a"]),
    ],
)
def test_prefixes(read, names, expected):
    found, _ = read(checkpoint({name: plain(np.asarray(i)) for i, name in enumerate(names)}))
    same(found, {name: np.asarray(i) for i, name in enumerate(expected)})


def test_names_that_become_the_same(refused):
    message = refused(checkpoint({"backbone.fc.w": plain(ONE), "fc.w": plain(ONE)}))
    assert "names that are the same without 'backbone.'" in message


@pytest.mark.parametrize("value", [[1, 2], 3, {}, {"teacher": {"a": plain(ONE)}}, {1: plain(ONE)}, plain(ONE)])
def test_no_state_dict(refused, value):
    message = refused(checkpoint(value))
    assert "it has no tensors by name" in message
    assert "torch.save(model.state_dict(), path)" in message
    assert not isinstance(value, dict) or all(f"'{key}'" in message for key in value)


# What is refused.


@BOTH
@pytest.mark.parametrize(
    "function",
    ["posix.system", "os.system", "builtins.eval", "__builtin__.eval", "builtins.getattr", "torch.load", "numpy.load"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_not_run(tmp_path, refused, legacy, function, protocol):
    canary = tmp_path / "canary"
    module, _, name = function.rpartition(".")
    code = f"touch {canary}" if name == "system" else f"open({str(canary)!r}, 'w')"
    value = {"w": plain(ONE), "x": Call(Name(module, name), (code,))}
    message = refused(checkpoint(value, legacy=legacy, protocol=protocol))
    assert f"it needs {function!r}, which is code" in message
    assert "torch.save(model.state_dict(), path)" in message
    assert not canary.exists()


@BOTH
@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cos\nsystem\n(S'touch CANARY'\ntR.",
        b"\x80\x02(S'touch CANARY'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch CANARY'\no.",
        b"\x80\x02cos\nsystem\nS'touch CANARY'\n\x85\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
        b"\x80\x02ctorch\nload\n(S'CANARY'\ntR.",
        b"\x80\x02ctorch\nfloat32\n(S'touch CANARY'\ntR.",
        b"\x80\x02ctorch\nFloatStorage\n(K\x05tR.",
        b"\x80\x02ctorch\nSize\n}b.",
        b"\x80\x02\x82\x01.",
        b"}(S'__class__'\ncos\nsystem\nu.",
        b"P1\n.",
    ],
)
def test_other_ways_to_run_code(tmp_path, monkeypatch, refused, legacy, program):
    monkeypatch.chdir(tmp_path)
    refused((as_legacy if legacy else as_zip)(program.replace(b"CANARY", b"canary")))
    assert not (tmp_path / "canary").exists()


@BOTH
def test_a_whole_model_is_refused_by_name(refused, legacy):
    model = Call(Name("torchvision.models.resnet", "ResNet"), (), {"training": False})
    assert "it needs 'torchvision.models.resnet.ResNet', which is code" in refused(checkpoint(model, legacy=legacy))


def test_numpy_s_scalars_are_refused_by_name(refused):
    """They carry bytes, in many ways; PyTorch refuses them too unless told otherwise."""
    value = {"state_dict": {"w": plain(ONE)}, "acc": Call(Name("numpy.core.multiarray", "scalar"), (b"",))}
    assert "'numpy.core.multiarray.scalar'" in refused(checkpoint(value))


@BOTH
@pytest.mark.parametrize("claim", [2**60, 2**62, 2**64, 2**200, 10**6, -1, True, 2.0, "2", None])
def test_a_storage_that_is_not_there(refused, legacy, claim):
    message = refused(checkpoint({"w": tensor(Stored(ONE, "0", claim=claim), 0, (1,), (1,))}, legacy=legacy))
    counts = type(claim) is int and 0 <= claim < 2**63
    assert (f"it claims {claim:,} numbers" if counts else "a storage whose description is malformed") in message


@BOTH
@pytest.mark.parametrize("claim", [1, 3])
def test_a_storage_of_another_length(refused, legacy, claim):
    message = refused(checkpoint({"w": tensor(Stored(ONE, "0", claim=claim), 0, (1,), (1,))}, legacy=legacy))
    assert ("has not the" if legacy else f"has 8 bytes instead of {4 * claim}") in message


@BOTH
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (6, (), ()),
        (0, (2,), (6,)),
        (0, (2, 2), (3, 3)),
        (2**63, (1,), (1,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (1, (2,), (-1,)),
        (0, (True,), (1,)),
        (True, (1,), (1,)),
        (0, (2.0,), (1,)),
        (0, [2], (1,)),
        (0, (2,), (1, 1)),
        (0, (2,), None),
        (0, (1,) * 33, (1,) * 33),
        (0, (2**50,), (0,)),
        (0, (2**10, 2**11), (0, 0)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (0, 2**62, 2**62), (0, 0, 0)),
        (0, (2**5000,), (0,)),
        (0, ("2",), (1,)),
    ],
)
def test_tensors_beyond_their_storage(refused, legacy, offset, size, stride):
    state = {"w": tensor(Stored(np.arange(6.0), "0"), offset, size, stride)}
    message = refused(checkpoint(state, legacy=legacy))
    assert size == (0, 2**62, 2**62) or "it has a tensor " in message


def test_32_dimensions_are_fine(read):
    found, _ = read(checkpoint({"w": tensor(Stored(ONE, "0"), 1, (1,) * 32, (1,) * 32)}))
    assert found["w"].shape == (1,) * 32


@BOTH
@pytest.mark.parametrize("view", [("1", 0, 3), ("1", -1, 2), ("1", 3, 0), ("1", 0), 5, ("1", 2, 2**63)])
def test_views_beyond_their_storage(refused, legacy, view):
    storage = Stored(ONE, "0", view)
    program, stored = pickled({"w": tensor(storage, 0, (1,), (1,))}, legacy=True)
    refused((as_legacy if legacy else as_zip)(program, stored))


@BOTH
def test_two_descriptions_of_a_storage(refused, legacy):
    state = {"a": plain(ONE), "b": tensor(Stored(ONE.view(np.int32), str(next(KEYS) - 1)), 0, (1,), (1,))}
    assert "in two ways" in refused(checkpoint(state, legacy=legacy))


@BOTH
def test_booleans_are_0_or_1(refused, legacy):
    state = {"w": tensor(Stored(np.asarray([0, 1, 2], np.uint8).view(bool), "0"), 0, (3,), (1,))}
    assert "neither 0 nor 1" in refused(checkpoint(state, legacy=legacy))


def test_entries_with_names_that_lead_elsewhere(refused):
    state = {"w": plain(ONE)}
    for name in ("weights/../../x", "/etc/passwd", "..", "weights\\data\\0"):
        assert "which is no name of PyTorch's" in refused(checkpoint(state, more={name: b"x"}))
    for key in ("../data.pkl", "../../etc/passwd", "/etc/passwd", "\x00"):
        assert "no entry" in refused(as_zip(pickled({"w": tensor(Stored(ONE, key), 0, (1,), (1,))})[0]))


def test_archives_that_are_no_checkpoints(refused):
    program, stored = pickled({"w": plain(ONE)})
    assert "is compressed" in refused(as_zip(program, stored, compression=zipfile.ZIP_DEFLATED))
    assert "has no entry" in refused(as_zip(program))
    assert "no PyTorch checkpoint" in refused(as_zip(program, stored, more={"other/data.pkl": program}))
    assert "its byte order is 'middle'" in refused(as_zip(program, stored, order="middle"))
    assert "no PyTorch checkpoint" in refused(as_zip(program, stored).replace(b"data.pkl", b"data.txt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own
        once = as_zip(program, stored, more={"weights/x": b"", "weights/y": b""}).replace(b"weights/y", b"weights/x")
    assert "two entries of one name" in refused(once)
    damaged = bytearray(as_zip(program, stored))
    damaged[damaged.index(ONE.tobytes())] ^= 1
    assert "Bad CRC-32" in refused(bytes(damaged))


def test_entries_that_lie_in_each_other(refused):
    """Each storage is what follows its header: those of the others, too, and a megabyte that all of them share."""
    count, header = 60, 30 + len("weights/data/00")
    lengths = [2**20 + header * (count - 1 - i) for i in range(count)]
    whole = b"\0" * 2**20
    records = []
    for i in reversed(range(count)):
        name, crc = f"weights/data/{i:02}".encode(), zlib.crc32(whole)
        facts = (20, 0, 0, 0, 33, crc, len(whole), len(whole), len(name), 0)
        records.append((name, facts))
        whole = struct.pack("<4s5H3L2H", b"PK\x03\x04", *facts) + name + whole
    state = {}
    for i, length in enumerate(lengths):
        state[str(i)] = tensor(Stored(np.zeros(1, np.uint8), f"{i:02}", claim=length), 0, (1,), (1,))
    front = as_zip(pickled(state)[0])
    start = front.index(b"PK\x01\x02")
    end = front.index(b"PK\x05\x06")
    directory = front[start:end]
    for i, (name, facts) in enumerate(reversed(records)):
        at = start + header * i
        directory += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *facts, 0, 0, 0, 0, at) + name
    entries = count + 3
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, len(directory), start + len(whole), 0)
    told = refused(front[:start] + whole + directory + tail)
    assert "claim more bytes than it has" in told or "Overlapped entries" in told  # by newer Pythons


def test_other_files(tmp_path, refused):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    assert "tar archive" in refused(file.getvalue())
    for content in (
        b"",
        b"PK\x03\x04",
        b"\x89HDF\r\n\x1a\n",
        b"<!DOCTYPE html>",
        b"version 1\n",
        b"\x80\x02",
        bytes(9),
    ):
        refused(content)
    assert "neither of PyTorch's formats" in refused(pickle.dumps({"a": 1}, 2))
    assert "another version" in refused(pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2))
    for path in (tmp_path, tmp_path / "nothing.pth", "/dev/zero", "a\0b", "a" * 5000):
        with pytest.raises(InputError):
            read_torch(path)


def test_more_after_the_end(refused):
    assert "after its end" in refused(checkpoint({"w": plain(ONE)}, legacy=True) + b"x")


def test_a_storage_that_is_not_needed_and_not_whole(refused):
    content = checkpoint({"net": {"w": plain(ONE)}, "more": plain(np.zeros(99))}, legacy=True)
    assert "it ends too early" in refused(content[:-1])


@BOTH
def test_truncated(refused, legacy):
    content = checkpoint({"a": plain(np.arange(100.0)), "b": plain(np.arange(50))}, legacy=legacy)
    for tenth in range(10):
        refused(content[: len(content) * tenth // 10])
    refused(content[:-1])


def test_the_top_may_contain_itself(read, refused):
    loop: dict[str, Any] = {}
    loop["state_dict"] = loop
    loop["list"] = [loop]
    assert "no tensors by name" in refused(checkpoint(loop))
    loop["w"] = plain(ONE)
    found, left_out = read(checkpoint(loop))
    same(found, {"w": ONE})
    assert left_out == ("state_dict", "list")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass(read, monkeypatch, interrupt):
    def stop(*_):
        raise interrupt

    content = checkpoint({"w": plain(ONE)})
    monkeypatch.setattr("zipfile.ZipFile", stop)
    with pytest.raises(interrupt):
        read(content)


def test_no_memory_is_an_error_of_the_file(read, monkeypatch):
    def full(*_):
        raise MemoryError

    content = checkpoint({"w": plain(ONE)})
    monkeypatch.setattr("zipfile.ZipFile", full)
    with pytest.raises(InputError, match="MemoryError"):
        read(content)


# What would take much memory or time.


def text(content, claim=None):
    """The opcode of a string."""
    content = content.encode()
    return b"X" + struct.pack("<I", len(content) if claim is None else claim) + content


def ordered(count, many):
    """Makes many ordered dicts of the same pairs."""
    pairs = b"".join(b"J" + struct.pack("<i", i) + b"K\x01\x86" for i in range(count))
    return b"ccollections\nOrderedDict\nq\x000(" + pairs + b"l\x85q\x010" + b"h\x00h\x01R" * (many // 5)


FULL = "holds more objects than any state dict"
PROGRAMS = {
    "a large index": ("no tensors by name", lambda many: b"}r\xff\xff\xff\xffK\x01r\0\0\0\x800"),
    "an index of many digits": ("index out of range", lambda many: b"}p" + b"9" * 4000 + b"\n"),
    "a string that is not there": ("holds a string of 4,294,967,295", lambda many: text("abc", 2**32 - 1)),
    "a string of 2**62": ("holds a string of", lambda many: b"\x8d" + struct.pack("<Q", 2**62) + b"abc"),
    "bytes that are not there": ("holds a string of", lambda many: b"\x8e" + struct.pack("<Q", 2**40) + b"abc"),
    "a number that is not there": (
        "holds a string of 2,147,483,647",
        lambda many: b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc",
    ),
    "a number of many digits": ("no newline", lambda many: b"(I" + b"9" * 2**20 + b"\nt"),
    "a frame of 2**63": ("ends in the middle", lambda many: b"\x95" + struct.pack("<Q", 2**63)),
    "a long string": ("holds a string of 2,097,152", lambda many: text("a" * 2**21)),
    "a long name with control characters": (
        "it needs 'os.a\\x1b[31m",
        lambda many: b"cos\n" + b"a\x1b[31m" * 10_000 + b"\n",
    ),
    "a key with control characters": (
        "a dict of 'a\\n\\x1b[31m",
        lambda many: b"}" + text("a\n\x1b[31m" * 5000) + b"K\x01s",
    ),
    "marks": (FULL, lambda many: b"(" * many),
    "lists": (FULL, lambda many: b"]" * many),
    "dicts": (FULL, lambda many: b"}" * many),
    "numbers": (FULL, lambda many: b"G\x3f\xf0abcdef" * many),
    "one object memoized": (FULL, lambda many: b"]" + b"\x94" * many),
    "lists memoized": (FULL, lambda many: b"]\x94" * many),
    "a long list": (FULL, lambda many: b"](" + b"K\x01" * many + b"e"),
    "nested tuples": (FULL, lambda many: b")" + b"\x85" * many),
    "nested tuples as a key": ("a key of type tuple", lambda many: b"})" + b"\x85" * (many * 4 // 5) + b"K\x01s"),
    "nested tuples in a set": (
        "no tensors by name",
        lambda many: b"cbuiltins\nset\n])" + b"\x85" * (many * 4 // 5) + b"a\x85R",
    ),
    "nested lists": (FULL, lambda many: b"](" + b"](" * (many // 3) + b"e" * (many // 3 + 1)),
    "dicts of one entry": (FULL, lambda many: b"}K\x01K\x01s" * many),
    "ordered dicts of one entry": (
        FULL,
        lambda many: b"ccollections\nOrderedDict\nq\x000" + b"h\x00)RK\x01K\x01s" * many,
    ),
    "ordered dicts of the same pairs": (FULL, lambda many: ordered(many // 250, many)),
    "ordered dicts of the same pair": (FULL, lambda many: ordered(1, many)),
    "sets": (FULL, lambda many: b"cbuiltins\nset\nq\x000" + b"h\x00]\x85R" * many),
    "instances": (FULL, lambda many: b"ctorch.nn.parameter\nParameter\nq\x000" + b"h\x00)\x81" * many),
    "keys of alike hashes": (
        "no tensors by name",
        lambda many: (
            b"}(" + b"".join(b"\x8a\x08" + (i << 42).to_bytes(8, "little") + b"N" for i in range(many // 3)) + b"u"
        ),
    ),
    "keys of the same hash": (
        "a key of type int",
        lambda many: (
            b"}("
            + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(many // 3))
            + b"u"
        ),
    ),
    "short strings of wide characters": (
        FULL,
        lambda many: b"".join(text(f"\U0001f600{i % 100:02}") for i in range(many)),
    ),
    "strings of wide characters": (FULL, lambda many: b"".join(text(f"\U0001f600{i:012}") for i in range(many))),
    "long strings of wide characters": (FULL, lambda many: text("\U0001f600" + "a" * (2 * many)) * 12),
    "no instance": ("calls collections.OrderedDict in a way", lambda many: b"ccollections\nOrderedDict\n)\x81"),
    "no call": ("calls torch.float32 in a way", lambda many: b"ctorch\nfloat32\n)R"),
    "no state": ("sets the state of a Global", lambda many: b"ctorch\nSize\n}b"),
    "an open mark": ("ends in the middle", lambda many: b"(}"),
    "two objects": ("ends in the middle", lambda many: b"}}"),
    "too few objects": ("takes more from the stack", lambda many: b"}\x86"),
    "names": ("it needs 'ab.cd'", lambda many: b"\x8c\x02ab\x94\x8c\x02cd\x940" + b"h\x00h\x01\x93" * many),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_without_end(refused, monkeypatch, program):
    """With a tenth of the room, besides what is read at once, since tracing memory takes time."""
    monkeypatch.setattr("transferjax.models._pickle_machine.MAX_OBJECTS", 4_000_000)
    monkeypatch.setattr("tests.models.test_torch_file.ROOM", 8_000_000)
    message, build = PROGRAMS[program]
    assert message in refused(as_zip(build(51_000) + b"."))


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_without_end_in_full(refused, legacy, program):
    message, build = PROGRAMS[program]
    assert message in refused((as_legacy if legacy else as_zip)(build(510_000) + b"."))


def test_many_tensors(refused):
    """Each would be an array, and each name might be long."""
    one = plain(ONE)
    assert "10,001 tensors" in refused(checkpoint({str(i): one for i in range(10_001)}))
    assert "long names" in refused(checkpoint({f"{i}" * 300_000: one for i in range(4)}))


@pytest.mark.slow
def test_many_tensors_of_many_dimensions(read):
    size = (1,) * 32
    state = {str(i): tensor(Stored(ONE[:1], "0"), 0, size, size) for i in range(10_000)}
    shared = Stored(ONE[:1], "0")
    for entry in state.values():
        entry.arguments = (shared, *entry.arguments[1:])
    content = checkpoint(state)
    tracemalloc.start()
    try:
        assert len(read(content)[0]) == 10_000
        assert tracemalloc.get_traced_memory()[1] <= len(content) + ROOM
    finally:
        tracemalloc.stop()


def test_many_entries(refused):
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    for count in (22_000, 400_000):
        directory = entry * count
        tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count % 65535, count % 65535, len(directory), 4, 0)
        message = refused(b"PK\x03\x04" + directory + tail)
    assert "the list of its archive's entries takes 18,400,000 bytes" in message


def test_long_prefixes_end(read):
    found, _ = read(checkpoint({"module." * 100_000 + "a": plain(ONE)}))
    assert [len(name) for name in found] == [7 * 99_992 + 1]


@BOTH
def test_reading_allocates_the_storages_once(read, legacy):
    array = np.random.default_rng(0).standard_normal(3_000_000)
    content = checkpoint({"w": plain(array), "v": plain(array[:10])}, legacy=legacy)
    tracemalloc.start()
    try:
        found, _ = read(content)
        assert tracemalloc.get_traced_memory()[1] <= array.nbytes + 24_000_000
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found["w"], array)


def test_what_is_not_needed_is_not_read(read):
    array = np.zeros(3_000_000)
    content = checkpoint({"net": {"w": plain(ONE)}, "optimizer": {"m": plain(array)}})
    tracemalloc.start()
    try:
        same(read(content)[0], {"w": ONE})
        assert tracemalloc.get_traced_memory()[1] <= 3_000_000
    finally:
        tracemalloc.stop()


# Damage.


def mutated(content, rng):
    """The content with a bit or a byte changed, some bytes put in or taken out, or an end missing."""
    at = int(rng.integers(len(content)))
    kind = rng.integers(5)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + rng.bytes(1) + content[at + 1 :]
    if kind == 2:
        return content[:at]
    if kind == 3:
        return content[:at] + rng.bytes(int(rng.integers(1, 9))) + content[at:]
    return content[:at] + content[at + int(rng.integers(1, 9)) :]


STATE = {
    "conv.weight": np.random.default_rng(0).standard_normal((4, 3, 3)).astype(np.float32),
    "bn.running_mean": np.random.default_rng(1).standard_normal(4).astype(ml_dtypes.bfloat16),
    "bn.num_batches_tracked": np.asarray(12),
}


@pytest.mark.parametrize("order", ["little", "big"])
def test_damaged_archives_are_right_or_refused(read, order):
    content = checkpoint({name: plain(array) for name, array in STATE.items()}, order=order)
    right = 0
    for seed in range(500):
        try:
            found, _ = read(mutated(content, np.random.default_rng(seed)))
        except InputError:
            continue
        right += 1
        same(found, STATE)
    assert 0 < right < 250  # e.g. a change of an entry's date


def test_damaged_legacy_files_are_arrays_or_refused(read):
    """Nothing says what their numbers should be."""
    content = checkpoint({name: plain(array) for name, array in STATE.items()}, legacy=True)
    read_back = 0
    for seed in range(500):
        damaged = mutated(content, np.random.default_rng(seed))
        try:
            found, _ = read(damaged)
        except InputError:
            continue
        read_back += 1
        bases = {id(array.base): array.base for array in found.values()}
        assert sum(base.nbytes for base in bases.values()) <= len(damaged)
        assert all(type(array) is np.ndarray and array.size <= 2**20 for array in found.values())
    assert 0 < read_back < 350


def test_damaged_programs_are_arrays_or_refused(read):
    """The pickle alone, within an archive whose checksums are right."""
    program, stored = pickled({name: plain(array) for name, array in STATE.items()} | {"more": [1, {"a": (2, "x")}]})
    for seed in range(500):
        rng = np.random.default_rng(seed)
        damaged = functools.reduce(lambda content, _: mutated(content, rng) or b".", range(1 + seed % 3), program)
        try:
            found, _ = read(as_zip(damaged, stored))
        except InputError:
            continue
        assert all(type(array) is np.ndarray and array.size <= 2**20 for array in found.values())


# PyTorch itself.


@pytest.mark.torch
@BOTH
def test_what_pytorch_writes(tmp_path, legacy):
    """Needs PyTorch: install a CPU build of it by hand."""
    import torch

    torch.manual_seed(0)
    state = OrderedDict()
    for name in KINDS:
        state[name] = (100 * torch.rand(3, 4)).to(getattr(torch, name))
    base = torch.rand(5, 6)
    state |= {"transposed": base.T, "sliced": base[1:4, ::2], "expanded": base[:1].expand(4, 6), "scalar": base[0, 0]}
    state |= {
        "parameter": torch.nn.Parameter(base),
        "empty": torch.zeros(0, 3),
        "last": base.to(memory_format=torch.contiguous_format),
    }
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state |= network.state_dict()
    path = tmp_path / "weights.pth"
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    whole = {"epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "device": torch.device("cpu")}
    torch.save(whole | {"dtype": torch.float16, "size": base.size()}, path, _use_new_zipfile_serialization=not legacy)
    found, left_out = read_torch(path)
    assert (list(found), left_out) == (list(state), ())
    for name, tensor_ in state.items():
        array = found[name]
        assert array.dtype.name == str(tensor_.dtype).removeprefix("torch.")
        assert array.shape == tuple(tensor_.shape)
        np.testing.assert_array_equal(array.astype(np.float64), tensor_.detach().to(torch.float64).numpy())
    assert np.shares_memory(found["transposed"], found["sliced"])
    torch.save(network, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.container\.Sequential"):
        read_torch(path)
