"""The guard itself is guarded: every refusal of the strict device is asserted, and what it must allow."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import UFUNCS, StrictArray, StrictBackend, traffic, xp
from twostroke import array_module, to_host
from twostroke.errors import DataError

strict = StrictBackend()
HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def x() -> Any:
    return strict.asarray(HOST)


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "np.asarray": np.asarray,
    "np.array": np.array,
    "np.ascontiguousarray": np.ascontiguousarray,
    "np.from_dlpack": np.from_dlpack,
    "np.frombuffer": np.frombuffer,
    "memoryview": memoryview,
    "bytes": bytes,
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]),
    "complex": lambda x: complex(x[0, 0]),
    "bool": lambda x: bool(x[0, 0]),
    "index": lambda x: [1, 2][x[0, 0]],
    "if": lambda x: 1 if x == x else 2,  # noqa: PLR0124
    "round": lambda x: round(x[0, 0]),
    "list": list,
    "iteration": lambda x: [row for row in x],  # noqa: C416
    "unpacking": lambda x: (*x,),
    "in": lambda x: 1.0 in x,
    "sum": sum,
    "max": max,
    "hash": hash,
    "pickle": pickle.dumps,
    "format": lambda x: f"{x:.2f}",
    "print %f": lambda x: "%f" % x,  # noqa: UP031
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS.keys())
def test_no_implicit_way_to_the_host(x: Any, convert: Callable[[Any], Any]) -> None:
    before = traffic.downloads
    with pytest.raises((TypeError, AttributeError, BufferError)):
        convert(x)
    assert traffic.downloads == before


@pytest.mark.parametrize("name", ["__array_interface__", "__array_struct__", "tolist", "item", "tobytes", "tofile"])
def test_attributes_that_lead_to_the_host_are_missing(x: Any, name: str) -> None:
    assert not hasattr(x, name)


NUMPY_ON_DEVICE: dict[str, Callable[[Any], Any]] = {
    "ufunc": np.exp,
    "ufunc of two": lambda x: np.add(x, x),
    "ufunc out": lambda x: np.add(HOST, HOST, out=x),
    "ufunc into host": lambda x: np.add(x, x, out=HOST.copy()),
    "reduction": np.sum,
    "max": np.max,
    "argmax": np.argmax,
    "mean": np.mean,
    "matmul": lambda x: np.matmul(x, x.T),
    "dot": lambda x: np.dot(x, x.T),
    "copyto host": lambda x: np.copyto(HOST.copy(), x),
    "copyto device": lambda x: np.copyto(x, HOST),
    "take": lambda x: np.take(x, [0]),
    "stack": lambda x: np.stack([x, x]),
    "where": lambda x: np.where(x, 1, 2),
    "zeros_like": np.zeros_like,
    "isfinite": np.isfinite,
    "array_equal": lambda x: np.testing.assert_array_equal(x, HOST),
}


@pytest.mark.parametrize("function", NUMPY_ON_DEVICE.values(), ids=NUMPY_ON_DEVICE.keys())
def test_numpy_functions_refuse_device_arrays(x: Any, function: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        function(x)


MIXTURES: dict[str, Callable[[Any, Any], Any]] = {
    "device + host": lambda x, h: x + h,
    "host + device": lambda x, h: h + x,
    "device - host": lambda x, h: x - h,
    "host - device": lambda x, h: h - x,
    "device * host": lambda x, h: x * h,
    "host * device": lambda x, h: h * x,
    "device / host": lambda x, h: x / h,
    "host / device": lambda x, h: h / x,
    "device == host": lambda x, h: x == h,
    "host == device": lambda x, h: h == x,
    "device < host": lambda x, h: x < h,
    "device @ host": lambda x, h: x @ h.T,
    "host @ device": lambda x, h: h @ x.T,
    "xp.add second": xp.add,
    "xp.add first": lambda x, h: xp.add(h, x),
    "xp.add out": lambda x, h: xp.add(x, x, out=h.copy()),
    "xp.copyto from": xp.copyto,
    "xp.copyto to": lambda x, h: xp.copyto(h.copy(), x),
    "xp.sum": lambda x, h: xp.sum(h),
    "xp.max out": lambda x, h: xp.max(x, axis=1, out=np.zeros(2, np.float32)),
    "xp.stack": lambda x, h: xp.stack([x, h]),
    "xp.take indices": lambda x, h: xp.take(x, np.array([0]), axis=0),
    "xp.take list": lambda x, h: xp.take(x, [0], axis=0),
    "xp.zeros_like": lambda x, h: xp.zeros_like(h),
    "xp.exp of a number": lambda x, h: xp.exp(1.0),
    "assign host": lambda x, h: x.__setitem__(slice(None), h),
    "assign list": lambda x, h: x.__setitem__(0, [1.0, 2.0, 3.0]),
    "assign into host": lambda x, h: h.copy().__setitem__(slice(None), x),
    "index by host": lambda x, h: x[np.array([0, 1])],
    "index by list": lambda x, h: x[[0, 1]],
    "index host by device": lambda x, h: h[x],
    "fill": lambda x, h: x.fill(h),
    "gemm a": lambda x, h: strict.gemm(h, x.T, xp.zeros((2, 2), "float32")),
    "gemm b": lambda x, h: strict.gemm(x, h.T, xp.zeros((2, 2), "float32")),
    "gemm out": lambda x, h: strict.gemm(x, x.T, np.zeros((2, 2), np.float32)),
    "take_rows": lambda x, h: strict.take_rows(x, np.array([0, 1]), x.copy()),
    "elementwise": strict.elementwise(lambda xp, a, b: None),
    "asarray of a list": lambda x, h: strict.asarray([1.0]),
    "asarray of device": lambda x, h: strict.asarray(x),
    "to_host of host": lambda x, h: strict.to_host(h),
}


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES.keys())
def test_host_and_device_do_not_mix(x: Any, mix: Callable[[Any, Any], Any]) -> None:
    with pytest.raises((TypeError, IndexError)):
        mix(x, HOST)


def test_in_place_operators_do_not_mix(x: Any) -> None:
    host = HOST.copy()
    with pytest.raises(TypeError):
        host += x
    with pytest.raises(TypeError):
        x += host
    assert np.array_equal(host, HOST)


@pytest.mark.parametrize("name", UFUNCS)
def test_every_ufunc_equals_numpy_and_refuses_host_arrays(name: str, x: Any) -> None:
    n_in = getattr(np, name).nin
    host = (HOST + 1).astype("uint32" if name in ("right_shift", "bitwise_xor") else HOST.dtype)
    positive = strict.asarray(host)
    expected = getattr(np, name)(*[host] * n_in)
    assert np.array_equal(strict.to_host(getattr(xp, name)(*[positive] * n_in)), expected)
    with pytest.raises(TypeError):
        getattr(xp, name)(*[HOST] * n_in)
    with pytest.raises(TypeError):
        getattr(xp, name)(*[x] * n_in, out=HOST.copy())
    with pytest.raises(TypeError):
        getattr(xp, name)(*[x] * (n_in + 1))


def test_only_cupys_signatures(x: Any) -> None:
    indices = strict.asarray(np.array([0, 1]))
    with pytest.raises(TypeError):
        xp.take(x, indices, axis=0, mode="clip")  # NumPy's alone
    with pytest.raises(TypeError):
        xp.max(x, axis=1, initial=0)
    with pytest.raises(TypeError):
        xp.add(x, x, where=True)
    for name in ("asarray", "array", "dot", "matmul", "linalg", "random", "einsum", "bincount", "vectorize"):
        assert not hasattr(xp, name)


def test_float32_work_computed_in_float64_is_refused(x: Any) -> None:
    out = x.copy()
    xp.multiply(x, 0.1, out=out)  # a Python number takes the arrays' type
    with pytest.raises(TypeError, match="computed in float64"):
        xp.multiply(x, np.float64(0.1), out=out)
    pixels = strict.asarray(np.array([[1, 2, 3]], dtype=np.uint8))
    with pytest.raises(TypeError, match="computed in float64"):
        xp.divide(pixels, 255, out=out[:1])
    xp.divide(pixels, np.float32(255), out=out[:1])


def test_overlap_and_shape_of_out_are_refused() -> None:
    flat = strict.asarray(np.arange(8, dtype=np.float64))
    with pytest.raises(TypeError, match="overlaps"):
        xp.add(flat[:6], 1, out=flat[1:7])
    with pytest.raises(TypeError, match="overlaps"):
        xp.sum(flat.reshape(2, 4), axis=1, out=flat[:2])
    with pytest.raises(TypeError, match="shape"):
        xp.add(flat[:4], 1, out=xp.zeros((2, 4)))
    with pytest.raises(TypeError, match="int64"):
        xp.argmax(flat.reshape(2, 4), axis=1, out=xp.zeros(2, "float64"))
    xp.add(flat, 1, out=flat)  # exactly in place is fine


def test_a_kernel_may_use_ufuncs_only(x: Any) -> None:
    def reduces(xp: Any, A: Any) -> None:
        xp.sum(A)

    with pytest.raises(AttributeError):
        strict.elementwise(reduces)(x)
    with pytest.raises(TypeError):
        strict.elementwise(reduces)(A=x)


def test_gemm_refuses_what_cublas_would_get_wrong() -> None:
    a, b, out = xp.ones((4, 6), "float32"), xp.ones((6, 8), "float32"), xp.ones((4, 8), "float32")
    strict.gemm(a, b, out)
    with pytest.raises(ValueError, match="out must be contiguous"):
        strict.gemm(a, b, xp.ones((4, 16), "float32")[:, ::2])
    with pytest.raises(ValueError, match="b must be contiguous"):
        strict.gemm(a, b[:, :4], out[:, :4])
    with pytest.raises(ValueError, match="a must be contiguous"):
        strict.gemm(a[:, ::2], b[:3], out)
    with pytest.raises(TypeError, match="float64"):
        strict.gemm(a, xp.ones((6, 8), "float64"), out)
    with pytest.raises(TypeError, match="int64"):
        strict.gemm(*(xp.ones((2, 2), "int64") for _ in range(3)))
    with pytest.raises(ValueError, match="shapes"):
        strict.gemm(a, b, xp.ones((8, 4), "float32"))
    square = xp.ones((4, 4), "float32")
    with pytest.raises(ValueError, match="overlaps"):
        strict.gemm(square, square.T, square)


def test_a_reshape_that_copies_is_refused(x: Any) -> None:
    assert x.reshape(3, 2).shape == x.reshape((3, -1)).shape == (3, 2)
    with pytest.raises(TypeError, match="copy"):
        x.T.reshape(6)


def test_an_index_out_of_range_wraps_as_on_a_gpu() -> None:
    source, out = strict.asarray(np.arange(3.0)), xp.zeros(2)
    strict.take_rows(source, strict.asarray(np.array([-1, 3])), out)
    assert strict.to_host(out).tolist() == [2.0, 0.0]
    with pytest.raises(TypeError, match="mismatch"):
        strict.take_rows(source, strict.asarray(np.array([0, 1])), xp.zeros(2, "float32"))
    with pytest.raises(TypeError, match="indices"):
        strict.take_rows(source, strict.asarray(np.array([0, 1], dtype=np.uint8)), out)


def test_what_is_allowed(x: Any) -> None:
    assert len(x) == 2
    assert (x.shape, x.dtype, x.ndim, x.size, x.nbytes) == ((2, 3), np.float32, 2, 6, 24)
    assert x.flags.c_contiguous
    assert x.T.flags.f_contiguous
    assert x[0].shape == (3,)
    assert x[:, None].shape == (2, 1, 3)
    assert x[0, 0].shape == ()
    x[0] = 5.0
    view = x[1:]
    view[...] = x[:1]
    assert strict.to_host(x).tolist() == [[5.0] * 3] * 2
    rows = x[strict.asarray(np.array([0, 0, 1]))]
    assert rows.shape == (3, 3)
    assert rows.data.ptr != x.data.ptr
    assert repr(x) == "StrictArray(shape=(2, 3), dtype=float32)"


def test_crossings_and_allocations_are_counted() -> None:
    uploads, downloads, allocations = traffic.counts()
    host = HOST.copy()
    x = strict.asarray(host)
    host[...] = -1  # the device has its own memory
    back = strict.to_host(x)
    back[...] = -2
    assert np.array_equal(x.get(), HOST)
    assert traffic.counts() == (uploads + 1, downloads + 2, allocations)
    xp.add(x, x, out=x)
    x[:1], x.T, x.reshape(6), len(x)
    assert traffic.counts() == (uploads + 1, downloads + 2, allocations)
    x + x, x.copy(), xp.zeros(3), xp.sum(x), x == x  # noqa: PLR0124
    assert traffic.allocations == allocations + 5


def test_its_module_is_found_and_checked(x: Any) -> None:
    assert array_module(x) is array_module(x.T) is xp
    assert np.array_equal(to_host(x), HOST)
    assert strict.check(x, "x") is x
    with pytest.raises(DataError, match=r"array of the wrong device: x: found numpy\.ndarray, expected .* strict_xp"):
        strict.check(HOST, "x")
    assert isinstance(x, StrictArray)
