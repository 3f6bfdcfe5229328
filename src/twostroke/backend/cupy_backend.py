"""A CUDA GPU: CuPy's ufuncs, fused kernel by kernel, and cuBLAS for every matrix product."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np

from ..errors import DeviceError
from . import Array, Backend, Kernel
from .blas import column_major

DEFAULT_MATH, TF32_TENSOR_OP_MATH = 0, 3  # cublasMath_t; CuPy does not export the second


class CupyBackend(Backend):
    """Arrays live on one CUDA device. Work is queued on CuPy's current stream and returns at once."""

    name = "cupy"
    xp = property(lambda self: cupy)

    def __init__(self, index: int = 0, reason: str = "cuda was asked for", *, tf32: bool = False) -> None:
        super().__init__()
        # cuBLAS is imported here: without the toolkit's libraries the import itself fails.
        from cupy_backends.cuda.libs import cublas

        self.device = f"cuda:{index}"
        self.reason = reason
        self.tf32 = tf32
        self._index = index
        self._cublas = cublas
        self._scalars: dict[tuple[float, str], tuple[np.ndarray, int]] = {}

    def asarray(self, array: np.ndarray, dtype: str | None = None) -> Array:
        try:
            with self.active():
                return cupy.asarray(np.ascontiguousarray(array, dtype=dtype))
        except cupy.cuda.memory.OutOfMemoryError as error:
            needed = array.size * np.dtype(dtype or array.dtype).itemsize
            raise DeviceError(
                "out of GPU memory",
                where=self.device,
                found=f"{_free_bytes():,} bytes free",
                expected=f"{needed:,} for an array of shape {array.shape}",
                remedy="Use a smaller batch or network, or --device cpu.",
            ) from error

    def to_host(self, array: Array) -> np.ndarray:
        host: np.ndarray = cupy.asnumpy(array)
        return host

    def gemm(self, a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> None:
        # cupy.matmul has no alpha and beta and its result cannot be accumulated; cuBLAS is called directly.
        first, trans_first, second, trans_second, c = column_major(a, b, out)
        m, n = c.shape
        k = first.shape[0] if trans_first else first.shape[1]
        gemm = self._cublas.sgemm if out.dtype == np.float32 else self._cublas.dgemm
        gemm(
            self._handle(), trans_first, trans_second, m, n, k,
            self._scalar(alpha, out.dtype.char), first.data.ptr, first.shape[0],
            second.data.ptr, second.shape[0],
            self._scalar(beta, out.dtype.char), c.data.ptr, m,
        )  # fmt: skip

    def _handle(self) -> int:
        handle: int = cupy.cuda.device.get_cublas_handle()
        mode = TF32_TENSOR_OP_MATH if self.tf32 else DEFAULT_MATH
        if self._cublas.getMathMode(handle) != mode:
            self._cublas.setMathMode(handle, mode)
        return handle

    def _scalar(self, value: float, char: str) -> int:
        """The address of a host scalar for cuBLAS; it reads the value during the call."""
        held = self._scalars.get((value, char))
        if held is None:
            if len(self._scalars) > 1024:  # a schedule makes a new learning rate at every step
                self._scalars.clear()
            cell = np.array(value, dtype=char)
            held = self._scalars[value, char] = (cell, cell.ctypes.data)
        return held[1]

    def take_rows(self, source: Array, indices: Array, out: Array) -> None:
        cupy.take(source, indices, axis=0, out=out)

    def _bind(self, kernel: Kernel) -> Kernel:
        def fused(*arrays: Any) -> None:
            kernel(cupy, *arrays)

        # A named function: CuPy's tracer cannot name a kernel after a lambda and falls back silently.
        fused.__name__ = getattr(kernel, "__name__", "kernel")
        bound: Kernel = cupy.fuse(kernel_name=fused.__name__)(fused)
        return bound

    def active(self) -> AbstractContextManager[object]:
        device: AbstractContextManager[object] = cupy.cuda.Device(self._index)
        return device

    def synchronize(self) -> None:
        with self.active():
            cupy.cuda.get_current_stream().synchronize()

    def describe(self) -> dict[str, object]:
        runtime = cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self._index)
        return {
            "device": self.device,
            "gpu": properties["name"].decode(errors="replace"),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "memory_bytes": properties["totalGlobalMem"],
            "clock_mhz": properties["clockRate"] // 1000 if "clockRate" in properties else None,
            "driver_cuda": runtime.driverGetVersion(),
            "runtime_cuda": runtime.runtimeGetVersion(),
            "cupy": cupy.__version__,
            "tf32": self.tf32,
        }


def _free_bytes() -> int:
    free: int = cupy.cuda.runtime.memGetInfo()[0]
    return free


def self_test(index: int) -> None:
    """Run what training needs, once and tiny: upload, fused kernel, accumulating GEMM, wait, download.

    Raises whatever CuPy raises, or ``ArithmeticError`` if the device computes wrong.
    """

    def add_twice(xp: Any, x: Array, y: Array) -> None:
        xp.add(x, x, out=y)

    backend = CupyBackend(index)
    with backend.active():
        x = backend.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
        y = cupy.ones((2, 3), dtype=np.float32)
        backend.elementwise(add_twice)(x, y)
        out = cupy.ones((2, 2), dtype=np.float32)
        backend.gemm(x, y.T, out, alpha=0.5, beta=2.0)
        backend.synchronize()
        found = backend.to_host(out)
    if not np.array_equal(found, np.array([[7, 16], [16, 52]], dtype=np.float32)):
        raise ArithmeticError(f"a 2x2 product came back as {found.tolist()}")
