"""Model files: loaded with the bits that were saved; any other file is refused with one line, and no code is run."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import pickle
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import twostroke as ts
from tests.support.audit import require_harmless
from tests.support.memory import peak_of
from twostroke.backend import Backend
from twostroke.data.scaling import Scaling
from twostroke.engine.arguments import MAX_WIDTH
from twostroke.engine.mlp import MLP, SETTINGS
from twostroke.errors import ConfigError, ModelError
from twostroke.files import sealed_file
from twostroke.models import model_file
from twostroke.models.model_file import describe_model, load_model, save_model

Header = dict[str, Any]


def make(layers: tuple[int, ...] = (4, 3, 2), **settings: Any) -> ts.MLP:
    return ts.MLP(layers, seed=3, **settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def saved(path: Path, **settings: Any) -> bytes:
    save_model(make(**settings), path)
    return path.read_bytes()


# --- the format, written here a second time ------------------------------------------------------------------------


def take_apart(data: bytes) -> tuple[Header, bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def put_together(header: Header | bytes, tensors: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors


def sealed(header: Header, tensors: bytes) -> bytes:
    """A forged file with a valid checksum: every other check must work without it."""
    meta = header["__metadata__"]
    meta.pop("sha256", None)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + tensors)
    if meta.get("format_version") == "1":  # over the settings and the tensors only
        digest = hashlib.sha256(meta["settings"].encode())
        for name in sorted(set(header) - {"__metadata__"}):
            start, end = header[name]["data_offsets"]
            digest.update(name.encode() + tensors[start:end])
    meta["sha256"] = digest.hexdigest()
    return put_together(header, tensors)


def with_settings(data: bytes, **changes: Any) -> bytes:
    header, tensors = take_apart(data)
    values = json.loads(header["__metadata__"]["settings"]) | changes
    header["__metadata__"]["settings"] = json.dumps({k: v for k, v in values.items() if v is not ...}, sort_keys=True)
    return sealed(header, tensors)


def build(tensors: dict[str, Any], version: str = "2", **changes: Any) -> bytes:
    """A sealed file of these tensors, in this order, with the settings of ``make()`` and changes to them."""
    header: Header = {"__metadata__": {"format": "twostroke", "format_version": version, "origin": "{}", "input": ""}}
    values = {name: getattr(make(), name) for name in SETTINGS} | changes
    header["__metadata__"]["settings"] = json.dumps(values, sort_keys=True)
    names = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64", "int32": "I32"}
    body = b""
    for name, tensor in tensors.items():
        end = len(body) + tensor.nbytes
        offsets = [len(body), end]
        header[name] = {"dtype": names[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": offsets}
        body += tensor.tobytes()
    return sealed(header, body)


def arrays(layers: tuple[int, ...] = (4, 3, 2), dtype: str = "float32") -> dict[str, Any]:
    rng, result = np.random.default_rng(0), {}
    for number, (fan_in, fan_out) in enumerate(pairwise(layers), start=1):
        result[f"W{number}"] = rng.normal(size=(fan_in, fan_out)).astype(dtype)
        result[f"b{number}"] = rng.normal(size=fan_out).astype(dtype)
    return result


def refused(path: Path, *parts: str) -> str:
    """The one-line ModelError of load_model, which names the file."""
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert caught.value.exit_code == 5
    assert str(path.absolute()) in message
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [(4, 3, 2), (1, 1), (7, 5, 3, 2, 6)])
def test_round_trip_keeps_every_bit(backend: Backend, path: Path, dtype: str, layers: tuple[int, ...]) -> None:
    net = ts.MLP(layers, "tanh", "quadratic", seed=3, dtype=dtype, output="identity", init="normal", backend=backend)
    assert save_model(net, path) == path
    for target in (backend, None, ts.select_backend("cpu", threads=1)):
        again = load_model(path, backend=target)
        assert again.backend is (target or ts.MLP([1, 1]).backend)
        found = again.backend.to_host(again.parameters)
        assert found.dtype == dtype
        assert found.tobytes() == backend.to_host(net.parameters).tobytes()
        for name in SETTINGS:
            assert getattr(again, name) == getattr(net, name)


def test_a_loaded_network_predicts_and_trains_on(path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 4), dtype=np.uint8), np.resize([0, 1], 30)
    data = ts.Dataset.from_arrays(images, labels, images, labels)
    net = make()
    list(ts.train(net, data, ts.TrainConfig(epochs=1, batch_size=8)))
    save_model(net, path)
    again = load_model(str(path))
    assert np.array_equal(again.predict_proba(images), net.predict_proba(images))
    for each in (net, again):
        list(ts.train(each, data, ts.TrainConfig(epochs=1, batch_size=8)))
    assert np.array_equal(again.parameters, net.parameters)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3.4e38, -1.1754944e-38])
def test_special_values_survive(path: Path, value: float) -> None:
    net = make()
    net.parameters[:] = value
    save_model(net, path)
    assert load_model(path).parameters.tobytes() == net.parameters.tobytes()


def test_saving_again_says_the_same(tmp_path: Path) -> None:
    """Not byte for byte: safetensors writes its metadata in a different order each time."""
    for name in "ab":
        save_model(make(), tmp_path / name)
    save_model(load_model(tmp_path / "a"), tmp_path / "c")
    first, *others = (take_apart((tmp_path / name).read_bytes()) for name in "abc")
    assert all(other == first for other in others)


def test_plain_safetensors_reads_it(path: Path) -> None:
    net = make()
    save_model(net, path, {"data": "mnist", "epochs": 4})
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        assert sorted(file.keys()) == ["W1", "W2", "b1", "b2"]
        for number in (1, 2):
            assert np.array_equal(file.get_tensor(f"W{number}"), net.weights[number - 1])
            assert np.array_equal(file.get_tensor(f"b{number}"), net.biases[number - 1][0])
    assert metadata["format"] == "twostroke"
    assert metadata["format_version"] == "2"
    assert json.loads(metadata["settings"])["layers"] == [4, 3, 2]
    origin = json.loads(metadata["origin"])
    assert origin["twostroke"] == ts.__version__
    assert (origin["data"], origin["epochs"], origin["device"]) == ("mnist", 4, "cpu")
    header, tensors = take_apart(path.read_bytes())
    assert put_together(header, b"")[:8] != b""
    assert sealed(header, tensors)
    assert header["__metadata__"]["sha256"] == metadata["sha256"], "the digest is the one described"
    described = describe_model(path)
    assert described["origin"] == origin
    assert set(described["settings"]) == set(SETTINGS)


def test_every_tensor_handed_to_safetensors_is_contiguous(
    backend: Backend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors 0.8.0 silently writes the wrong bytes of any other array."""
    seen: dict[str, Any] = {}
    real = safetensors.numpy.save

    def save(tensors: dict[str, Any], metadata: dict[str, str]) -> bytes:
        seen.update(tensors)
        return bytes(real(tensors, metadata))

    monkeypatch.setattr(safetensors.numpy, "save", save)
    save_model(make(backend=backend), path)
    assert sorted(seen) == ["W1", "W2", "b1", "b2"]
    for tensor in seen.values():
        assert type(tensor) is np.ndarray
        assert tensor.flags.c_contiguous
        assert tensor.dtype.isnative


@pytest.mark.parametrize("layout", ["F", "reversed", "strided"])
def test_views_of_any_layout_are_written_right(path: Path, layout: str) -> None:
    net = make((5, 4, 3))
    W = net.weights[0]
    spaced = np.zeros((10, 12), np.float32)
    spaced[::2, ::3] = W
    views = {
        "F": np.asfortranarray(W),
        "reversed": W[::-1, ::-1].copy()[::-1, ::-1],
        "strided": spaced[::2, ::3],
    }
    net.views[0] = net.views[0]._replace(W=views[layout])
    save_model(net, path)
    assert np.array_equal(load_model(path).parameters, net.parameters)


@pytest.mark.parametrize("settings", [{"seed": np.int64(3)}, {"dtype": np.dtype("float32")}])
def test_settings_that_came_from_numpy_can_be_saved(path: Path, settings: dict[str, Any]) -> None:
    save_model(ts.MLP([4, 3, 2], **settings), path)
    assert load_model(path).layers == (4, 3, 2)


# --- no file, or another kind of file ------------------------------------------------------------------------------


def test_no_file_a_folder_a_pipe_a_device(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "No such file")
    refused(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    refused(tmp_path / "pipe", "not a regular file")
    refused(Path("/dev/null"), "not a regular file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop")
    with pytest.raises(ModelError):
        load_model("nul\0byte")


def test_a_name_of_two_lines_is_reported_in_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "a\nb")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", range(9))
def test_too_short_to_have_a_header(path: Path, length: int) -> None:
    data = saved(path)
    for content in (bytes(length), b"\xff" * length, data[:length]):
        path.write_bytes(content)
        refused(path)


@pytest.mark.parametrize("length", [0, 1, 10**4, 1 << 20, (1 << 20) + 1, 100_000_001, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_header_length_that_lies(path: Path, length: int) -> None:
    data = saved(path)
    path.write_bytes(length.to_bytes(8, "little") + data[8:])
    refused(path, "damaged or foreign")


def test_a_header_beyond_our_own_limit(path: Path) -> None:
    header, tensors = take_apart(saved(path))
    header["__metadata__"]["padding"] = "x" * (1 << 20)
    path.write_bytes(sealed(header, tensors))
    refused(path, "damaged or foreign")


class Canary:
    """Unpickling this makes a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_not_opened(path: Path, tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    path.write_bytes(pickle.dumps(Canary(str(canary)), protocol))
    refused(path, *(["a pickle"] if protocol >= 2 else []))
    assert not canary.exists()
    pickle.loads(path.read_bytes())  # the canary sings when it is let out
    assert canary.exists()


def test_other_known_kinds_are_named(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, W1=np.ones(3))
    refused(path, "ZIP", ".safetensors")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused(path, "HDF5")
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refused(path)
    path.write_bytes(b"<!DOCTYPE html><html></html>" * 10)
    refused(path)


@pytest.mark.parametrize("extra", [0x50, 0x80])  # a header of 80 or 128 bytes begins like a ZIP or a pickle
def test_a_sound_file_is_not_taken_for_another_kind(path: Path, extra: int) -> None:
    data = saved(path)
    header, tensors = take_apart(data)
    text = json.dumps(header).encode()
    size = (len(text) // 256 + 1) * 256 + extra
    path.write_bytes(size.to_bytes(8, "little") + text.ljust(size) + tensors)
    assert np.array_equal(load_model(path).parameters, make().parameters)


def test_a_model_of_somebody_else(path: Path) -> None:
    path.write_bytes(safetensors.numpy.save({"W1": np.ones((2, 2))}))
    refused(path, "not a model of twostroke")
    path.write_bytes(safetensors.numpy.save({"W1": np.ones((2, 2))}, {"format": "pt"}))
    refused(path, "not a model of twostroke")
    with pytest.raises(ModelError, match="not a model of twostroke"):
        describe_model(path)


# --- headers that are not what they should be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{}x",
        b"\xff\xfe{}",
        b'{"a": \xed\xa0\x80}',
        b"{'a': 1}",
        b'{"__metadata__": 5}',
        b'{"__metadata__": null}',
        b'{"__metadata__": {"format": "twostroke"}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda text: repr(text[:12]) + str(len(text)),
)
def test_headers_that_are_no_headers(path: Path, text: bytes) -> None:
    _, tensors = take_apart(saved(path))
    path.write_bytes(put_together(text, tensors))
    refused(path)


def test_a_key_that_is_there_twice(path: Path) -> None:
    data = saved(path)
    header, tensors = take_apart(data)
    text = json.dumps(header).encode()
    for twice in (b'{"W1": {}, ', b'{"__metadata__": {}, '):
        path.write_bytes(put_together(twice + text[1:], tensors))
        refused(path, "not JSON")
    inner = header["__metadata__"]["settings"]
    header["__metadata__"]["settings"] = '{"layers": [1, 1], ' + inner[1:]
    path.write_bytes(sealed(header, tensors))
    refused(path, "no readable settings")


@pytest.mark.parametrize("text", ["", "{", "5", "[]", "null", "[" * 50_000, '{"layers": NaN}', "\ud800"])
def test_settings_that_are_no_settings(path: Path, text: str) -> None:
    header, tensors = take_apart(saved(path))
    header["__metadata__"]["settings"] = text
    path.write_bytes(put_together(header, tensors))
    refused(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [4, 3, 3]},
        {"layers": [4, 3]},
        {"layers": [4, 3, 2, 2]},
        {"layers": [4]},
        {"layers": []},
        {"layers": "432"},
        {"layers": None},
        {"layers": 5},
        {"layers": {"4": 3}},
        {"layers": [4.0, 3.0, 2.0]},
        {"layers": [True, 3, 2]},
        {"layers": [4, 0, 2]},
        {"layers": [4, -3, 2]},
        {"layers": [4, None, 2]},
        {"layers": [10**9, 10**9]},
        {"layers": [4, 10**9, 2]},
        {"layers": [4, 3, 2, *[10**9] * 1000]},
        {"layers": [10**400, 2]},
        {"layers": ...},
        {"dtype": "float64"},
        {"dtype": "float16"},
        {"dtype": "object"},
        {"dtype": ["float32"]},
        {"dtype": None},
        {"activation": "os.system"},
        {"activation": "../x"},
        {"activation": "rеlu"},  # a Cyrillic е
        {"activation": ["relu"]},
        {"activation": {"relu": 1}},
        {"activation": None},
        {"activation": "__import__('os')"},
        {"activation": ...},
        {"output": "tanh"},
        {"output": "os.system"},
        {"loss": "builtins.eval"},
        {"init": "pickle.loads"},
        {"seed": -1},
        {"seed": "0"},
        {"seed": None},
        {"seed": 1.5},
        {"seed": float("nan")},
        {"surplus": 1},
    ],
    ids=lambda changes: json.dumps(changes, default=lambda _: "absent")[:40],
)
def test_settings_that_make_no_network(path: Path, changes: dict[str, Any]) -> None:
    """Each with a right checksum."""
    data = saved(path)
    path.write_bytes(with_settings(data))
    load_model(path)  # the file before the change is a good one
    path.write_bytes(with_settings(data, **changes))
    message = refused(path)
    assert len(message) < 100_000


def test_a_file_that_is_older_than_a_setting_has_its_default(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "ALWAYS_SAVED", model_file.ALWAYS_SAVED - {"init"})
    path.write_bytes(with_settings(saved(path, activation="tanh", init="normal"), init=...))
    assert load_model(path).init == "glorot"


@pytest.mark.parametrize("version", ["3", "10", "0", "", "1.0", "one", None, 1, ["1"]])
def test_other_format_versions(path: Path, version: Any) -> None:
    header, tensors = take_apart(saved(path))
    header["__metadata__"]["format_version"] = version
    path.write_bytes(sealed(header, tensors))
    upgrade = str(version).isdecimal()
    refused(path, "unknown format version", "Upgrade twostroke." if upgrade else "damaged or foreign")
    del header["__metadata__"]["format_version"]
    path.write_bytes(put_together(header, tensors))
    refused(path, "unknown format version")


# --- tensors that are not what they should be ----------------------------------------------------------------------


def test_the_builder_of_these_tests_builds_good_files(path: Path) -> None:
    for dtype, version in itertools.product(("float32", "float64"), "12"):
        path.write_bytes(build(arrays(dtype=dtype), version, dtype=dtype))
        net = load_model(path)
        expected = np.concatenate([array.ravel() for array in arrays(dtype=dtype).values()])
        assert np.array_equal(net.parameters, expected)
    path.write_bytes(build(dict(reversed(arrays().items()))))  # the order in the file is free
    assert np.array_equal(load_model(path).weights[0], arrays()["W1"])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("b2"),
        lambda t: t.pop("W1"),
        lambda t: t.clear(),
        lambda t: t.update(W3=np.zeros((2, 2), "float32")),
        lambda t: t.update(b0=np.zeros(1, "float32")),
        lambda t: t.update(w1=t.pop("W1")),
        lambda t: t.update(W1=t["W1"].T.copy()),
        lambda t: t.update(W1=t["W1"].ravel()),
        lambda t: t.update(W1=np.zeros((4, 5), "float32")),
        lambda t: t.update(W2=np.zeros((5, 2), "float32")),
        lambda t: t.update(b1=np.zeros((1, 3), "float32")),
        lambda t: t.update(b1=np.zeros(0, "float32")),
        lambda t: t.update(W1=np.zeros((4, 0), "float32")),
        lambda t: t.update(W1=t["W1"].astype("float16")),
        lambda t: t.update(W1=t["W1"].astype("float64")),
        lambda t: t.update(W1=t["W1"].astype("int64")),
        lambda t: t.update({name: array.astype("float16") for name, array in t.items()}),
        lambda t: t.update({name: array.astype("int32") for name, array in t.items()}),
    ],
)
def test_tensors_that_do_not_fit_the_settings(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Each with a right checksum."""
    tensors = arrays()
    change(tensors)
    path.write_bytes(build(tensors))
    refused(path, "damaged or foreign")


def test_missing_and_surplus_tensors_are_listed(path: Path) -> None:
    tensors = arrays()
    tensors["W9"] = tensors.pop("b2")
    path.write_bytes(build(tensors))
    refused(path, "['W1', 'W2', 'W9', 'b1']", "['W1', 'W2', 'b1', 'b2']")


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "BOOL", "C64", "I32", "U8", "F16", "f32", "", None, 5, ["F32"]])
def test_other_dtypes_in_the_header(path: Path, dtype: Any) -> None:
    header, tensors = take_apart(saved(path))
    for name in ("W1", "b1", "W2", "b2"):
        header[name]["dtype"] = dtype
    path.write_bytes(sealed(header, tensors))
    refused(path, "damaged or foreign")


@pytest.mark.parametrize(
    ("name", "offsets"),
    [
        ("W1", [0, 47]), ("W1", [0, 49]), ("W1", [1, 49]), ("W1", [48, 0]), ("W1", [-48, 0]), ("W1", [0, 2**64]),
        ("W1", [0, 2**63]), ("W1", [2**70, 2**70 + 48]), ("W1", []), ("W1", [0]), ("W1", [0, 48, 96]), ("W1", "ab"),
        ("W1", None), ("W1", [0.0, 48.0]), ("W1", ["0", "48"]), ("b2", [0, 8]), ("b2", [1000, 1008]),
    ],
)  # fmt: skip
def test_offsets_that_overlap_leave_holes_or_lie(path: Path, name: str, offsets: Any) -> None:
    path.write_bytes(build(arrays()))
    header, tensors = take_apart(path.read_bytes())
    assert header["W1"]["data_offsets"] == [0, 48]
    header[name]["data_offsets"] = offsets
    path.write_bytes(put_together(header, tensors))
    refused(path)


@pytest.mark.parametrize("entry", [None, 5, "x", [], {}, {"dtype": "F32"}, {"shape": [4, 3]}])
def test_tensor_entries_that_are_none(path: Path, entry: Any) -> None:
    header, tensors = take_apart(saved(path))
    header["W1"] = entry
    path.write_bytes(put_together(header, tensors))
    refused(path)


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 4, bytes(4096), b"PK\x05\x06" + bytes(18)])
def test_bytes_after_the_tensors(path: Path, extra: bytes) -> None:
    path.write_bytes(saved(path) + extra)
    refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["W1", "b2"])
def test_weights_that_are_not_finite_are_refused(path: Path, name: str, value: float) -> None:
    tensors = arrays()
    tensors[name].flat[1] = value
    path.write_bytes(build(tensors))
    refused(path, "not finite")


# --- damage --------------------------------------------------------------------------------------------------------


def spans(data: bytes) -> list[int]:
    """The byte positions of the settings, the checksum and the tensors."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    result = list(range(8 + size, len(data)))
    for text in (json.dumps(header["__metadata__"]["settings"]).encode(), header["__metadata__"]["sha256"].encode()):
        start = data.index(text)
        result += range(start, start + len(text))
    return result


def test_any_bit_flipped_in_tensors_settings_or_checksum_is_found(path: Path) -> None:
    data, rng = saved(path), random.Random(0)
    positions = spans(data)
    assert len(positions) > 300
    for _ in range(300):
        position, bit = rng.choice(positions), rng.randrange(8)
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(ModelError):
            load_model(path)


def test_every_bit_of_a_tensor_counts(path: Path) -> None:
    data = saved(path)
    for position in range(len(data) - 8, len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            refused(path, "SHA-256" if np.isfinite(np.frombuffer(damaged[-8:], "<f4")).all() else "")


def test_a_zeroed_page_is_found(path: Path) -> None:
    save_model(make((90, 60, 10)), path)
    data = path.read_bytes()
    for start in range(len(data) // 4, len(data) - 4096, 4096):
        path.write_bytes(data[:start] + bytes(4096) + data[start + 4096 :])
        refused(path)


def test_a_swap_of_two_layers_is_found(path: Path) -> None:
    """Both have the same shape: only the checksum can tell."""
    save_model(make((5, 5, 5)), path)
    header, tensors = take_apart(path.read_bytes())
    header["W1"], header["W2"] = header["W2"], header["W1"]
    path.write_bytes(put_together(header, tensors))
    refused(path, "SHA-256")


@pytest.mark.parametrize("key", ["origin", "input", "settings"])
def test_an_edited_text_is_found(path: Path, key: str) -> None:
    """``twostroke export`` takes the scaling of pixels from the origin."""
    save_model(make(), path, {"input": "uint8"})
    header, tensors = take_apart(path.read_bytes())
    header["__metadata__"][key] = header["__metadata__"][key].replace("i", "h")
    path.write_bytes(put_together(header, tensors))
    refused(path, "" if key == "settings" else "SHA-256")
    with pytest.raises(ModelError):
        describe_model(path)


def test_a_missing_checksum_is_not_a_pass(path: Path) -> None:
    header, tensors = take_apart(saved(path))
    for value in (None, "", "0" * 64, 5):
        header["__metadata__"]["sha256"] = value
        path.write_bytes(put_together(header, tensors))
        refused(path)
    del header["__metadata__"]["sha256"]
    path.write_bytes(put_together(header, tensors))
    refused(path, "SHA-256")


def test_truncation_at_any_length_is_found(path: Path) -> None:
    data = saved(path)
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path)
    for length in range(len(data) - 9, len(data)):
        path.write_bytes(data[:length])
        refused(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_give_a_network_or_a_model_error(path: Path, data: st.DataObject) -> None:
    good = saved(path)
    kind = data.draw(st.sampled_from(["bytes", "header", "splice", "flip"]))
    if kind == "bytes":
        content = data.draw(st.binary(max_size=200))
    elif kind == "header":
        keys = st.sampled_from(["__metadata__", "W1", "b1", "format", "settings", "dtype", "shape", "data_offsets"])
        leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("twostroke")
        json_like = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=12)
        content = put_together(json.dumps(data.draw(json_like)).encode(), good[-60:])
    elif kind == "splice":
        start = data.draw(st.integers(0, len(good)))
        end = data.draw(st.integers(start, len(good)))
        content = good[:start] + data.draw(st.binary(max_size=30)) + good[end:]
    else:
        position = data.draw(st.integers(0, len(good) - 1))
        content = good[:position] + bytes([good[position] ^ data.draw(st.integers(1, 255))]) + good[position + 1 :]
    path.write_bytes(content)
    try:
        net = load_model(path)
    except ModelError:
        return
    # Nothing but the form of the header may have changed.
    assert np.array_equal(net.parameters, make().parameters)
    assert net.layers == (4, 3, 2)
    described = describe_model(path)
    path.write_bytes(good)
    assert described == describe_model(path)


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers", [[10**9, 10**9], [4, 10**9, 2], [MAX_WIDTH, MAX_WIDTH], [4, MAX_WIDTH, 2], [4, 3, 2, *[10**9] * 50_000]]
)
def test_a_promise_of_huge_layers_allocates_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, layers: list[int]
) -> None:
    path.write_bytes(with_settings(saved(path), layers=layers))
    monkeypatch.setattr(sealed_file, "MAX_FILE_BYTES", 1 << 20)  # see the next test
    assert peak_of(lambda: refused(path, "damaged or foreign")) < 32 << 20


@pytest.mark.parametrize("width", [10**6, MAX_WIDTH])
def test_a_header_that_lies_like_the_settings_allocates_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    header, tensors = take_apart(with_settings(saved(path), layers=[4, width, 2]))
    for name, shape in {"W1": [4, width], "b1": [width], "W2": [width, 2], "b2": [2]}.items():
        header[name]["shape"] = shape
    path.write_bytes(sealed(header, tensors))
    monkeypatch.setattr(sealed_file, "MAX_FILE_BYTES", 1 << 20)  # see the next test
    assert peak_of(lambda: refused(path, "damaged or foreign")) < 4 << 20


def test_loading_takes_memory_like_the_file_s(path: Path) -> None:
    save_model(make((100, 100, 10)), path)
    load_model(path)
    assert peak_of(lambda: load_model(path)) < 1 << 20


# --- saving that fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_diverged_network_never_replaces_a_good_one(backend: Backend, path: Path, value: float) -> None:
    before = saved(path)
    net = make(backend=backend)
    net.biases[1].fill(value)
    with pytest.raises(ModelError, match="weights are not finite: b2") as caught:
        save_model(net, path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


UNREADABLE: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "long": ((4, 3, 2), {"note": "x" * 1_100_000}),
    "deep": ((1,) * 9_000, {}),
}


@pytest.mark.parametrize(("layers", "provenance"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_could_not_be_read_again_is_not_written(
    path: Path, layers: tuple[int, ...], provenance: dict[str, Any]
) -> None:
    before = saved(path)
    with pytest.raises(ModelError, match="could not be read again") as caught:
        save_model(make(layers), path, provenance)
    assert str(path) in str(caught.value)
    assert "Nothing was written" in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("where", ["missing/m.safetensors", "folder", "file/m.safetensors", "folder/../missing/m"])
def test_impossible_places(tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ModelError) as caught:
        save_model(make(), tmp_path / where)
    assert str(tmp_path / where) in str(caught.value)
    assert "cannot write the model" in str(caught.value)
    assert caught.value.exit_code == 5
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("where", ["", ".", "/", "nul\0byte"])
def test_names_that_are_no_names(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        save_model(make(), where)


def test_a_failed_write_is_a_model_error_and_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left on device"):
        save_model(ts.MLP([9, 9]), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# --- nothing is run ------------------------------------------------------------------------------------------------

READER = """
import twostroke as ts
from twostroke.models.model_file import describe_model
ts.MLP([2, 2]).to(ts.select_backend("cpu"))
refusal = ts.ModelError
def read(path):
    net = ts.load_model(path)
    describe_model(path)
    return net
def right(net):
    return net.layers == (4, 3, 2)
"""


def test_loading_runs_imports_and_writes_nothing(path: Path, tmp_path: Path) -> None:
    data = saved(path)
    hostile = [
        pickle.dumps(Canary(str(tmp_path / "canary"))),
        pickle.dumps(Canary(str(tmp_path / "canary")), 0),
        with_settings(data, activation="os.system"),
        with_settings(data, init="__import__('os').mkdir('canary')"),
        with_settings(data, layers=[10**9, 10**9]),
        put_together(b"[" * 50_000, b""),
        data[:-1],
        data[:-1] + b"\x01",
        b"",
    ]
    require_harmless(READER, path, hostile, tmp_path)
    assert not (tmp_path / "canary").exists()


# --- what a network knows of its data -----------------------------------------------------------------------------


def of_a_table(dtype: str = "float32") -> MLP:
    scaling = Scaling(np.array([1.0, 2.0, 1e9]), np.array([0.5, 3.0, 1.0]))
    return MLP([3, 4, 2], dtype=dtype, scaling=scaling, classes=("no", "yes"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaling_and_names_survive_saving_copying_and_pickling(tmp_path: Path, dtype: str) -> None:
    net = of_a_table(dtype)
    X = np.random.default_rng(0).normal([1, 2, 1e9], 1, (9, 3))
    assert net.scaling is not None
    plain = MLP([3, 4, 2], dtype=dtype)
    np.testing.assert_array_equal(net.predict_proba(X), plain.predict_proba(net.scaling(X, dtype)))
    for other in (load_model(save_model(net, tmp_path / "a")), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.classes == ("no", "yes")
        np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"classes": ["a"]}, "2 different names"),
        ({"classes": ["a", "a"]}, "2 different names"),
        ({"classes": [0, 1]}, "2 different names"),
        ({"scaling": Scaling(np.zeros(2), np.ones(3))}, "scaling.mean: found shape (2,), expected (3,)"),
        ({"scaling": Scaling(np.zeros(3), np.ones((3, 1)))}, "scaling.deviation"),
    ],
)
def test_scaling_and_names_that_do_not_fit_are_refused(arguments: Any, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MLP([3, 4, 2], **arguments)
    assert part in str(caught.value)


def test_a_file_with_a_deviation_of_zero_is_refused(tmp_path: Path) -> None:
    net = of_a_table()
    assert net.scaling is not None
    net.scaling.deviation[1] = 0
    with pytest.raises(ModelError, match="deviation"):
        load_model(save_model(net, tmp_path / "a"))
