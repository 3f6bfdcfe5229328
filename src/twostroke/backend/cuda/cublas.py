"""cuBLAS behind ``CupyBackend``: on CuPy's handle, or on one of our own, which works while a stream is captured."""

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
WORKSPACE_BYTES: Final = 32 << 20  # what NVIDIA recommends for Hopper; 4 MiB is enough for older GPUs
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
    """Kept around captures: no garbage is collected, and no handle destroyed in any thread, for that waits for the
    device, and what waits for the device ends a capture."""

    def __init__(self) -> None:
        self._turn = threading.RLock()  # reentrant: a finalizer may run in the thread that holds it
        self._captures = 0
        self._collected = True  # whether Python collected garbage before the first of them
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
        """Destroy a handle now, or when no capture is in progress any more."""
        self._retired.append(lambda: destroy(handle))
        self._destroy()

    def _destroy(self) -> None:
        with self._turn:
            while self._retired and not self._captures:
                self._retired.pop()()


_peace: Final = _Peace()
undisturbed: Final = _peace.kept


class _Numbers:
    """Factors of products, in device memory: both handles read them there, when the product runs."""

    def __init__(self) -> None:
        self._cells: dict[tuple[float, str], Any] = {}

    def scalar(self, value: Any, char: str) -> int:
        """The device address of a factor of type ``char``, "f" or "d": of a number, or of an array of one element."""
        cell = value if isinstance(value, cupy.ndarray) else self._cells.get((value, char))
        if cell is None:  # kept for good: a graph may hold its address
            cell = self._cells[value, char] = cupy.full(1, value, char)
        return int(cell.data.ptr)


class SharedHandle(_Numbers):
    """CuPy's handle, which it refuses while a stream is captured.

    Both handles take products as BLAS writes them: column-major, leading dimensions, addresses.
    """

    def __init__(self, tf32: bool) -> None:
        super().__init__()
        # cuBLAS is imported here: without the toolkit's libraries the import itself fails.
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
    """A handle of our own for each thread, which works while a stream is captured; its workspace outlives every graph.

    Raises ``OSError`` where the library cannot be opened, CuPy's ``CUBLASError`` where it does not start.
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
            # After it: setting the stream takes the workspace away.
            self._call("cublasSetWorkspace_v2", state.handle, state.workspace.data.ptr, WORKSPACE_BYTES)
            state.stream = stream
        self._call("cublasSgemm_v2" if char == "f" else "cublasDgemm_v2", state.handle, *arguments)

    def _state(self) -> Any:
        """This thread's handle, its workspace, and the stream it is set to."""
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
    """The cuBLAS that CuPy calls, by its C interface. Raises ``OSError`` without one, or where two are possible."""
    from cupy_backends.cuda.libs import cublas

    from .libraries import mapped_files

    # Asked of CuPy's own extension, a function is that of the library which this one is linked with: a process may
    # hold a second cuBLAS (a toolkit's beside a wheel's, PyTorch's), and its handles are not CuPy's.
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
