"""The CPU: NumPy's ufuncs for elementwise work, SciPy's BLAS for every matrix product.

NumPy and SciPy each bring a BLAS of their own with a thread pool of its own. One step must use one pool:
two of them fight for the cores. SciPy's is taken because its ``gemm`` has alpha, beta and an output.
"""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from . import Array, Backend, Kernel
from .blas import column_major, scipy_blas


class NumpyBackend(Backend):
    """Arrays are NumPy arrays; ``asarray`` and ``to_host`` copy nothing."""

    name = "numpy"
    device = "cpu"
    xp = np

    def __init__(self, threads: int | str = "auto", reason: str = "cpu was asked for") -> None:
        super().__init__()
        self.reason = reason
        self._blas = scipy_blas()
        self.threads = available_cores() if threads == "auto" else int(threads)

    def asarray(self, array: np.ndarray, dtype: str | None = None) -> Array:
        return np.ascontiguousarray(array, dtype=dtype)

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def gemm(self, a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> None:
        single = out.dtype == np.float32
        if out.shape[0] == 1 and out.shape[1] > 1 and b.shape[0] > 1:
            # One row: a matrix-vector product is several times faster than a GEMM of one row.
            gemv = self._blas.sgemv if single else self._blas.dgemv
            matrix, transposed = (b, 1) if b.flags.f_contiguous else (b.T, 0)
            gemv(alpha, matrix, a.ravel(), beta, out.ravel(), trans=transposed, overwrite_y=1)
            return
        first, trans_first, second, trans_second, c = column_major(a, b, out)
        gemm = self._blas.sgemm if single else self._blas.dgemm
        gemm(alpha, first, second, beta, c, trans_first, trans_second, 1)

    def take_rows(self, source: Array, indices: Array, out: Array) -> None:
        # mode="clip" because mode="raise" would build the result in a temporary first.
        np.take(source, indices, axis=0, out=out, mode="clip")

    def _bind(self, kernel: Kernel) -> Kernel:
        return partial(kernel, np)

    def active(self) -> AbstractContextManager[object]:
        limits: AbstractContextManager[object] = self._blas.pool.limit(limits=self.threads)
        return limits

    def synchronize(self) -> None:
        pass

    def describe(self) -> dict[str, object]:
        return {
            "device": self.device,
            "processor": processor_name(),
            "cores": available_cores(),
            "threads": self.threads,
            "blas": self._blas.description,
            "numpy": np.__version__,
        }


def available_cores() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
