"""CUDA graphs for the fake CuPy of ``strict_device``: a stream that notes calls instead of running them.

While it captures, whatever a real capture refuses is refused: cuBLAS on CuPy's handle, new arrays, copies between host
and device, waiting, the end of a handle. A graph that is launched does the noted calls, in their order, on the memory
they were noted with.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest

from tests.support.strict_device import UFUNCS, CudaError, FakeCublas, HostDeviceArray, plant_fake_cupy

NOT_PERMITTED = 900  # cudaErrorStreamCaptureUnsupported
CREATORS = ("empty", "zeros", "ones", "arange", "ones_like", "empty_like", "zeros_like", "full", "asarray", "stack")
REDUCTIONS = ("max", "sum", "mean", "argmax", "take")


class FakeGraph:
    def __init__(self, gpu: FakeGraphs, calls: list[Callable[[], object]]) -> None:
        self._gpu, self.calls = gpu, calls

    def launch(self) -> None:
        self._gpu.graph_launches += 1
        for call in self.calls:
            call()


class FakeStream:
    """A stream of the fake GPU; ``ptr`` tells streams apart."""

    def __init__(self, gpu: FakeGraphs, ptr: int, non_blocking: bool = False) -> None:
        self._gpu, self.ptr = gpu, ptr
        self._outer: FakeStream | None = None

    def __enter__(self) -> FakeStream:
        self._outer, self._gpu.current = self._gpu.current, self
        return self

    def __exit__(self, *_: object) -> None:
        assert self._outer is not None
        self._gpu.current = self._outer

    def begin_capture(self) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert self._gpu.captured is None
        self._gpu.captured, self._gpu.invalid = [], False

    def end_capture(self) -> FakeGraph:
        calls, self._gpu.captured = self._gpu.captured, None
        assert calls is not None
        if self._gpu.invalid:
            raise CudaError(901, "cudaErrorStreamCaptureInvalidated")
        self._gpu.graphs.append(FakeGraph(self._gpu, calls))
        return self._gpu.graphs[-1]

    def synchronize(self) -> None:
        if self._gpu.captured is not None:
            self._gpu.refuse("waiting for the stream")


class FakeGraphs:
    """What the fake GPU's streams do and did."""

    def __init__(self) -> None:
        self.captured: list[Callable[[], object]] | None = None
        self.invalid = False
        self.current = FakeStream(self, 0)
        self.graphs: list[FakeGraph] = []
        self.calls = self.graph_launches = self.streams = 0
        self._inside = False

    def refuse(self, what: str) -> NoReturn:
        self.invalid = True
        raise CudaError(NOT_PERMITTED, f"cudaErrorStreamCaptureUnsupported: {what}")

    def stream(self, non_blocking: bool = False) -> FakeStream:
        self.streams += 1
        return FakeStream(self, 0x1000 + self.streams, non_blocking)

    def device(self, function: Callable[..., Any], *, new: bool = False) -> Callable[..., Any]:
        """``function`` as work for the GPU: run now, or noted. With ``new`` it makes an array where it has no out."""

        def call(*args: Any, **options: Any) -> Any:
            if self._inside:  # a part of a kernel that runs already
                return function(*args, **options)
            if self.captured is None:
                return self._run(function, *args, **options)
            if new and options.get("out") is None:
                self.refuse(f"{getattr(function, '__name__', function)} makes a new array")
            self.captured.append(lambda: self._run(function, *args, **options))
            return options.get("out")

        return call

    def _run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.calls += 1
        self._inside = True
        try:
            return function(*args, **options)
        finally:
            self._inside = False

    def host(self, function: Callable[..., Any], what: str) -> Callable[..., Any]:
        """``function``, refused while a stream is captured."""

        def call(*args: Any, **options: Any) -> Any:
            if self.captured is not None and not self._inside:
                self.refuse(what)
            return function(*args, **options)

        return call


class GraphCublas:
    """cuBLAS's C interface on a handle of one's own: factors are read when the product runs."""

    def __init__(self, gpu: FakeGraphs) -> None:
        self._blas, self._gpu = FakeCublas(), gpu
        self.handles = 0
        self.destroyed: list[int] = []
        self.state: dict[int, dict[str, Any]] = {}
        self.products = self._gpu.device(self._product)

    def cublasCreate_v2(self, handle: Any) -> int:
        self.handles += 1
        handle._obj.value = self.handles
        self.state[self.handles] = {"stream": 0, "workspace": None, "device_factors": False, "math": 0}
        return 0

    def cublasDestroy_v2(self, handle: Any) -> int:
        if self._gpu.captured is not None:  # it waits for the device
            self._gpu.invalid = True
            return 14
        self.destroyed.append(handle.value)
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: int) -> int:
        self.state[handle.value] |= {"stream": stream, "workspace": None}
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, address: int, size: int) -> int:
        self.state[handle.value]["workspace"] = (address, size)
        return 0

    def cublasSetMathMode(self, handle: Any, mode: int) -> int:
        self.state[handle.value]["math"] = mode
        return 0

    def cublasSetPointerMode_v2(self, handle: Any, mode: int) -> int:
        self.state[handle.value]["device_factors"] = mode == 1
        return 0

    def cublasSgemm_v2(self, handle: Any, *arguments: int) -> int:
        return self._gemm(ctypes.c_float, handle, *arguments)

    def cublasDgemm_v2(self, handle: Any, *arguments: int) -> int:
        return self._gemm(ctypes.c_double, handle, *arguments)

    def _gemm(self, kind: Any, handle: Any, *arguments: int) -> int:
        state = self.state[handle.value]
        assert state["device_factors"]
        if state["stream"] != self._gpu.current.ptr:
            raise AssertionError("the product would run on another stream than the step")
        if state["workspace"] is None and self._gpu.captured is not None:
            return 14  # cuBLAS would allocate
        self.products(kind, *arguments)
        return 0

    def _product(self, kind: Any, *arguments: int) -> None:
        self._blas._gemm(kind, 0, *arguments)


class GraphArray(HostDeviceArray):
    """Writing by an index array, or a whole array's filling, is work of the GPU too."""

    __module__ = "cupy"
    gpu: FakeGraphs

    def __setitem__(self, key: Any, value: Any) -> None:
        self.gpu.device(super().__setitem__)(key, value)


def plant_fake_graphs(monkeypatch: pytest.MonkeyPatch, *, own_handle: bool = True) -> tuple[Any, FakeGraphs]:
    """A fake CuPy that captures; the module, and what happened on its GPU. Without ``own_handle``: no libcublas."""
    fake, shared = plant_fake_cupy(monkeypatch)
    gpu = FakeGraphs()
    kind = type("GraphArray", (GraphArray,), {"gpu": gpu, "__module__": "cupy"})

    def creator(function: Any) -> Callable[..., Any]:
        return gpu.host(lambda *args, **options: np.array(function(*args, **options)).view(kind), "a new array")

    for name in CREATORS:
        setattr(fake, name, creator(getattr(np, name)))
    for name in (*UFUNCS, *REDUCTIONS):
        setattr(fake, name, gpu.device(getattr(fake, name), new=True))
    fake.copyto = gpu.device(np.copyto)
    fake.asnumpy = gpu.host(np.array, "a copy to the host")
    fake.ndarray = kind
    fake.fuse = lambda kernel_name: gpu.device
    fake.RawKernel = lambda source, name: gpu.device(lambda grid, block, arguments: None)  # one that does nothing

    def guarded(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> None:
            if gpu.captured is not None:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            gpu.device(getattr(FakeCublas, name))(shared, *arguments)

        return call

    shared.sgemm, shared.dgemm = guarded("sgemm"), guarded("dgemm")  # type: ignore[method-assign]

    @contextmanager
    def using_allocator(_: Any) -> Iterator[None]:
        yield

    fake.cuda.Stream = gpu.stream
    fake.cuda.get_current_stream = lambda: gpu.current
    fake.cuda.using_allocator = using_allocator
    fake.cuda.MemoryPool = lambda: SimpleNamespace(malloc=None, total_bytes=lambda: 0)
    gpu.library = GraphCublas(gpu)  # type: ignore[attr-defined]
    cublas = importlib.import_module("twostroke.backend.cuda.cublas")  # the one that sees the fake

    def open_library() -> Any:
        if not own_handle:
            raise OSError("no libcublas is mapped into this process")
        return gpu.library  # type: ignore[attr-defined]

    monkeypatch.setattr(cublas, "open_library", open_library)
    return fake, gpu
