"""ONNX files: onnxruntime computes what the network computes; what cannot be exported is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from twostroke.backend import Backend
from twostroke.cli import main
from twostroke.engine import kernels
from twostroke.engine.mlp import DTYPES
from twostroke.models import onnx as onnx_export

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture(scope="module")
def runtime() -> ModuleType:
    module: ModuleType = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    return module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def make(**options: Any) -> ts.MLP:
    return ts.MLP([12, 9, 7, 4], **({"seed": 3} | options))


def pixels(rows: int, features: int = 12) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 256, (rows, features), dtype=np.uint8)


# --- what onnxruntime says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
@pytest.mark.parametrize(("loss", "output"), [(loss, name) for loss, names in kernels.LOSSES.items() for name in names])
def test_onnxruntime_says_what_the_network_says(
    dtype: str, activation: str, loss: str, output: str, path: Path, runtime: Any
) -> None:
    net = make(dtype=dtype, activation=activation, loss=loss, output=output)
    net.parameters += (
        np.random.default_rng(0).normal(0, 0.3, net.parameters.shape).astype(dtype)
    )  # biases are 0 at first
    ts.export_onnx(net, path)
    session = runtime.InferenceSession(path)
    for rows in (1, 2, 300):
        X = pixels(rows)
        label, probabilities = session.run(["label", "probabilities"], {"input": X})
        expected = net.predict_proba(X)
        assert probabilities.dtype == expected.dtype == dtype
        atol = TOLERANCE[dtype] * max(1.0, float(expected.max()))  # exp has no upper end
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=atol)
        assert label.dtype == np.int64
        assert np.array_equal(label, probabilities.argmax(axis=1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_values_go_in_unscaled(dtype: str, path: Path, runtime: Any) -> None:
    net = make(dtype=dtype)
    ts.export_onnx(net, path, inputs="scaled")
    X = np.random.default_rng(0).normal(size=(5, 12)).astype(dtype)
    session = runtime.InferenceSession(path)
    assert session.get_inputs()[0].type == {"float32": "tensor(float)", "float64": "tensor(double)"}[dtype]
    found = session.run(["probabilities"], {"input": X})[0]
    np.testing.assert_allclose(found, net.predict_proba(X), rtol=0, atol=TOLERANCE[dtype])


def test_extreme_logits_stay_finite(path: Path, runtime: Any) -> None:
    net = ts.MLP([12, 4], seed=0)
    net.parameters *= 1e6
    ts.export_onnx(net, path)
    found = runtime.InferenceSession(path).run(["probabilities"], {"input": pixels(50)})[0]
    np.testing.assert_allclose(found, net.predict_proba(pixels(50)), rtol=0, atol=1e-6)
    assert found.max() == 1


def test_a_network_on_any_device(backend: Backend, path: Path) -> None:
    here, there = ts.export_onnx(make(), path), ts.export_onnx(make(backend=backend), path.with_name("other.onnx"))
    assert path.read_bytes() == Path(there["onnx"]).read_bytes()
    assert here["bytes"] == path.stat().st_size


def test_names_shapes_and_metadata(path: Path, runtime: Any) -> None:
    net = make()
    written = ts.export_onnx(net, path, origin={"epochs": 4, "optimizer": "adam"})
    session = runtime.InferenceSession(path)
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        ("input", "tensor(uint8)", ["batch", 12])
    ]
    assert [(one.name, one.type, one.shape) for one in session.get_outputs()] == [
        ("label", "tensor(int64)", ["batch"]),
        ("probabilities", "tensor(float)", ["batch", 4]),
    ]
    assert written["inputs"] == {"input": {"dtype": "uint8", "shape": ["batch", 12]}}
    assert written["outputs"]["label"] == {"dtype": "int64", "shape": ["batch"]}
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["twostroke"] == ts.__version__
    assert json.loads(metadata["settings"])["layers"] == [12, 9, 7, 4]
    assert json.loads(metadata["origin"]) == {"epochs": 4, "optimizer": "adam"}
    assert json.loads(metadata["classes"]) == [0, 1, 2, 3]
    model = onnx.load(path)
    assert (model.producer_name, model.producer_version) == ("twostroke", ts.__version__)
    assert (model.ir_version, [one.version for one in model.opset_import]) == (8, [17])
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    assert np.array_equal(tensors["W2"], net.weights[1])


@pytest.mark.parametrize("classes", [["shirt", "bag", "größe", "x y"], [10, 20, -3, 7]])
def test_labels_are_the_classes_names(classes: list[Any], path: Path, runtime: Any) -> None:
    net = make(init="normal")
    net.parameters *= 3
    written = ts.export_onnx(net, path, classes=classes)
    session = runtime.InferenceSession(path)
    X = pixels(200)
    label = session.run(["label"], {"input": X})[0]
    assert label.tolist() == [classes[k] for k in net.predict(X)]
    assert len(set(label)) > 1
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == written["classes"] == classes


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [["a", "b"], list("abcde"), list("aabc"), ["a", "b", "c", 4], []])
def test_wrong_names_of_classes(classes: list[Any], path: Path) -> None:
    with pytest.raises(ts.ConfigError, match=r"classes.*4 different names"):
        ts.export_onnx(make(), path, classes=classes)
    assert not path.exists()


def test_wrong_arguments_and_networks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"precious")
    with pytest.raises(ts.ConfigError, match="inputs: found 'images', expected pixels or scaled"):
        ts.export_onnx(make(), path, inputs="images")
    broken = make()
    broken.biases[0][:] = np.nan
    with pytest.raises(ts.ModelError, match="not finite: b1"):
        ts.export_onnx(broken, path)
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 100)
    with pytest.raises(ts.ModelError, match=r"too large for ONNX.*<= 100"):
        ts.export_onnx(make(), path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("operator", ["NoSuchOperator", "MatMul"])
def test_what_the_checker_refuses_is_not_written(operator: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.ACTIVATIONS["relu"], "onnx", operator)
    with pytest.raises(ts.ModelError, match="ONNX refuses the model"):
        ts.export_onnx(make(), path)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("where", ["missing/m.onnx", "folder", "nul\0.onnx"])
def test_impossible_places(where: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ts.ModelError, match="cannot write the model"):
        ts.export_onnx(make(), tmp_path / where)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_failed_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"precious")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ts.ModelError, match="No space left on device"):
        ts.export_onnx(make(), path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == [path.name]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model trained by the command line on pixels, and one on floats."""
    rng, found = np.random.default_rng(0), {}
    for dtype in ("uint8", "float64"):
        folder = tmp_path_factory.mktemp(dtype)
        X, y = rng.integers(0, 2, (60, 6)).astype(dtype), np.arange(60) % 3
        np.savez(folder / "set.npz", x_train=X, y_train=y, x_test=X, y_test=y)
        words = ["train", str(folder / "set.npz"), "--device", "cpu", "--epochs", "1", "--out", str(folder), "-q"]
        assert main([*words, "--batch-size", "20"]) == 0
        found[dtype] = folder / "model.safetensors"
    return found


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_the_command_exports_what_the_model_was_trained_on(
    dtype: str, trained: dict[str, Path], path: Path, capsys: pytest.CaptureFixture[str], runtime: Any
) -> None:
    path.write_bytes(b"old")
    code, out, err = run(capsys, "export", trained[dtype], path)
    assert (code, err) == (0, "")
    expected = {"uint8": "input uint8 (batch, 6), pixels 0..255", "float64": "input float32 (batch, 6), values already"}
    assert expected[dtype] in out.splitlines()[1]
    assert out.splitlines()[2] == "outputs: label int64 (batch,), probabilities float32 (batch, 3)"
    assert f"written: {path}, {path.stat().st_size:,} bytes" in out
    code, out, _ = run(capsys, "export", trained[dtype], path, "--classes", "a, b,c", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["model"], found["onnx"], found["classes"]) == (str(trained[dtype]), str(path), ["a", "b", "c"])
    assert (found["origin"]["epochs"], found["settings"]["layers"][0]) == (1, 6)
    session, net = runtime.InferenceSession(path), ts.load_model(trained[dtype])
    X = pixels(9, 6) if dtype == "uint8" else pixels(9, 6).astype("float32") / 99
    label, probabilities = session.run(None, {"input": X})
    np.testing.assert_allclose(probabilities, net.predict_proba(X), rtol=0, atol=1e-6)
    assert label.tolist() == ["abc"[k] for k in net.predict(X)]


def test_the_command_refuses_in_one_line(
    trained: dict[str, Path], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(code: int, *words: str) -> None:
        found, out, err = result
        assert (found, out, err.count("\n")) == (code, "", 1)
        assert err.startswith("error: ")
        for word in words:
            assert word in err

    model = trained["uint8"]
    result = run(capsys, "export", model, path.with_suffix(".pt"))
    refused(2, "model.pt: found '.pt', expected .onnx")
    result = run(capsys, "export", model, path.with_suffix(""))
    refused(2, "found none, expected .onnx")
    result = run(capsys, "export", path, path)
    refused(5, str(path), "No such file")
    result = run(capsys, "export", model, path, "--classes", "a,b")
    refused(2, "--classes: found 'a', 'b', expected 3 different names")
    result = run(capsys, "export", model, path, "--inputs", "png")
    refused(2, "--inputs: found 'png', expected pixels or scaled")
    result = run(capsys, "export", model, path.parent / "no" / "m.onnx")
    refused(5, "cannot write the model", "no/m.onnx")
    path.symlink_to(model)
    result = run(capsys, "export", model, path)
    refused(2, "the model would be replaced", str(path))
