"""The interface of a device: everything that differs between a CPU and a CUDA GPU is a method of ``Backend``."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ..errors import ConfigError, DataError

Array: TypeAlias = Any  # numpy.ndarray on a CPU, cupy.ndarray on a GPU
Kernel: TypeAlias = Callable[..., None]


class Scalars:
    """Numbers that change per step, such as the learning rate, in device memory at fixed addresses.

    ``cells`` is the array (count,). ``scalars[i]`` is a 0-d view of it to pass to kernels and ``gemm``, so that a
    replayed step reads the current value.
    """

    def __init__(self, xp: Any, count: int, dtype: str) -> None:
        self.cells, self._copyto = xp.zeros(count, dtype), xp.copyto
        self._views = [self.cells[i : i + 1].reshape(()) for i in range(count)]

    def __getitem__(self, index: int) -> Any:
        return self._views[index]

    def set(self, *values: float) -> None:
        """Set all values, for the next step."""
        for view, value in zip(self._views, values, strict=True):
            self._copyto(view, value)  # on a GPU a kernel launch with the number as argument: no upload


class Move(NamedTuple):
    """A copy at every step i: ``rows[i]`` into ``fixed`` before the step, or ``fixed`` into ``rows[i]`` after it."""

    rows: Array
    fixed: Array
    before: bool


@dataclass(frozen=True)
class Steps:
    """``count`` consecutive steps that make the same calls on the same arrays, with the copies around each of them.

    Nobody reads what a step left in ``scratch``: a device need not write there. ``source`` is an array that the step
    only reads; ``Captured.run_on`` runs the step on others in its place.
    """

    step: Callable[[], None]
    count: int = 1
    moves: Sequence[Move] = ()  # ``rows`` of each has ``count`` rows
    scratch: Sequence[Array] = ()
    source: Array | None = None


class Captured(ABC):
    """Captured steps, to be replayed. They are numbered through all ``parts``, beginning with part 0.

    ``at_once`` is the number of steps to run between two checks whether to stop.
    """

    at_once = 1

    def __init__(self, parts: Sequence[Steps]) -> None:
        self.parts = parts

    def run(self, first: int = 0, stop: int = 1) -> None:
        """Run the steps ``first`` to ``stop`` (exclusive), numbered through all parts."""
        started, begin = time.perf_counter(), 0
        for part, steps in enumerate(self.parts):
            start, end = max(first - begin, 0), min(stop - begin, steps.count)
            if start < end:
                self.run_part(part, start, end)
            begin += steps.count
        self.pace(stop - first, time.perf_counter() - started)

    def run_on(self, part: int, rows: Array) -> None:
        """Run the one step of a part on ``rows``, of this device and of the shape of the part's ``source``."""
        source: Array = self.parts[part].source
        source[...] = rows
        self.run_part(part, 0, 1)

    def pace(self, steps: int, seconds: float) -> None:  # noqa: B027 (most devices need none)
        """Learn from how long so many steps took how many to run ``at_once``."""

    @abstractmethod
    def run_part(self, part: int, first: int, stop: int) -> None:
        """Run the steps ``first`` to ``stop`` (exclusive) of one part."""


class CallByCall(Captured):
    """Captures nothing: runs the Python code of every step. The reference for the other implementations."""

    def __init__(self, xp: Any, parts: Sequence[Steps]) -> None:
        super().__init__(parts)
        self._copyto = xp.copyto

    def run_part(self, part: int, first: int, stop: int) -> None:
        steps = self.parts[part]
        for index in range(first, stop):
            self.move(steps, index, before=True)
            steps.step()
            self.move(steps, index, before=False)

    def move(self, steps: Steps, index: int, *, before: bool) -> None:
        """Do the copies before, or after, step ``index``."""
        for rows, fixed, is_before in steps.moves:
            if is_before == before:
                source, target = (rows[index], fixed) if before else (fixed, rows[index])
                self._copyto(target, source)


class Ranks(Protocol):
    """The part of ``Communicator`` that a backend uses."""

    rank: int
    size: int

    def allreduce_(self, array: np.ndarray) -> None: ...

    def shared_sum(self, count: int, dtype: str) -> Any: ...

    def bcast_obj(self, value: Any) -> Any: ...

    def allgather_obj(self, value: Any) -> list[Any]: ...


class Summing(NamedTuple):
    """``run`` all-reduces ``array`` into ``total`` and clobbers ``array``; they may alias. ``path`` names how."""

    array: Array
    total: Array
    run: Callable[[], None]
    path: str


class Backend(ABC):
    """The interface of a device, implemented by ``NumpyBackend`` and ``CupyBackend``."""

    name: str  # "numpy" or "cupy"
    device: str  # "cpu" or "cuda:0"
    reason: str  # why this device was chosen, one line
    auto = False  # whether the number of threads is tuned during training
    # The largest magnitude in a C-contiguous host array of floats, NaN if one is NaN, where this is quicker than NumPy.
    largest_magnitude: Callable[[np.ndarray], float] | None = None

    @property
    def threads(self) -> int | None:
        """The number of threads; None on a GPU."""
        return None

    @property
    def unit(self) -> str | None:
        """The GPU's identity, to detect two ranks on one GPU; None on a CPU, which ranks may share."""
        return None

    def __init__(self) -> None:
        self._bound: dict[Kernel, Kernel] = {}

    @property
    @abstractmethod
    def xp(self) -> Any:
        """The array module: creation, ufuncs, reductions."""

    @abstractmethod
    def asarray(self, array: np.ndarray, dtype: str | None = None) -> Array:
        """Upload: a host array as a C-contiguous array of this device; the only way up. No copy needed on the CPU."""

    @abstractmethod
    def to_host(self, array: Array) -> np.ndarray:
        """Download: an array of this device as a NumPy array; the only way down, and a synchronisation point."""

    def empty(self, shape: int | tuple[int, ...], dtype: str) -> Array:
        """An uninitialised array for a step, in the memory that is fastest to compute in; here ``xp.empty``."""
        return self.xp.empty(shape, dtype)

    def copy_of(self, host: np.ndarray, dtype: str) -> Array:
        """A copy of a host array on this device, in memory from ``empty``."""
        out = self.empty(host.shape, dtype)
        self.xp.copyto(out, self.asarray(host, dtype))
        return out

    @abstractmethod
    def gemm(self, a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> None:
        """``out = alpha * a b + beta * out`` in place, with no temporary.

        a (M, K), b (K, N), out (M, N): all float32 or all float64, each C- or Fortran-contiguous, so ``.T`` views
        need no copy. ``out`` must not alias ``a`` or ``b``. ``alpha`` and ``beta`` are numbers, or entries of
        ``Scalars``: arrays of one element of the same dtype, on this device.
        """

    @abstractmethod
    def take_rows(self, source: Array, indices: Array, out: Array) -> None:
        """``out[i] = source[indices[i]]``. The caller ensures that the indices (int64) are in range."""

    def elementwise(self, kernel: Kernel) -> Kernel:
        """``kernel(xp, *arrays)`` with ``xp`` bound to this device."""
        bound = self._bound.get(kernel)
        if bound is None:
            bound = self._bound[kernel] = self._bind(kernel)
        return bound

    @abstractmethod
    def _bind(self, kernel: Kernel) -> Kernel: ...

    def scalars(self, count: int, dtype: str) -> Scalars:
        """Numbers whose current values a captured step reads each time it is replayed."""
        return Scalars(self.xp, count, dtype)

    def capture(self, parts: Sequence[Steps]) -> Captured:
        """Capture steps, to replay them in the device's fastest way.

        A device may note a step's calls the first time and replay them afterwards. So a step must make the same calls
        on the same arrays every time; only the contents of arrays and ``scalars`` may change.
        """
        return CallByCall(self.xp, parts)

    def sum_through_host(self, array: Array, ranks: Ranks) -> None:
        """All-reduce in place through host memory: a contiguous array of the same shape and dtype on every rank."""
        host = self.to_host(array)
        ranks.allreduce_(host)
        self.xp.copyto(array, self.asarray(host))

    def summing(self, count: int, dtype: str, ranks: Ranks) -> Summing:
        """The fastest all-reduce of an array (count,) for this device and these ranks."""
        array = self.xp.zeros(count, dtype)
        return Summing(array, array, partial(self.sum_through_host, array, ranks), "MPI, through the host")

    def active(self, *, captured: bool = False) -> AbstractContextManager[object]:
        """A context for all work on this device: makes it the current GPU, or sets the number of threads and silences
        NumPy's warnings. ``captured``: the work is captured steps alone, which give none; that is twice as quick."""
        return nullcontext()

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all work queued on the device."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What a run's record says of the device: library versions, processor, threads, numeric mode."""

    def array_module_held(self) -> AbstractContextManager[Any]:
        """A block in which the array module's own products use no more threads than this backend."""
        return nullcontext()

    def core_latency_ns(self) -> float | None:
        """How long a cache line takes between two cores that share its work, in nanoseconds; None if it has no such."""
        return None

    def check(self, array: Array, argument: str) -> Array:
        """Return the array; ``DataError`` if it belongs to another array module (there are no implicit copies)."""
        module = array_module(array)
        if module is not self.xp:
            raise DataError(
                "array of the wrong device",
                where=argument,
                found=f"{type(array).__module__}.{type(array).__name__}",
                expected=f"an array of {self.xp.__name__}",
                remedy="Use backend.asarray() to bring host data up, to_host() to bring results down.",
            )
        return array


def check_backend(backend: object) -> Backend:
    """Return the backend; ``ConfigError`` for anything else, such as a device's name."""
    if not isinstance(backend, Backend):
        name = repr(backend) if isinstance(backend, str) else "'cpu'"
        remedy = f"Use backend=select_backend({name})."
        raise ConfigError("not a backend", where="backend", found=repr(backend), expected="a Backend", remedy=remedy)
    return backend


def array_module(x: Array) -> Any:
    """The array module of ``x``: numpy or cupy. Never imports CuPy."""
    owner = type(x).__module__.partition(".")[0]
    return np if owner == "builtins" else sys.modules.get(owner, np)


def to_host(x: Array) -> np.ndarray:
    """``x`` as a NumPy array (a synchronisation point for a GPU array)."""
    if array_module(x) is np:
        return np.asarray(x)
    host: np.ndarray = x.get()
    return host
