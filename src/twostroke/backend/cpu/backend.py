"""The CPU: NumPy's ufuncs for elementwise work, the C library for every matrix product.

Without the library SciPy's BLAS multiplies. NumPy and SciPy each bring a BLAS with a thread pool of its own. One step
must use one pool: two of them fight for the cores. SciPy's is taken because its ``gemm`` has alpha, beta and an output.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final

import numpy as np
import threadpoolctl

from ..base import Array, Backend, Captured, Kernel, Ranks, Steps, Summing
from ..column_major import check_product
from ..machine import available_cores, processor_name
from ..tape import Recorder, Tape
from .blas import Blas, Pools, allowed_threads, multiply, scipy_blas
from .library import CallersThreads, Products, core_latency_ns, largest_magnitude, library
from .player import Player, as_in_a_step
from .threads import ThreadGovernor

LINE: Final = 64  # bytes of a cache line
UNCHANGED: Final = nullcontext()


class NumpyBackend(Backend):
    """Arrays are NumPy arrays; ``asarray`` and ``to_host`` copy nothing."""

    name = "numpy"
    device = "cpu"

    def __init__(self, threads: int | str = "auto", reason: str = "cpu was asked for") -> None:
        super().__init__()
        self.reason = reason
        native = library().native
        self._counts: CallersThreads | Pools
        if native is None:
            self._counts, self._modules = scipy_blas().pool, _Modules(scipy_blas(), None)
        else:
            self._counts, self._modules = CallersThreads(native), _Modules(None, Products(native))
            self.largest_magnitude = partial(largest_magnitude, native)
        self._most = allowed_threads() if threads == "auto" else int(threads)
        self.auto = threads == "auto" and self._most > 1
        self._constants: dict[Any, np.ndarray] = {}
        self._seconds: dict[int, float] = {}
        self._governors: dict[Any, ThreadGovernor] = {}

    @property
    def xp(self) -> Any:
        """NumPy, or a recorder of NumPy while this thread captures a step."""
        return self._modules.xp

    @property
    def threads(self) -> int:
        """The number of threads; with "auto", the number that ran the longest so far."""
        return max(self._seconds, key=self._seconds.__getitem__) if self._seconds else self._most

    def asarray(self, array: np.ndarray, dtype: str | None = None) -> Array:
        return np.ascontiguousarray(array, dtype=dtype)

    def to_host(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def empty(self, shape: int | tuple[int, ...], dtype: str) -> Array:
        # From the start of a cache line, so that no vector lies across two: a tenth to a third of a small step's time.
        flat = np.empty(math.prod(np.atleast_1d(shape)) * np.dtype(dtype).itemsize + LINE, np.uint8)
        start = -flat.ctypes.data % LINE
        return flat[start : len(flat) - LINE + start].view(dtype).reshape(shape)

    def gemm(self, a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> None:
        modules = self._modules
        if modules.products is not None:
            check_product(a, b, out)  # any strides would do here, but not on other devices
            modules.products.product(alpha, a, b, beta, out)
        else:
            multiply(modules.blas, alpha, a, b, beta, out)

    def take_rows(self, source: Array, indices: Array, out: Array) -> None:
        # mode="clip" because mode="raise" would build the result in a temporary first.
        self.xp.take(source, indices, axis=0, out=out, mode="clip")

    def elementwise(self, kernel: Kernel) -> Kernel:
        # A kernel bound while a step is captured is bound to the recorder.
        return super().elementwise(kernel) if self.xp is np else self._bind(kernel)

    def _bind(self, kernel: Kernel) -> Kernel:
        return partial(kernel, self.xp)

    def summing(self, count: int, dtype: str, ranks: Ranks) -> Summing:
        shared = ranks.shared_sum(count, dtype)
        if shared is not None:
            return Summing(shared.array, shared.total, shared, "shared memory")
        array = self.empty(count, dtype)
        array.fill(0)
        return Summing(array, array, partial(ranks.allreduce_, array), "MPI")

    def capture(self, parts: Sequence[Steps]) -> Captured:
        native, _ = library()
        return Player(parts, self._trace, self._governor, native and native.play)

    def _governor(self, tape: Tape) -> ThreadGovernor | None:
        """The governor of all steps that do the same work as this one; None where threads are fixed."""
        if not self.auto:
            return None
        work = tuple(np.shape(x) for call in tape if isinstance(call, partial) for x in call.args)
        if work not in self._governors:
            counts = sorted({1, max(1, self._most // 2), self._most})
            self._governors[work] = ThreadGovernor(counts, self._counts.change, self._seconds)
        return self._governors[work]

    def _trace(self, step: Callable[[], None]) -> Tape:
        """Run ``step`` and note its calls into NumPy and BLAS with their arguments: small steps spend half their time
        between those calls."""
        tape: Tape = []
        held = vars(self._modules).copy()
        self._modules.xp = Recorder(np, tape, self._constants)
        for name in ("blas", "products"):
            if held[name] is not None:
                setattr(self._modules, name, Recorder(held[name], tape, self._constants))
        try:
            step()
        finally:
            vars(self._modules).update(held)
        return tape

    def active(self, *, captured: bool = False) -> AbstractContextManager[object]:
        return _Active(self, UNCHANGED if captured else as_in_a_step())

    def synchronize(self) -> None:
        pass

    def array_module_held(self) -> Any:
        return threadpoolctl.threadpool_limits(self.threads, user_api="blas")

    def core_latency_ns(self) -> float | None:
        return core_latency_ns()

    def describe(self) -> dict[str, object]:
        return {
            "device": self.device,
            "processor": processor_name(),
            "cores": available_cores(),
            "threads": self.threads,
            "threads_auto": self.auto,
            "products": how_products_are_computed(),
            "steps": how_steps_run(),
            "numpy": np.__version__,
        }


def how_steps_run() -> str:
    """Whether recorded steps are played by the compiled library, or why not."""
    native, reason = library()
    return f"replayed from Python: {reason}" if native is None else f"played, {reason}"


def how_products_are_computed() -> str:
    """By the C library, or by which BLAS."""
    return scipy_blas().description if library().native is None else "by the C library"


class _Active:
    """A block of work with the backend's number of threads, in a block of how NumPy computes."""

    def __init__(self, backend: NumpyBackend, numpy: AbstractContextManager[object]) -> None:
        self._backend, self._numpy = backend, numpy

    def __enter__(self) -> None:
        self._backend._counts.enter(self._backend._most)
        self._numpy.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._numpy.__exit__(*error)
        self._backend._counts.leave()


class _Modules(threading.local):
    """What a backend calls into, for each thread: one may be capturing a step while another computes."""

    def __init__(self, blas: Blas | None, products: Products | None) -> None:
        self.xp: Any = np
        self.blas: Any = blas
        self.products = products
