"""The network: what it accepts, how its parameters lie, and what predict gives for every kind of input."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import re
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twostroke as ts
from twostroke.backend import Backend
from twostroke.engine import mlp
from twostroke.engine.arguments import MAX_WIDTH
from twostroke.engine.initializers import INITIALIZERS
from twostroke.engine.kernels import ACTIVATIONS, LOSSES
from twostroke.engine.layers import layer_views, parameter_count
from twostroke.engine.mlp import MOST_ROWS, MOST_SIZES, network_settings
from twostroke.errors import ConfigError, DataError

# --- construction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers",
    [[], [784], [784, 0], [0, 10], [784, -1, 10], [10**9, 10], [784, 10**9], [784, MAX_WIDTH + 1], "784,10",
     [784.0, 10], [784, "10"], [784, None], 784, None, [[784, 10]], b"", {}],
)  # fmt: skip
def test_bad_layers(layers: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ts.MLP(layers)
    message = str(caught.value)
    assert message.startswith("bad layers: layers: found ")
    assert message.endswith(f"expected at least two widths of 1..{MAX_WIDTH}, such as 784,128,10")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("activation", "swish", ACTIVATIONS),
        ("activation", "os.system", ACTIVATIONS),
        ("activation", "softmax", ACTIVATIONS),
        ("activation", "ReLU", ACTIVATIONS),
        ("activation", "rеlu", ACTIVATIONS),  # a Cyrillic е
        ("activation", None, ACTIVATIONS),
        ("activation", ["relu"], ACTIVATIONS),
        ("loss", "mse", LOSSES),
        ("output", "tanh", LOSSES["cross-entropy"]),  # cross-entropy needs a probability
        ("output", "relu", LOSSES["cross-entropy"]),
        ("output", "identity", LOSSES["cross-entropy"]),
        ("output", 5, LOSSES["cross-entropy"]),
        ("init", "zeros", INITIALIZERS),
        ("dtype", "float16", ("float32", "float64")),
        ("dtype", "int8", ("float32", "float64")),
        ("dtype", np.float32, ("float32", "float64")),
        ("dtype", None, ("float32", "float64")),
    ],
)
def test_an_unknown_name_is_refused_with_those_known(name: str, value: Any, allowed: Any) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError) as caught:
        ts.MLP([3, 2], **settings)
    assert str(caught.value) == f"unknown {name}: {name}: found {value!r}, expected {' or '.join(allowed)}"


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("output", [*ACTIVATIONS, "softmax"])
def test_each_loss_takes_its_outputs_and_no_other(loss: str, output: str) -> None:
    if output in LOSSES[loss]:
        assert ts.MLP([3, 2], loss=loss, output=output).output == output
    else:
        with pytest.raises(ConfigError, match="output"):
            ts.MLP([3, 2], loss=loss, output=output)


@pytest.mark.parametrize("table", [ACTIVATIONS, LOSSES, INITIALIZERS], ids=["activation", "loss", "init"])
def test_the_docstring_names_every_choice(table: dict[str, Any]) -> None:
    text = ts.MLP.__doc__ or ""
    missing = [name for name in table if f'"{name}"' not in text]
    assert not missing, f"engine/mlp.py: name {missing} in the docstring of MLP"


def test_defaults() -> None:
    net = ts.MLP([3, 2])
    assert (net.activation, net.loss, net.output, net.init) == ("relu", "cross-entropy", "softmax", "he")
    assert (net.dtype, net.seed, net.layers, net.backend.name) == ("float32", 0, (3, 2), "numpy")
    quadratic = ts.MLP([3, 2], "tanh", "quadratic")
    assert (quadratic.output, quadratic.init) == ("sigmoid", "glorot")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed: found -1, expected an integer >= 0"):
        ts.MLP([3, 2], seed=-1)


@pytest.mark.parametrize("seed", ["x", 1.5, None])
def test_a_seed_of_the_wrong_kind_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed"):
        ts.MLP([3, 2], seed=seed)


def test_widths_may_come_from_numpy() -> None:
    net = ts.MLP(np.array([3, 4, 2]))
    assert net.layers == (3, 4, 2)
    assert all(type(width) is int for width in net.layers)


# --- parameters --------------------------------------------------------------------------------------------------


def test_the_layers_are_views_of_one_flat_buffer(backend: Backend) -> None:
    net = ts.MLP([3, 4, 2], backend=backend)
    assert net.parameters.shape == (3 * 4 + 4 + 4 * 2 + 2,)
    assert parameter_count([3, 4, 2]) == 26
    assert [tuple(W.shape) for W in net.weights] == [(3, 4), (4, 2)]
    assert [tuple(b.shape) for b in net.biases] == [(1, 4), (1, 2)]
    flat = np.arange(26, dtype=np.float32)
    backend.xp.copyto(net.parameters, backend.asarray(flat))
    parts = [net.weights[0], net.biases[0], net.weights[1], net.biases[1]]
    hosts = [backend.to_host(part) for part in parts]
    assert hosts[0].tolist() == flat[:12].reshape(3, 4).tolist()
    assert hosts[1].tolist() == [flat[12:16].tolist()]
    assert hosts[2].tolist() == flat[16:24].reshape(4, 2).tolist()
    assert hosts[3].tolist() == [flat[24:].tolist()]
    assert [part.flags.c_contiguous for part in parts] == [True] * 4
    net.weights[1].fill(-1.0)  # and back: writing into a view writes into the buffer
    assert backend.to_host(net.parameters)[16:24].tolist() == [-1.0] * 8


def test_new_parameters_must_fit(backend: Backend) -> None:
    net = ts.MLP([3, 2], backend=backend)
    with pytest.raises(DataError, match=r"wrong parameters: .* found \(\(7,\), .* expected \(\(8,\), "):
        net.parameters = backend.asarray(np.zeros(7, np.float32))
    fresh = backend.asarray(np.ones(8, np.float32))
    net.parameters = fresh
    assert net.parameters is fresh
    assert backend.to_host(net.biases[0]).tolist() == [[1.0, 1.0]]
    if backend.name != "numpy":
        with pytest.raises(DataError, match="array of the wrong device: parameters"):
            net.parameters = np.ones(8, np.float32)


@pytest.mark.parametrize(
    "flat",
    [np.zeros(8), np.zeros(8, ">f4"), np.zeros(16, np.float32)[::2], np.zeros(8, np.int64)],
    ids=["float64", "big-endian", "strided", "int64"],
)
def test_new_parameters_of_another_kind_are_refused(flat: Any) -> None:
    """Accepted, they break later: the views are copies, or the saved file cannot be loaded."""
    with pytest.raises(ts.TwoStrokeError):
        ts.MLP([3, 2]).parameters = flat


def test_layer_views_write_through() -> None:
    flat = np.zeros(8)
    (layer,) = layer_views(flat, [3, 2])
    layer.W[2, 1] = 5.0
    layer.b[0, 0] = 6.0
    assert flat.tolist() == [0, 0, 0, 0, 0, 5, 6, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moving_keeps_every_bit(backend: Backend, dtype: str) -> None:
    home = ts.select_backend("cpu", threads=1)
    net = ts.MLP([3, 4, 2], seed=1, dtype=dtype, backend=home)
    bits = net.parameters.tobytes()
    assert net.to(backend) is net
    assert net.backend is backend
    assert ts.array_module(net.parameters) is backend.xp
    assert all(ts.array_module(a) is backend.xp for a in net.weights + net.biases)
    assert net.parameters.dtype == dtype
    assert backend.to_host(net.parameters).tobytes() == bits
    assert net.to(home).parameters.tobytes() == bits
    before = net.parameters
    assert net.to(home).parameters is before


def test_moving_between_two_cpu_backends_shares_nothing() -> None:
    net = ts.MLP([3, 2])
    before = net.parameters
    net.to(ts.select_backend("cpu", threads=1))
    assert not np.shares_memory(before, net.parameters)


def test_repr(backend: Backend) -> None:
    net = ts.MLP([784, 128, 10], backend=backend)
    assert repr(net) == f"MLP(784-128-10, relu, softmax output, cross-entropy, float32, {backend.device})"
    assert repr(ts.MLP([2, 2], "tanh", "quadratic", dtype="float64", output="identity")) == (
        "MLP(2-2, tanh, identity output, quadratic, float64, cpu)"
    )


# --- predict -----------------------------------------------------------------------------------------------------


def pixels(n: int, d: int = 6, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, d), dtype=np.uint8)


def probabilities(net: ts.MLP, X: Any) -> Any:
    """Softmax of a ReLU network, written here in float64."""
    A = X / 255.0
    for index, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        A = A @ net.backend.to_host(W).astype(float) + net.backend.to_host(b)
        if index < len(net.weights) - 1:
            A = np.maximum(A, 0)
    E = np.exp(A - A.max(axis=1, keepdims=True))
    return E / E.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n", [1, 5, MOST_ROWS, MOST_ROWS + 1, 2 * MOST_ROWS + 7])
def test_probabilities(backend: Backend, n: int) -> None:
    net, X = ts.MLP([6, 5, 4, 3], seed=1, backend=backend), pixels(n)
    P = net.predict_proba(X)
    assert type(P) is np.ndarray
    assert (P.shape, P.dtype) == ((n, 3), np.float32)
    np.testing.assert_allclose(P, probabilities(net, X), atol=2e-6)
    np.testing.assert_allclose(P.sum(axis=1), 1.0, atol=1e-6)
    assert P.min() >= 0
    classes = net.predict(X)
    assert type(classes) is np.ndarray
    assert (classes.shape, classes.dtype) == ((n,), np.int64)
    assert np.array_equal(classes, P.argmax(axis=1))


@pytest.mark.parametrize(
    ("loss", "output", "low", "high"),
    [("cross-entropy", "sigmoid", 0, 1), ("quadratic", "sigmoid", 0, 1), ("quadratic", "tanh", -1, 1),
     ("quadratic", "relu", 0, math.inf), ("quadratic", "softmax", 0, 1)],
)  # fmt: skip
def test_outputs_have_their_range(backend: Backend, loss: str, output: str, low: float, high: float) -> None:
    net = ts.MLP([6, 5, 3], "tanh", loss, seed=1, output=output, backend=backend)
    P = net.predict_proba(pixels(50))
    assert low <= P.min() <= P.max() <= high
    if output == "softmax":
        np.testing.assert_allclose(P.sum(axis=1), 1.0, atol=1e-6)


def test_extreme_inputs_do_not_overflow() -> None:
    for output in ("softmax", "sigmoid"):
        net = ts.MLP([2, 3], output=output)
        P = net.predict_proba(np.array([[1e30, -1e30], [-1e30, 1e30], [0, 0]], np.float32))
        assert np.isfinite(P).all()


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("float64", 1e-14)])
def test_pixels_are_the_same_as_scaled_floats(backend: Backend, dtype: str, limit: float) -> None:
    net, X = ts.MLP([6, 5, 3], seed=1, dtype=dtype, backend=backend), pixels(40)
    P = net.predict_proba(X)
    assert P.dtype == dtype
    for kind in ("float32", "float64"):
        bound = limit if kind == dtype else 1e-6
        np.testing.assert_allclose(net.predict_proba(X.astype(kind) / np.dtype(kind).type(255)), P, atol=bound)


def test_one_output_is_a_class_by_one_half() -> None:
    """XOR, with two hidden units set by hand."""
    net = ts.MLP([2, 2, 1], loss="quadratic", output="identity")
    net.weights[0][:], net.biases[0][:] = [[1, 1], [1, 1]], [[0, -1]]
    net.weights[1][:], net.biases[1][:] = [[1], [-2]], [[0]]
    X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    assert net.predict(X).tolist() == [0, 1, 1, 0]
    assert net.predict(X).dtype == np.int64


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_is_a_network_of_its_own(backend: Backend, copied: Any) -> None:
    net, X = ts.MLP([6, 5, 3], "tanh", seed=1, dtype="float64", init="normal", backend=backend), pixels(9)
    expected = net.predict_proba(X)
    other: Any = copied(net)
    assert network_settings(other) == network_settings(net)
    assert other.backend is (net.backend if copied is copy.deepcopy else ts.MLP([1, 1]).backend)
    np.testing.assert_allclose(other.predict_proba(X), expected, atol=1e-12)
    with backend.active():
        net.parameters.fill(0)
    np.testing.assert_allclose(other.predict_proba(X), expected, atol=1e-12)


def test_a_summary_has_every_layer() -> None:
    lines = ts.MLP([784, 128, 10]).summary().splitlines()
    assert [line.split() for line in lines] == [
        ["layer", "in", "out", "activation", "parameters"],
        ["1", "784", "128", "relu", "100,480"],
        ["2", "128", "10", "softmax", "1,290"],
        ["all", "cross-entropy", "loss", "101,770"],
    ]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("backend", ["cpu", "cuda", 3])
def test_a_backend_is_an_object(backend: Any) -> None:
    makes: list[Callable[[], ts.MLP]] = [lambda: ts.MLP([2, 1], backend=backend), lambda: ts.MLP([2, 1]).to(backend)]
    for make in makes:
        with pytest.raises(ConfigError, match=r"^not a backend: backend: found .*select_backend\('(cpu|cuda)'\)\.$"):
            make()


# Passes are captured and kept: what they must not keep.


def test_predictions_follow_the_parameters(backend: Backend) -> None:
    net, X = ts.MLP([6, 5, 3], seed=1, backend=backend), pixels(9)
    for _ in range(3):
        net.predict_proba(X)
    with backend.active():
        net.parameters *= -2
    np.testing.assert_allclose(net.predict_proba(X), probabilities(net, X), atol=2e-6)
    net.parameters = backend.copy_of(ts.MLP([6, 5, 3], seed=2).parameters, "float32")
    np.testing.assert_allclose(net.predict_proba(X), probabilities(net, X), atol=2e-6)
    net.to(ts.select_backend("cpu"))
    np.testing.assert_allclose(net.predict_proba(X), probabilities(net, X), atol=2e-6)


def test_any_numbers_of_rows_come_in_any_order(backend: Backend) -> None:
    net, sizes = ts.MLP([6, 5, 3], seed=1, backend=backend), [*range(1, 2 * MOST_SIZES), 3, 1, 7]
    for n in sizes:
        for X in (pixels(n, seed=n), pixels(n, seed=n) / np.float32(255)):
            expected = probabilities(net, X if X.dtype == "uint8" else X * 255)
            np.testing.assert_allclose(net.predict_proba(X), expected, atol=2e-6)
    assert len(net._inference[0]._captured) == MOST_SIZES


def test_threads_share_a_network() -> None:
    net, n_threads = ts.MLP([6, 5, 3], seed=1, backend=ts.select_backend("cpu", 1)), 4
    inputs = [pixels(200, seed=seed) for seed in range(n_threads)]
    expected = [net.predict_proba(X) for X in inputs]
    start, interval = threading.Barrier(n_threads), sys.getswitchinterval()

    def work(mine: int) -> bool:
        start.wait()
        return all(np.array_equal(net.predict_proba(inputs[mine]), expected[mine]) for _ in range(200))

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            assert all(pool.map(work, range(n_threads)))
    finally:
        sys.setswitchinterval(interval)


def test_a_network_keeps_little_and_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ts.MLP([6, 5, 3])
    net.predict_proba(pixels(10))
    assert len(net._inference) == 1
    monkeypatch.setattr(mlp, "MOST_KEPT", 16 * (6 + 5 + 3) * 4)
    net.predict_proba(pixels(17))
    assert not net._inference
    net.predict_proba(pixels(16))
    assert len(net._inference) == 1
    gone = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert gone() is None
    finally:
        gc.enable()


def layouts(X: Any) -> dict[str, Any]:
    """The same values, otherwise laid out."""
    n, d = X.shape
    spaced = np.zeros((2 * n, 3 * d), X.dtype)
    spaced[::2, ::3] = X
    raw = bytearray(X.nbytes + 1)
    misaligned = np.frombuffer(raw, X.dtype, offset=1, count=X.size).reshape(X.shape)
    misaligned[...] = X
    frozen = X.copy()
    frozen.flags.writeable = False
    return {
        "Fortran": np.asfortranarray(X),
        "strided": spaced[::2, ::3],
        "reversed": X[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": frozen,
        "big-endian": X.astype(X.dtype.newbyteorder(">")),
        "misaligned": misaligned,
        "transposed": X.T.copy().T,
        "subclass": X.view(np.matrix) if X.dtype.kind == "f" else X.view(np.recarray),
        "images": X.reshape(n, 2, d // 2),
        "one channel": X.reshape(n, 2, d // 2, 1),
        "list": X.tolist() if X.dtype == np.float64 else X,
    }


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_the_layout_of_the_input_does_not_matter(backend: Backend, dtype: str) -> None:
    X = pixels(9) if dtype == "uint8" else pixels(9).astype(dtype) / np.dtype(dtype).type(255)
    net = ts.MLP([6, 5, 3], seed=1, backend=backend)
    expected = net.predict_proba(X)
    for name, same in layouts(X).items():
        kept = np.array(same)
        assert np.array_equal(net.predict_proba(same), expected), name
        assert np.array_equal(np.array(same), kept), f"{name}: the input was changed"


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 5), st.booleans(), st.booleans())
def test_any_slice_gives_the_slice_of_the_result(n: int, step: int, start: int, reverse: bool, fortran: bool) -> None:
    X = pixels(40)
    X = np.asfortranarray(X) if fortran else X
    net = ts.MLP([6, 5, 3], seed=1, dtype="float64")
    part = slice(start, start + n, step)
    chosen = X[part][::-1] if reverse else X[part]
    expected = net.predict_proba(np.ascontiguousarray(X))[part]
    np.testing.assert_allclose(net.predict_proba(chosen), expected[::-1] if reverse else expected, atol=1e-14)


@pytest.mark.parametrize(
    ("X", "reason"),
    [
        (np.zeros(6), "not an array of samples"),
        (np.zeros((4, 5)), "X has 5 features, model expects 6"),
        (np.zeros((4, 2, 2)), "X has 4 features, model expects 6"),
        (np.zeros((4, 7), np.uint8), "X has 7 features, model expects 6"),
        (np.zeros((0, 6)), "0 samples"),
        (np.zeros((4, 0)), "0 values"),
        (np.full((4, 6), np.nan), "NaN"),
        (np.full((4, 6), np.inf), "infinite"),
        (np.full((4, 6), 1e300), "beyond float32"),
        (np.full((4, 6), "a"), "dtype"),
        (np.full((4, 6), None), "dtype object"),
        (np.zeros((4, 6), complex), "dtype complex128"),
        (np.zeros((4, 6), np.int64), "dtype int64"),
        (np.zeros((4, 6), bool), "dtype bool"),
        (np.zeros((4, 6), np.float16), "dtype float16"),
        ([[1.0] * 6, [1.0] * 5], "not a NumPy array"),
        (5.0, "not an array of samples"),
        (None, "dtype object"),
    ],
)
def test_bad_inputs_are_refused(X: Any, reason: str) -> None:
    net = ts.MLP([6, 3])
    for method in (net.predict, net.predict_proba):
        with pytest.raises(DataError, match=re.escape(reason)) as caught:
            method(X)
        assert "\n" not in str(caught.value)


def test_the_first_bad_value_is_named() -> None:
    X = np.zeros((4, 6))
    X[2, 3] = X[3, 1] = np.nan
    with pytest.raises(DataError, match=re.escape("value nan at index (2, 3) (2 in all)")):
        ts.MLP([6, 3]).predict(X)


def test_threads_that_predict_get_the_serial_result() -> None:
    net = ts.MLP([6, 40, 30, 3], seed=1)
    inputs = [pixels(50 + 37 * i, seed=i) for i in range(24)]
    serial = [net.predict_proba(X) for X in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(net.predict_proba, inputs), serial, strict=True):
                # Not to the bit: BLAS takes its number of threads from the main thread only.
                np.testing.assert_allclose(found, expected, rtol=2e-6)
                assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_a_prediction_that_overflows_warns_of_nothing(backend: Backend) -> None:
    """Neither when its calls are noted nor when they are repeated: a warning would be an error here."""
    net = ts.MLP([6, 5, 3], parameters=np.full(parameter_count([6, 5, 3]), 1e30, np.float32))
    for _ in range(3):
        found = net.to(backend).predict_proba(np.full((4, 6), 1e30, np.float32))
    assert found.shape == (4, 3)


def test_predict_does_not_change_the_network(backend: Backend) -> None:
    net = ts.MLP([6, 5, 3], seed=1, backend=backend)
    before = backend.to_host(net.parameters).tobytes()
    first = net.predict_proba(pixels(30))
    assert np.array_equal(net.predict_proba(pixels(30)), first)
    assert backend.to_host(net.parameters).tobytes() == before
