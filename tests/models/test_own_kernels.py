"""A file holds the name of a user's kernel and never imports it."""

from __future__ import annotations

import importlib
import json
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support import own_kernels as own
from twostroke.files.sealed_file import parse_header, read_bytes

MODULE = """
import pathlib
pathlib.Path("IMPORTED").touch()
from tests.support.own_kernels import huber, swish
"""


def saved(path: Path, **network: Any) -> tuple[ts.MLP, Path]:
    net = ts.MLP([4, 5, 3], **network)
    return net, ts.save_model(net, path / "m.safetensors")


def test_a_model_is_loaded_with_its_kernels(tmp_path: Path) -> None:
    net, path = saved(tmp_path, activation=own.swish, loss=own.huber, output="softmax")
    loaded = ts.load_model(path, kernels=[own.rmsprop, own.huber, own.my_tanh, own.swish])
    assert (loaded.activation, loaded.loss, loaded.output) == ("swish", "huber", "softmax")
    X = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))


def test_the_file_holds_the_name_alone(tmp_path: Path) -> None:
    _, path = saved(tmp_path, activation=own.swish, loss=own.huber)
    settings = json.loads(parse_header(read_bytes(path), path)["__metadata__"]["settings"])
    assert (settings["activation"], settings["loss"]) == ("swish", "huber")
    assert b"own_kernels" not in path.read_bytes()


@pytest.mark.parametrize("kernels", [[], [own.swish], [own.huber, own.rmsprop]])
def test_without_its_kernel_it_is_refused_in_one_line(tmp_path: Path, kernels: Any) -> None:
    _, path = saved(tmp_path, activation=own.swish, loss=own.huber)
    with pytest.raises(ts.ModelError) as caught:
        ts.load_model(path, kernels=kernels)
    line, missing = str(caught.value), "a Loss" if own.swish in kernels else "an Activation"
    assert line.startswith(f"the model needs {missing} that is not built in: {path}: found '")
    assert line.endswith("Give it: load_model(path, kernels=[...]), or --kernel MODULE:NAME.")
    assert "\n" not in line


@pytest.mark.parametrize("named", ["recording", "recording:swish", "os:system", "__import__"])
def test_a_name_in_a_file_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """The module lies where Python would find it, and a file names it in every way that a user could."""
    (tmp_path / "recording.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    net, _ = saved(tmp_path)
    net.activation = named
    path = ts.save_model(net, tmp_path / "foreign.safetensors")
    for kernels in ([], [own.huber]):
        with pytest.raises(ts.ModelError):
            ts.load_model(path, kernels=kernels)
    assert "recording" not in sys.modules
    assert not (tmp_path / "IMPORTED").exists()
    importlib.import_module("recording")  # the trap works
    assert (tmp_path / "IMPORTED").exists()
    del sys.modules["recording"]


def test_a_built_in_name_is_the_built_in(tmp_path: Path) -> None:
    _, path = saved(tmp_path, activation="tanh")
    assert type(ts.load_model(path, kernels=[own.my_tanh, own.swish]).activation) is str


@pytest.mark.parametrize("kernel", ["swish", None, own.swish_forward])
def test_what_is_no_kernel_is_refused(tmp_path: Path, kernel: Any) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(ts.ConfigError, match=r"^not a kernel: kernels: found"):
        ts.load_model(path, kernels=[kernel])


@pytest.mark.skipif(not util.find_spec("onnx"), reason="onnx is not installed: pip install 'twostroke[onnx]'")
def test_onnx_needs_an_operator(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    with pytest.raises(ts.ConfigError, match=r"^the activation has no ONNX operator: activation: found 'swish'"):
        ts.export_onnx(ts.MLP([4, 5, 3], activation=own.swish), target, inputs="scaled")
    assert not target.exists()
    ts.export_onnx(ts.MLP([4, 5, 3], activation=own.my_tanh, loss=own.huber), target, inputs="scaled")
    assert target.exists()
