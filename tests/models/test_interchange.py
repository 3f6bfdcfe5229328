"""Arrays and models of other libraries: exchanged without a copy, and the page about it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from twostroke.backend import Backend
from twostroke.data.checks import check_images

PAGE = Path(__file__).parents[2] / "docs" / "move-a-model.md"
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


class ByDLPack:
    """An array that supports only DLPack."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class ByArray:
    """An array that NumPy reads through ``__array__``."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._array


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.random((6, 4), dtype=np.float32)


# --- in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [ByDLPack, ByArray])
def test_samples_of_other_libraries_come_in_without_a_copy(wrap: Any, X: np.ndarray) -> None:
    assert np.shares_memory(check_images(wrap(X), "X"), X)
    net, y = ts.MLP([4, 3], seed=0), np.arange(6, dtype=np.uint8) % 3
    assert np.array_equal(net.predict_proba(wrap(X)), net.predict_proba(X))
    data = ts.Dataset.from_arrays(wrap(X), wrap(y), wrap(X), wrap(y))
    assert np.shares_memory(data.train_images, X)
    assert np.shares_memory(data.test_labels, y)
    assert ts.evaluate(net, wrap(X), wrap(y)) == ts.evaluate(net, X, y)


def test_what_comes_in_is_still_checked(X: np.ndarray) -> None:
    X[2, 1] = np.nan
    with pytest.raises(ts.DataError, match="NaN"):
        check_images(ByDLPack(X), "X")

    class Elsewhere(ByDLPack):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("on another device")

    with pytest.raises(ts.DataError, match=r"not a NumPy array.*on another device"):
        check_images(Elsewhere(X), "X")


def test_parameters_come_in_without_a_copy() -> None:
    net = ts.MLP([4, 3], seed=0)
    flat = np.linspace(-1, 1, len(net.parameters), dtype=np.float32)
    net.parameters = net.backend.xp.from_dlpack(ByDLPack(flat))
    assert np.shares_memory(net.weights[0], flat)
    net.parameters = net.backend.asarray(ByArray(flat))
    assert np.shares_memory(net.weights[0], flat)


# --- out -----------------------------------------------------------------------------------------------------------


def test_parameters_go_out_without_a_copy() -> None:
    net = ts.MLP([4, 3], seed=0)
    for array in (net.parameters, *net.weights, *net.biases):
        seen = np.from_dlpack(ByDLPack(array))
        assert np.shares_memory(seen, net.parameters)
        assert np.array_equal(seen, array)


def test_a_gpu_s_parameters_go_out_and_in_without_a_copy(cuda: Backend) -> None:
    net = ts.MLP([4, 3], seed=0, backend=cuda)
    flat = cuda.xp.from_dlpack(ByDLPack(net.parameters))
    assert flat.data.ptr == net.parameters.data.ptr
    net.parameters = cuda.xp.from_dlpack(ByDLPack(flat * 2))
    assert np.array_equal(cuda.to_host(net.parameters), 2 * cuda.to_host(flat))


def test_a_gpu_s_samples_are_refused_rather_than_copied(cuda: Backend, X: np.ndarray) -> None:
    for samples in (cuda.asarray(X), ByDLPack(cuda.asarray(X))):
        with pytest.raises(ts.DataError, match="not a NumPy array"):
            ts.MLP([4, 3], seed=0, backend=cuda).predict(samples)


# --- PyTorch -------------------------------------------------------------------------------------------------------


def test_tensors_of_pytorch(X: np.ndarray) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    net, tensor = ts.MLP([4, 3], seed=0), torch.from_numpy(X)
    assert check_images(tensor, "X").ctypes.data == tensor.data_ptr()
    assert np.array_equal(net.predict(tensor), net.predict(X))
    assert torch.from_dlpack(net.parameters).data_ptr() == net.parameters.ctypes.data
    net.parameters = net.backend.asarray(torch.zeros(len(net.parameters)))
    assert not net.parameters.any()
    with pytest.raises(ts.DataError, match="detach"):
        net.predict(torch.ones(2, 4, requires_grad=True))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_file_in_pytorch_and_back(activation: str, dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    from safetensors.torch import load_file

    net = ts.MLP([12, 8, 5], activation, seed=4, dtype=dtype)
    net.parameters += np.random.default_rng(0).normal(0, 0.3, net.parameters.shape).astype(dtype)
    tensors = load_file(ts.save_model(net, tmp_path / "model.safetensors"))
    name = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh"}[activation]
    linears = torch.nn.Linear(12, 8), torch.nn.Linear(8, 5)
    model = torch.nn.Sequential(linears[0], getattr(torch.nn, name)(), linears[1]).to(getattr(torch, dtype))
    model.load_state_dict(
        {"0.weight": tensors["W1"].T, "0.bias": tensors["b1"], "2.weight": tensors["W2"].T, "2.bias": tensors["b2"]}
    )
    X = np.random.default_rng(1).random((20, 12)).astype(dtype)
    outputs = model(torch.from_numpy(X)).softmax(dim=1).detach().numpy()
    tolerance = {"float32": 1e-6, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(outputs, net.predict_proba(X), rtol=0, atol=tolerance)
    back = ts.MLP([12, 8, 5], activation, seed=0, dtype=dtype)
    for layer, linear in zip(back.views, linears, strict=True):
        layer.W[:] = linear.weight.detach().numpy().T
        layer.b[:] = linear.bias.detach().numpy()
    assert np.array_equal(back.parameters, net.parameters)


# --- the page ------------------------------------------------------------------------------------------------------

BLOCKS = BLOCK.findall(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else []
SHOWN = [text for language, text in BLOCKS if language == "py"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's first block has run."""
    folder = tmp_path_factory.mktemp("page")
    first = next(text for language, text in BLOCKS if language == "python")
    python(first, folder)
    return folder


def python(code: str, folder: Path, *words: str) -> None:
    command = [sys.executable, "-W", "error", *(words or ("-c", code))]
    environment = os.environ | {"PYTHONPATH": str(Path(ts.__file__).parents[1])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_shows_onnx_and_pytorch() -> None:
    assert {"onnxruntime", "torch"} <= {word for text in SHOWN for word in re.findall(r"^import (\w+)", text, re.M)}


@pytest.mark.parametrize("block", SHOWN, ids=[str(n) for n in range(1, len(SHOWN) + 1)])
def test_what_the_page_shows_of_other_libraries_runs(block: str, folder: Path) -> None:
    for module in re.findall(r"^import (\w+)", block, re.MULTILINE):
        pytest.importorskip(module, reason=f"needs {module}")
    if "digits.onnx" in block:
        pytest.importorskip("onnx", reason="needs the extra onnx")
        shown = next(text for language, text in BLOCKS if language == "sh" and "twostroke export" in text)
        python("", folder, "-m", *shown.split())
    python(block, folder)
