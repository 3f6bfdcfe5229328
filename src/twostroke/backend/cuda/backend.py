"""A CUDA GPU: captured steps are compiled; call by call CuPy's ufuncs and cuBLAS."""

from __future__ import annotations

import gc
import platform
import re
import threading
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Final

import cupy
import numpy as np

from ...errors import DeviceError
from ..base import Array, Backend, Captured, Kernel, Ranks, Scalars, Steps, Summing
from ..column_major import column_major
from .accelerators import accelerators
from .calls import Call, Recorder, Untraceable
from .cublas import OwnHandle, SharedHandle
from .graphs import Capture, Graphs, call_by_call
from .nccl import NcclSum, PinnedSum
from .program import Compiler, trace

# Sticky errors: every later CUDA call of the process returns the same error (runtime and driver use the same
# numbers): illegal address, launch timeout, assert, hardware stack, illegal instruction, misaligned address,
# invalid address space, invalid program counter, launch failure.
STICKY: Final = frozenset({700, 702, 710, 714, 715, 716, 717, 718, 719})
CUDA_OUT_OF_MEMORY, CUBLAS_ALLOC_FAILED = 2, 3  # cudaError_t and CUresult; cublasStatus_t
SMALLER: Final = "Use a smaller batch (half of it, say) or network, or --device cpu."


class CupyBackend(Backend):
    """One CUDA device. Calls queue work on CuPy's current stream and return without waiting."""

    name = "cupy"

    def __init__(self, index: int = 0, reason: str = "cuda was asked for", *, tf32: bool = False) -> None:
        super().__init__()
        self.device = f"cuda:{index}"
        self.reason = reason
        self.tf32 = tf32
        self._index = index
        self._capture = Capture()
        self._compiler = Compiler(own_products=not tf32)
        self._tracing = threading.local()
        self._handle: OwnHandle | SharedHandle
        if not self._capture.fault:
            self._try_capture()
        if self._capture.fault:
            self._handle = SharedHandle(tf32)

    def _try_capture(self) -> None:
        """Create a cuBLAS handle that works during capture, and replay two products with it: beta = 2 and beta = 0."""
        try:
            with cupy.cuda.Device(self._index):
                self._handle = OwnHandle(self.tf32)
                a, out, fresh = (cupy.full((2, 2), value, "float32") for value in (3.0, 0.0, np.nan))

                def products() -> None:
                    self.gemm(a, a, out, 0.5, 2.0)
                    self.gemm(a, a, fresh)

                run = self._capture.replay(products)
                for _ in range(3):
                    cupy.copyto(fresh, np.nan)  # as uninitialised memory: with beta = 0 it must not be read
                    run()
                found = [self.to_host(array).tolist() for array in (out, fresh)]
            for entries, expected in zip(found, (63.0, 18.0), strict=True):
                if entries != [[expected] * 2] * 2:
                    raise ArithmeticError(f"a replayed product came back as {entries}, not {expected:g}")
            self._capture.graphs, self._capture.launches, self._capture.seconds = 0, 0, 0.0
        except Exception as error:  # anything from CuPy, CUDA, cuBLAS or the dynamic loader
            self._capture.refuse(error)

    @property
    def xp(self) -> Any:
        """CuPy, or a recorder of its calls while this thread traces a step."""
        return getattr(self._tracing, "recorder", cupy)

    def asarray(self, array: np.ndarray, dtype: str | None = None) -> Array:
        size = array.size * np.dtype(dtype or array.dtype).itemsize
        with _Active(self._index, self.device, f"{size:,} for an array of shape {array.shape}"):
            return cupy.asarray(np.ascontiguousarray(array, dtype=dtype))

    def empty(self, shape: int | tuple[int, ...], dtype: str) -> Array:
        with self.active():
            return cupy.empty(shape, dtype)

    def copy_of(self, host: np.ndarray, dtype: str) -> Array:
        return self.asarray(host, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        with self.active():
            return cupy.asnumpy(array)  # type: ignore[no-any-return]

    def gemm(self, a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> None:
        xp = self.xp
        if xp is cupy:
            self._product(a, b, out, alpha, beta)
        else:
            column_major(a, b, out)  # raises what a product of these arrays would raise
            xp.gemm(a, b, out, alpha, beta, partial(self._product, a, b, out, alpha, beta))

    def _product(self, a: Array, b: Array, out: Array, alpha: Any, beta: Any) -> None:
        # cuBLAS is called directly: cupy.matmul has no alpha and beta, so it cannot accumulate.
        first, trans_first, second, trans_second, c = column_major(a, b, out)
        m, n = c.shape
        k = first.shape[0] if trans_first else first.shape[1]
        handle, char = self._handle, out.dtype.char
        handle.gemm(
            char, trans_first, trans_second, m, n, k,
            handle.scalar(alpha, char), first.data.ptr, first.shape[0],
            second.data.ptr, second.shape[0],
            handle.scalar(beta, char), c.data.ptr, m,
        )  # fmt: skip

    def take_rows(self, source: Array, indices: Array, out: Array) -> None:
        self.xp.take(source, indices, axis=0, out=out)

    def elementwise(self, kernel: Kernel) -> Kernel:
        # A kernel bound while a step is traced is bound to the recorder.
        return super().elementwise(kernel) if self.xp is cupy else self._bind(kernel)

    def _bind(self, kernel: Kernel) -> Kernel:
        return partial(kernel, self.xp)

    def scalars(self, count: int, dtype: str) -> Scalars:
        with self.active():
            return super().scalars(count, dtype)

    def capture(self, parts: Sequence[Steps]) -> Captured:
        if not self._capture.pays:
            return super().capture(parts)
        with self.active():
            positions = cupy.zeros((len(parts), 2), "int64")  # the index of the next step, and of the one that runs
            try:
                traces = [self._trace(*part) for part in zip(parts, positions, strict=True)]
                works = self._compiler.compile(traces)
            except (Untraceable, cupy.cuda.compiler.CompileException) as error:
                self._compiler.refuse(error)
                works = [partial(call_by_call, steps, at[:1]) for steps, at in zip(parts, positions, strict=True)]
            return Graphs(parts, works, positions, self._capture)

    def _trace(self, steps: Steps, positions: Array) -> tuple[list[Call], Sequence[Array]]:
        """A step's calls, and the arrays that hold nothing after it."""
        self._tracing.recorder = recorder = Recorder()
        try:
            trace(steps, recorder, positions[:1], positions[1:])
        finally:
            del self._tracing.recorder
        return recorder.calls, steps.scratch

    @property
    def unit(self) -> str | None:
        found = cupy.cuda.runtime.getDeviceProperties(self._index).get("uuid", b"")
        return found.hex() or f"{platform.node()} {cupy.cuda.Device(self._index).pci_bus_id}"

    def summing(self, count: int, dtype: str, ranks: Ranks) -> Summing:
        from cupy.cuda import nccl

        with self.active():
            array = cupy.zeros(count, dtype)
        if ranks.size > 1 and all(ranks.allgather_obj(bool(nccl.available))):
            add_up = NcclSum(nccl, array, ranks, lambda: cupy.cuda.get_current_stream().ptr)
            return Summing(array, array, add_up, "NCCL")
        import cupyx

        host = cupyx.empty_pinned(array.shape, array.dtype)
        return Summing(array, array, PinnedSum(array, host, ranks), "MPI, through the host")

    def active(self, *, captured: bool = False) -> AbstractContextManager[object]:
        return _Active(self._index, self.device)

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
            "graphs": self._capture.describe(),
            "compiled": self._compiler.describe(),
        }


class _Active:
    """Makes the device current. Turns device errors into ``DeviceError``, after freeing the failed call's memory."""

    def __init__(self, index: int, name: str, needed: str | None = None) -> None:
        self._device, self._name, self._needed = cupy.cuda.Device(index), name, needed

    def __enter__(self) -> None:
        try:
            self._device.__enter__()
        except Exception as error:
            raise device_fault(error, self._name) or error  # noqa: B904 (chained by itself)
        accelerators.switch_off()

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        accelerators.restore()
        try:
            # A DeviceError comes from a nested block: more frames have ended since, so more memory can be freed.
            fault = error if isinstance(error, DeviceError) else device_fault(error, self._name, self._needed)
            if fault is not None:
                release_memory(trace)
        finally:
            try:
                self._device.__exit__(None, None, None)
            except Exception as again:  # cudaSetDevice may report a sticky fault once more
                if not (fault := fault or device_fault(again, self._name)):
                    raise
        if fault is not None and fault is not error:
            raise fault from error


def device_fault(error: BaseException | None, device: str, needed: str | None = None) -> DeviceError | None:
    """The ``DeviceError`` for an exception of CuPy: out of memory, or a sticky error. None for any other."""
    # By class name: the classes are spread over four modules, and other exceptions' ``status`` means something else.
    kind, status = type(error).__name__, getattr(error, "status", None)
    of_cuda = kind in ("CUDARuntimeError", "CUDADriverError")
    full = (of_cuda and status == CUDA_OUT_OF_MEMORY) or (kind == "CUBLASError" and status == CUBLAS_ALLOC_FAILED)
    first_line = (str(error).splitlines() or [""])[0]
    if full or isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        asked = re.search(r"allocating ([\d,]+) bytes", first_line)
        needed = needed or (f"{asked[1]} more" if asked else "room for the work to be done")
        return DeviceError(
            "out of GPU memory", where=device, found=f"{_free_bytes():,} bytes free", expected=needed, remedy=SMALLER
        )
    if of_cuda and status in STICKY:
        return DeviceError(
            "the GPU no longer works in this process",
            where=device,
            found=first_line,
            remedy="End the process and start again; files that were saved before are whole.",
        )
    return None


def release_memory(trace: TracebackType | None) -> None:
    """Free GPU memory that only the frames of a failed call still hold, so that smaller work may fit."""
    # A traceback keeps its frames alive, and frames their arrays. Frames that still run are not cleared.
    traceback.clear_frames(trace)
    gc.collect()
    with suppress(Exception):  # after a sticky error this fails too
        cupy.get_default_memory_pool().free_all_blocks()


def _free_bytes() -> int:
    """The bytes that may still be allocated: the GPU's free memory, or what the limit of CuPy's pool leaves."""
    try:
        free: int = cupy.cuda.runtime.memGetInfo()[0]
    except Exception:  # the GPU no longer responds
        return 0
    with suppress(Exception):
        pool = cupy.get_default_memory_pool()
        if pool.get_limit():
            free = min(free, max(0, pool.get_limit() - pool.used_bytes()))
    return free


def self_test(index: int) -> None:
    """Run each operation of training once on tiny arrays: upload, ufunc, accumulating GEMM, sync, download.

    Raises whatever CuPy raises, or ``ArithmeticError`` if the result is wrong.
    """

    def twice(xp: Any, x: Array, y: Array) -> None:
        xp.divide(x, np.float32(0.5), out=y)  # of the types with which training scales pixels: compiled once

    backend = CupyBackend(index)
    with backend.active():
        pixels = backend.asarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
        x = backend.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
        y = backend.asarray(np.ones((2, 3), dtype=np.float32))
        backend.elementwise(twice)(pixels, y)
        out = backend.asarray(np.ones((2, 2), dtype=np.float32))
        backend.gemm(x, y.T, out, alpha=0.5, beta=2.0)
        backend.synchronize()
        found = backend.to_host(out)
    if not np.array_equal(found, np.array([[7, 16], [16, 52]], dtype=np.float32)):
        raise ArithmeticError(f"a 2x2 product came back as {found.tolist()}")
