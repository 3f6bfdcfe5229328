"""Two stand-ins for a GPU, for machines that have none.

``StrictBackend``: a device whose arrays are NumPy underneath but refuse whatever a CuPy array would refuse, or
would answer with a silent copy between host and device. Its module ``xp`` offers what the compute floor may
use, with CuPy's signatures, and nothing else. It counts uploads, downloads and allocations.

``plant_fake_cupy``: a module that passes for CuPy and for cuBLAS, computing on host memory through raw
addresses, so that ``CupyBackend`` itself (the argument order of cuBLAS included) runs without a driver.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import pytest

from twostroke.backend import Array, Backend, Kernel
from twostroke.backend.cpu.backend import NumpyBackend

UFUNCS = (
    "add", "subtract", "multiply", "divide", "negative", "maximum", "minimum", "greater", "greater_equal",
    "less", "less_equal", "equal", "not_equal", "exp", "log", "sqrt", "tanh", "logaddexp", "isfinite", "right_shift",
    "bitwise_xor",
)  # fmt: skip
# Of NumPy itself in CuPy too: the types.
TYPES = ("dtype", "float32", "float64", "uint8", "uint32", "int32", "int64", "bool_")


class Traffic:
    """What crossed between host and device, and how many device arrays were allocated."""

    def __init__(self) -> None:
        self.uploads = self.downloads = self.allocations = 0

    def counts(self) -> tuple[int, int, int]:
        return self.uploads, self.downloads, self.allocations


traffic = Traffic()


class Flags(NamedTuple):
    """All that CuPy's flags have."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class StrictArray:
    """An array of the strict device."""

    __module__ = "strict_xp"  # array_module() looks here
    __slots__ = ("_inner",)
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # np.add(x, y) raises, and ndarray + x is handed to x.__radd__

    def __init__(self, inner: np.ndarray) -> None:
        self._inner = inner

    # --- what is known without looking at the values
    @property
    def shape(self) -> tuple[int, ...]:
        return self._inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._inner.dtype

    @property
    def ndim(self) -> int:
        return self._inner.ndim

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def itemsize(self) -> int:
        return self._inner.itemsize

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        return self._inner.strides

    @property
    def flags(self) -> Flags:
        flags = self._inner.flags
        return Flags(flags.c_contiguous, flags.f_contiguous, flags.owndata)

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self._inner.ctypes.data)

    def __len__(self) -> int:
        return len(self._inner)

    def __repr__(self) -> str:
        return f"StrictArray(shape={self.shape}, dtype={self.dtype})"

    # --- views
    @property
    def T(self) -> StrictArray:
        return StrictArray(self._inner.T)

    def reshape(self, *shape: Any) -> StrictArray:
        result = self._inner.reshape(*shape)
        if self.size and not np.may_share_memory(result, self._inner):
            raise TypeError("reshape would copy: the array is not contiguous")
        return StrictArray(result)

    def ravel(self) -> StrictArray:
        return self.reshape(-1)

    def __getitem__(self, key: Any) -> StrictArray:
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, StrictArray) for part in parts):
            # An index array makes a copy on the device.
            return _new(self._inner[tuple(_index(part) for part in parts)])
        return StrictArray(np.asarray(self._inner[(*(_index(part) for part in parts), ...)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        parts = key if isinstance(key, tuple) else (key,)
        self._inner[tuple(_index(part) for part in parts)] = _operand(value, "assignment")

    # --- copies and reductions that stay on the device
    def copy(self, order: Literal["C", "F"] = "C") -> StrictArray:
        return _new(self._inner.copy(order))

    def fill(self, value: float) -> None:
        self._inner.fill(_operand(value, "fill"))

    def all(self) -> StrictArray:
        return _new(np.asarray(self._inner.all()))

    def any(self) -> StrictArray:
        return _new(np.asarray(self._inner.any()))

    # --- the way down: CuPy's name, counted
    def get(self) -> np.ndarray:
        traffic.downloads += 1
        return self._inner.copy()

    # --- implicit ways down, all refused
    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("implicit conversion of a device array to the host")

    __array__ = __array_function__ = __float__ = __int__ = __bool__ = __index__ = __complex__ = _refuse
    __iter__ = __contains__ = __round__ = __buffer__ = __dlpack__ = __dlpack_device__ = __reduce_ex__ = _refuse

    # --- operators
    def __add__(self, other: Any) -> StrictArray:
        return _call("add", self, other)

    def __radd__(self, other: Any) -> StrictArray:
        return _call("add", other, self)

    def __sub__(self, other: Any) -> StrictArray:
        return _call("subtract", self, other)

    def __rsub__(self, other: Any) -> StrictArray:
        return _call("subtract", other, self)

    def __mul__(self, other: Any) -> StrictArray:
        return _call("multiply", self, other)

    def __rmul__(self, other: Any) -> StrictArray:
        return _call("multiply", other, self)

    def __truediv__(self, other: Any) -> StrictArray:
        return _call("divide", self, other)

    def __rtruediv__(self, other: Any) -> StrictArray:
        return _call("divide", other, self)

    def __neg__(self) -> StrictArray:
        return _call("negative", self)

    def __eq__(self, other: Any) -> StrictArray:  # type: ignore[override]
        return _call("equal", self, other)

    def __ne__(self, other: Any) -> StrictArray:  # type: ignore[override]
        return _call("not_equal", self, other)

    def __lt__(self, other: Any) -> StrictArray:
        return _call("less", self, other)

    def __le__(self, other: Any) -> StrictArray:
        return _call("less_equal", self, other)

    def __gt__(self, other: Any) -> StrictArray:
        return _call("greater", self, other)

    def __ge__(self, other: Any) -> StrictArray:
        return _call("greater_equal", self, other)

    def __matmul__(self, other: Any) -> NoReturn:
        raise TypeError("use backend.gemm: a product by @ has a temporary")

    __rmatmul__ = __matmul__


def _new(inner: np.ndarray) -> StrictArray:
    """A freshly allocated device array."""
    traffic.allocations += 1
    return StrictArray(inner)


def _operand(value: Any, where: str) -> Any:
    """The inner array of a device array, or a scalar; anything else lives on the host and is refused."""
    if isinstance(value, StrictArray):
        return value._inner
    if isinstance(value, bool | int | float | np.generic):
        return value
    raise TypeError(f"{where}: {type(value).__module__}.{type(value).__name__} is not an array of the strict device")


def _array(value: Any, where: str) -> np.ndarray:
    if not isinstance(value, StrictArray):
        raise TypeError(f"{where}: found {type(value)}, expected an array of the strict device")
    return value._inner


def _index(part: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, slice | int):
        return part
    index = _array(part, "index")
    if index.dtype.kind not in "iu":
        raise TypeError(f"index of dtype {index.dtype}")
    return index


def _same_place(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.ctypes.data, a.shape, a.strides) == (b.ctypes.data, b.shape, b.strides)


def _call(name: str, *inputs: Any, out: Any = None) -> StrictArray:
    ufunc: np.ufunc = getattr(np, name)
    if len(inputs) != ufunc.nin:
        raise TypeError(f"{name}: {len(inputs)} inputs, expected {ufunc.nin}")
    values = [_operand(value, name) for value in inputs]
    if not any(isinstance(value, StrictArray) for value in inputs):
        raise TypeError(f"{name}: no device array among the inputs, it would be uploaded")
    if out is None:
        return _new(np.asarray(ufunc(*values)))
    target = _array(out, f"{name}: out")
    # Python scalars take the arrays' type; NumPy scalars bring their own.
    kinds: Any = [type(v) if type(v) in (int, float) else np.asarray(v).dtype for v in values]
    loop = ufunc.resolve_dtypes((*kinds, None))
    if target.dtype == np.float32 and np.dtype(np.float64) in loop:
        raise TypeError(f"{name}: float32 result computed in float64 ({loop})")
    for value in values:
        shared = isinstance(value, np.ndarray) and np.may_share_memory(value, target)
        if shared and not _same_place(value, target):
            raise TypeError(f"{name}: out overlaps an input without being it")
    if np.broadcast_shapes(*(np.shape(value) for value in values)) != target.shape:
        raise TypeError(f"{name}: out has shape {target.shape}")
    ufunc(*values, out=target)
    out_array: StrictArray = out
    return out_array


def _bound_ufunc(name: str) -> Callable[..., StrictArray]:
    def function(*inputs: Any, out: Any = None) -> StrictArray:
        return _call(name, *inputs, out=out)

    function.__name__ = name
    return function


def _empty(shape: Any, dtype: Any = float, order: str = "C") -> StrictArray:
    # Filled with what must never be seen: reading before writing shows.
    result: np.ndarray = np.empty(shape, dtype, order="F" if order == "F" else "C")
    result.fill(np.nan if result.dtype.kind == "f" else 77)
    return _new(result)


def _zeros(shape: Any, dtype: Any = float, order: str = "C") -> StrictArray:
    return _new(np.zeros(shape, dtype, order="F" if order == "F" else "C"))


def _ones(shape: Any, dtype: Any = float, order: str = "C") -> StrictArray:
    return _new(np.ones(shape, dtype, order="F" if order == "F" else "C"))


def _zeros_like(a: Any, dtype: Any = None) -> StrictArray:
    return _new(np.zeros_like(_array(a, "zeros_like"), dtype))


def _ones_like(a: Any, dtype: Any = None) -> StrictArray:
    return _new(np.ones_like(_array(a, "ones_like"), dtype))


def _empty_like(a: Any, dtype: Any = None) -> StrictArray:
    like = _array(a, "empty_like")
    return _empty(like.shape, dtype or like.dtype)


def _arange(start: int, stop: int | None = None, step: int = 1, dtype: Any = None) -> StrictArray:
    first, last = (0, start) if stop is None else (start, stop)
    return _new(np.arange(first, last, step, dtype=dtype))


def _reduce(name: str, a: Any, out: Any, **options: Any) -> StrictArray:
    values = _array(a, name)
    if out is None:
        return _new(np.asarray(getattr(np, name)(values, **options)))
    target = _array(out, f"{name}: out")
    if name == "argmax" and target.dtype != np.int64:
        raise TypeError(f"argmax: out of dtype {target.dtype}, expected int64")
    if np.may_share_memory(target, values):
        raise TypeError(f"{name}: out overlaps the input")
    getattr(np, name)(values, out=target, **options)
    out_array: StrictArray = out
    return out_array


def _max(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> StrictArray:
    return _reduce("max", a, out, axis=axis, keepdims=keepdims)


def _sum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> StrictArray:
    return _reduce("sum", a, out, axis=axis, dtype=dtype, keepdims=keepdims)


def _mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> StrictArray:
    return _reduce("mean", a, out, axis=axis, dtype=dtype, keepdims=keepdims)


def _argmax(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> StrictArray:
    if dtype is not None:
        raise TypeError("argmax: NumPy has no dtype")
    return _reduce("argmax", a, out, axis=axis, keepdims=keepdims)


def _stack(tup: Sequence[Any], axis: int = 0) -> StrictArray:
    return _new(np.stack([_array(part, "stack") for part in tup], axis))


def _copyto(dst: Any, src: Any) -> None:
    np.copyto(_array(dst, "copyto"), _operand(src, "copyto"))


def _take(a: Any, indices: Any, axis: int | None = None, out: Any = None) -> StrictArray:
    source, positions = _array(a, "take"), _array(indices, "take: indices")
    # As on a GPU, an index out of range is not noticed.
    if out is None:
        return _new(np.take(source, positions, axis, mode="wrap"))
    target = _array(out, "take: out")
    if target.dtype != source.dtype:
        raise TypeError("take: output dtype mismatch")
    np.take(source, positions, axis, out=target, mode="wrap")
    out_array: StrictArray = out
    return out_array


def _make_module() -> ModuleType:
    module = ModuleType("strict_xp")
    members: dict[str, Any] = {name: _bound_ufunc(name) for name in UFUNCS}
    members |= {name: getattr(np, name) for name in TYPES}
    members |= {
        "empty": _empty, "zeros": _zeros, "ones": _ones, "arange": _arange, "stack": _stack, "take": _take,
        "empty_like": _empty_like, "zeros_like": _zeros_like, "ones_like": _ones_like, "copyto": _copyto,
        "max": _max, "sum": _sum, "mean": _mean, "argmax": _argmax, "ndarray": StrictArray, "nan": np.nan,
    }  # fmt: skip
    for name, member in members.items():
        setattr(module, name, member)
    return module


xp: Any = _make_module()
sys.modules["strict_xp"] = xp
# What a fused kernel may use: CuPy's tracer knows ufuncs, no reductions and no creation.
_fused_xp = SimpleNamespace(**{name: getattr(xp, name) for name in UFUNCS})


def _factor(value: Any, out: Array) -> Any:
    """alpha or beta of a product: a number, or an array of one element like ``out``."""
    if isinstance(value, StrictArray):
        if value.shape != () or value.dtype != out.dtype:
            raise TypeError(f"gemm: a factor of shape {value.shape} and dtype {value.dtype}")
        return _array(value, "gemm: factor")
    return value


class StrictBackend(Backend):
    """The strict device. Its products are those of a ``NumpyBackend`` of one thread, equal to the bit."""

    name = "strict"
    device = "strict:0"
    reason = "a test asked for it"
    xp = xp

    def __init__(self) -> None:
        super().__init__()
        self._host = NumpyBackend(threads=1)
        self.traffic = traffic

    def asarray(self, array: np.ndarray, dtype: str | None = None) -> Array:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"asarray takes host arrays, found {type(array)}")
        traffic.uploads += 1
        return StrictArray(np.array(array, dtype=dtype, order="C", copy=True))

    def to_host(self, array: Array) -> np.ndarray:
        if not isinstance(array, StrictArray):
            raise TypeError(f"to_host takes arrays of this device, found {type(array)}")
        return array.get()

    def gemm(self, a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> None:
        host_a, host_b, host_out = _array(a, "gemm: a"), _array(b, "gemm: b"), _array(out, "gemm: out")
        for name, array in (("a", host_a), ("b", host_b), ("out", host_out)):
            if array.ndim != 2 or array.dtype != out.dtype or array.dtype.char not in "fd":
                raise TypeError(f"gemm: {name} is {array.dtype} with {array.ndim} dimensions")
            if not (array.flags.c_contiguous or array.flags.f_contiguous):
                raise ValueError(f"gemm: {name} must be contiguous")
        (m, k), (k2, n) = a.shape, b.shape
        if k != k2 or out.shape != (m, n):
            raise ValueError(f"gemm: shapes {a.shape}, {b.shape}, {out.shape}")
        if np.may_share_memory(host_out, host_a) or np.may_share_memory(host_out, host_b):
            raise ValueError("gemm: out overlaps an input")
        self._host.gemm(host_a, host_b, host_out, _factor(alpha, out), _factor(beta, out))

    def take_rows(self, source: Array, indices: Array, out: Array) -> None:
        if indices.dtype != np.int64:
            raise TypeError(f"take_rows: indices of dtype {indices.dtype}")
        _take(source, indices, axis=0, out=out)

    def _bind(self, kernel: Kernel) -> Kernel:
        def fused(*arguments: Any) -> None:  # positional only, like cupy.fuse
            for argument in arguments:
                _operand(argument, getattr(kernel, "__name__", "kernel"))
            kernel(_fused_xp, *arguments)

        return fused

    def active(self, *, captured: bool = False) -> AbstractContextManager[object]:
        return self._host.active()  # it replays nothing: NumPy works for it

    def synchronize(self) -> None:
        pass

    def describe(self) -> dict[str, object]:
        return {"device": self.device}


# --- a module that passes for CuPy ----------------------------------------------------------------------


class HostDeviceArray(np.ndarray[Any, Any]):
    """A NumPy array with CuPy's ``data.ptr`` and ``set``."""

    __module__ = "cupy"

    def set(self, host: Any, stream: Any = None) -> None:
        self[...] = host

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


class CudaError(RuntimeError):
    """CuPy's CUDARuntimeError: a RuntimeError with the CUDA status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CUBLASError(CudaError):
    """CuPy's exception of that name."""


class FakeCublas:
    """sgemm and dgemm on host addresses, column-major, element by element as the BLAS reference says."""

    CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH = 0, 3

    def __init__(self, error: float = 0.0) -> None:
        self.error = error  # added to every product: a device that computes wrong
        self.mode = self.pointer_mode = 0
        self.calls = 0

    def check_status(self, status: int) -> None:
        if status:
            raise CUBLASError(status, f"CUBLAS_STATUS_{status}")

    def getPointerMode(self, handle: int) -> int:
        return self.pointer_mode

    def setPointerMode(self, handle: int, mode: int) -> None:
        self.pointer_mode = mode

    def getMathMode(self, handle: int) -> int:
        return self.mode

    def setMathMode(self, handle: int, mode: int) -> None:
        self.mode = mode

    def sgemm(self, *arguments: int) -> None:
        self._gemm(ctypes.c_float, *arguments)

    def dgemm(self, *arguments: int) -> None:
        self._gemm(ctypes.c_double, *arguments)

    def _gemm(
        self, kind: Any, handle: int, trans_a: int, trans_b: int, m: int, n: int, k: int,
        alpha: int, A: int, lda: int, B: int, ldb: int, beta: int, C: int, ldc: int,
    ) -> None:  # fmt: skip
        self.calls += 1

        def columns(address: int, rows: int, cols: int, leading: int) -> np.ndarray:
            """The column-major matrix (rows, cols) at an address, a column every ``leading`` elements."""
            if leading < max(1, rows):
                raise ValueError(f"leading dimension {leading} for {rows} rows: CUBLAS_STATUS_INVALID_VALUE")
            flat = (kind * (leading * (cols - 1) + rows)).from_address(address)
            return np.lib.stride_tricks.as_strided(
                np.ctypeslib.as_array(flat), (rows, cols), (ctypes.sizeof(kind), leading * ctypes.sizeof(kind))
            )

        a = columns(A, k, m, lda).T if trans_a else columns(A, m, k, lda)
        b = columns(B, n, k, ldb).T if trans_b else columns(B, k, n, ldb)
        c = columns(C, m, n, ldc)
        scale = kind.from_address(alpha).value, kind.from_address(beta).value
        old = scale[1] * c if scale[1] else 0.0  # with beta = 0 the BLAS does not read C
        c[...] = scale[0] * np.einsum("ik,kj->ij", a, b) + old + self.error


def plant_fake_cupy(
    monkeypatch: pytest.MonkeyPatch, *, cublas: FakeCublas | None = None, count: int = 1
) -> tuple[Any, FakeCublas]:
    """Put a working fake CuPy and cuBLAS into ``sys.modules`` for one test; the module, and the cuBLAS."""
    library = cublas or FakeCublas()
    fake: Any = ModuleType("cupy")
    for name in (
        *UFUNCS,
        *TYPES,
        "max",
        "sum",
        "mean",
        "argmax",
        "stack",
        "copyto",
        "matmul",
        "dot",
        "zeros_like",
        "nan",
    ):
        setattr(fake, name, getattr(np, name))

    def creator(function: Any) -> Callable[..., Any]:
        return lambda *args, **options: function(*args, **options).view(HostDeviceArray)

    for name in ("empty", "zeros", "ones", "full", "arange", "ones_like", "empty_like"):
        setattr(fake, name, creator(getattr(np, name)))
    fake.ndarray = HostDeviceArray
    fake.__version__ = "14.2.0"
    fake.asarray = lambda array: np.array(array).view(HostDeviceArray)
    fake.asnumpy = np.array
    fake.take = lambda a, indices, axis=None, out=None: np.take(a, indices, axis, out, "wrap")
    no_compiler = type("CompileException", (Exception,), {})

    def raw_module(**_: Any) -> Any:
        raise no_compiler("nothing is compiled here")

    fake.RawModule = raw_module
    properties = {"name": b"Fake GPU", "major": 9, "minor": 0, "totalGlobalMem": 1 << 30, "clockRate": 1980000}
    fake.cuda = SimpleNamespace(
        Device=lambda index: nullcontext(),
        device=SimpleNamespace(get_cublas_handle=lambda: 1),
        compiler=SimpleNamespace(CompileException=no_compiler),
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
        memory=SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
        runtime=SimpleNamespace(
            getDeviceCount=lambda: count,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 12090,
            getDeviceProperties=lambda index: properties,
            memGetInfo=lambda: (1024, 4096),
        ),
    )
    fake._core = SimpleNamespace(
        get_routine_accelerators=list,
        get_reduction_accelerators=list,
        set_routine_accelerators=lambda names: None,
        set_reduction_accelerators=lambda names: None,
    )
    libs: Any = ModuleType("cupy_backends.cuda.libs")
    libs.cublas = library
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libs)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    # Make the real modules import the fake: planted first, so that the undo restores what was there or removes ours.
    for module in ("accelerators", "cublas", "graphs", "calls", "launches", "source", "program", "backend"):
        name = f"twostroke.backend.cuda.{module}"
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    return fake, library
