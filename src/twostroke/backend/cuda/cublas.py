"""cuBLAS for ``CupyBackend``: with CuPy's handle, or with our own, which also works during stream capture."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import cupy

DEFAULT_MATH, TF32_TENSOR_OP_MATH = 0, 3  # cublasMath_t; CuPy does not export the second
POINTER_MODE_DEVICE: Final = 1  # cublasPointerMode_t
WORKSPACE_BYTES: Final = 32 << 20  # NVIDIA's recommendation for Hopper; older GPUs need only 4 MiB
HANDLE, ADDRESS, INT = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
_PRODUCT: Final = (HANDLE, *[INT] * 5, ADDRESS, ADDRESS, INT, ADDRESS, INT, ADDRESS, ADDRESS, INT)
SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cublasCreate_v2": (ctypes.POINTER(HANDLE),),
    "cublasDestroy_v2": (HANDLE,),
    "cublasSetStream_v2": (HANDLE, ADDRESS),
    "cublasSetWorkspace_v2": (HANDLE, ADDRESS, ctypes.c_size_t),
    "cublasSetMathMode": (HANDLE, INT),
    "cublasSetPointerMode_v2": (HANDLE, INT),
    "cublasSgemm_v2": _PRODUCT,
    "cublasDgemm_v2": _PRODUCT,
}


class _Peace:
    """During a capture, disables garbage collection and postpones the destruction of handles in all threads: both may
    synchronise with the device, which invalidates the capture."""

    def __init__(self) -> None:
        self._turn = threading.RLock()  # reentrant: a finalizer may run in the thread that holds the lock
        self._captures = 0
        self._collected = True  # whether garbage collection was enabled before
        self._retired: list[Callable[[], object]] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        with self._turn:
            if not self._captures:
                self._collected = gc.isenabled()
                gc.disable()
            self._captures += 1
        try:
            yield
        finally:
            with self._turn:
                self._captures -= 1
                if self._collected and not self._captures:
                    gc.enable()
                self._destroy()

    def retire(self, destroy: Callable[[Any], object], handle: Any) -> None:
        """Destroy a handle now, or as soon as no capture is in progress."""
        self._retired.append(lambda: destroy(handle))
        self._destroy()

    def _destroy(self) -> None:
        with self._turn:
            while self._retired and not self._captures:
                self._retired.pop()()


_peace: Final = _Peace()
undisturbed: Final = _peace.kept


class _Numbers:
    """alpha and beta as device pointers, so a replayed graph reads their current values."""

    def __init__(self) -> None:
        self._cells: dict[tuple[float, str], Any] = {}

    def scalar(self, value: Any, char: str) -> int:
        """The device address of a factor: a number, stored as dtype ``char`` ("f" or "d"), or an array of size 1."""
        cell = value if isinstance(value, cupy.ndarray) else self._cells.get((value, char))
        if cell is None:  # never freed: a graph may hold its address
            cell = self._cells[value, char] = cupy.full(1, value, char)
        return int(cell.data.ptr)


class SharedHandle(_Numbers):
    """CuPy's handle; CuPy does not allow its use during stream capture.

    Both handles take the arguments of a column-major BLAS: leading dimensions and device addresses.
    """

    def __init__(self, tf32: bool) -> None:
        super().__init__()
        # Imported here: the import fails without the toolkit's libraries.
        from cupy_backends.cuda.libs import cublas

        self._cublas = cublas
        self._mode = TF32_TENSOR_OP_MATH if tf32 else DEFAULT_MATH

    def gemm(self, char: str, *arguments: int) -> None:
        """trans_a, trans_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc."""
        handle = cupy.cuda.device.get_cublas_handle()
        if self._cublas.getMathMode(handle) != self._mode:
            self._cublas.setMathMode(handle, self._mode)
        before = self._cublas.getPointerMode(handle)
        self._cublas.setPointerMode(handle, POINTER_MODE_DEVICE)
        try:
            (self._cublas.sgemm if char == "f" else self._cublas.dgemm)(handle, *arguments)
        finally:
            self._cublas.setPointerMode(handle, before)


class OwnHandle(_Numbers):
    """Our own handle for each thread; works during stream capture. Its workspace outlives every graph.

    Raises ``OSError`` if the library cannot be opened, CuPy's ``CUBLASError`` if no handle can be created.
    """

    def __init__(self, tf32: bool) -> None:
        super().__init__()
        from cupy_backends.cuda.libs import cublas

        self._library, self._check = open_library(), cublas.check_status
        self._mode = TF32_TENSOR_OP_MATH if tf32 else DEFAULT_MATH
        self._local = threading.local()
        self._workspaces: list[Any] = []
        self._state()

    def gemm(self, char: str, *arguments: int) -> None:
        """As in ``SharedHandle``, on CuPy's current stream."""
        state, stream = self._state(), cupy.cuda.get_current_stream().ptr
        if state.stream != stream:
            self._call("cublasSetStream_v2", state.handle, stream)
            # In this order: cublasSetStream resets the workspace.
            self._call("cublasSetWorkspace_v2", state.handle, state.workspace.data.ptr, WORKSPACE_BYTES)
            state.stream = stream
        self._call("cublasSgemm_v2" if char == "f" else "cublasDgemm_v2", state.handle, *arguments)

    def _state(self) -> Any:
        """This thread's handle, workspace and current stream."""
        state = self._local
        if not hasattr(state, "handle"):
            state.workspace = cupy.empty(WORKSPACE_BYTES, "uint8")
            self._workspaces.append(state.workspace)  # a graph may outlive the thread that captured it
            handle = HANDLE()
            self._call("cublasCreate_v2", ctypes.byref(handle))
            weakref.finalize(self, _peace.retire, self._library.cublasDestroy_v2, handle).atexit = False
            self._call("cublasSetPointerMode_v2", handle, POINTER_MODE_DEVICE)
            self._call("cublasSetMathMode", handle, self._mode)
            state.handle, state.stream = handle, None
        return state

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(getattr(self._library, function)(*arguments))


def open_library() -> Any:
    """The C interface of the cuBLAS that CuPy uses. Raises ``OSError`` if it cannot be found, or not uniquely."""
    from cupy_backends.cuda.libs import cublas

    from .libraries import mapped_files

    # Symbols looked up through CuPy's extension come from the cuBLAS that it is linked with. The process may hold a
    # second cuBLAS (a toolkit's beside a wheel's, PyTorch's), whose handles are not interchangeable with CuPy's.
    library = ctypes.CDLL(cublas.__file__)
    if not hasattr(library, "cublasCreate_v2"):
        paths = mapped_files("libcublas")
        if len(paths) != 1:
            found = f"{len(paths)} libcublas are" if paths else "no libcublas is"
            raise OSError(": ".join([f"{found} mapped into this process", *([", ".join(paths)] if paths else [])]))
        library = ctypes.CDLL(paths[0])
    for name, arguments in SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    return library
