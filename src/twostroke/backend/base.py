"""What a device offers: everything that differs between a CPU and a CUDA GPU is a method of ``Backend``."""

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

from ..errors import DataError

Array: TypeAlias = Any  # numpy.ndarray on a CPU, cupy.ndarray on a GPU
Kernel: TypeAlias = Callable[..., None]


class Scalars:
    """Numbers that change from step to step, such as a learning rate, in device memory at fixed addresses.

    ``cells`` is the array (count,). ``scalars[i]`` is a view of no dimensions: what kernels and ``gemm`` are given, so
    that a captured step reads the number of the day.
    """

    def __init__(self, xp: Any, count: int, dtype: str) -> None:
        self.cells, self._copyto = xp.zeros(count, dtype), xp.copyto
        self._views = [self.cells[i : i + 1].reshape(()) for i in range(count)]

    def __getitem__(self, index: int) -> Any:
        return self._views[index]

    def set(self, *values: float) -> None:
        """Give every number its value for the next step."""
        for view, value in zip(self._views, values, strict=True):
            self._copyto(view, value)  # on a GPU a launch with the number as its argument: nothing is uploaded


class Move(NamedTuple):
    """A copy at every step: row ``step`` of ``rows`` into ``fixed`` before it, or ``fixed`` into that row after it."""

    rows: Array
    fixed: Array
    before: bool


@dataclass(frozen=True)
class Steps:
    """``count`` steps, one after the other: the same calls on the same arrays, and the copies that feed them."""

    step: Callable[[], None]
    count: int = 1
    moves: Sequence[Move] = ()  # each has ``count`` rows


class Captured(ABC):
    """Steps that are ready to be run again and again, in parts: those of part 0 come first.

    ``at_once`` is how many steps to run between two looks at whether to stop.
    """

    at_once = 1

    def __init__(self, parts: Sequence[Steps]) -> None:
        self.parts = parts

    def run(self, first: int = 0, stop: int = 1) -> None:
        """The steps ``first`` to ``stop``, counted over all parts."""
        started, begin = time.perf_counter(), 0
        for part, steps in enumerate(self.parts):
            start, end = max(first - begin, 0), min(stop - begin, steps.count)
            if start < end:
                self.run_part(part, start, end)
            begin += steps.count
        self.pace(stop - first, time.perf_counter() - started)

    def pace(self, steps: int, seconds: float) -> None:  # noqa: B027 (most devices need none)
        """Learn from how long so many steps took how many to run ``at_once``."""

    @abstractmethod
    def run_part(self, part: int, first: int, stop: int) -> None:
        """The steps ``first`` to ``stop`` of one part."""


class CallByCall(Captured):
    """Captures nothing: every step is run as it was written. The reference for every other way."""

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
        """The copies before, or after, one step."""
        for rows, fixed, is_before in steps.moves:
            if is_before == before:
                source, target = (rows[index], fixed) if before else (fixed, rows[index])
                self._copyto(target, source)


class Ranks(Protocol):
    """What a backend needs to know of a ``Communicator``."""

    rank: int
    size: int

    def allreduce_(self, array: np.ndarray) -> None: ...

    def shared_sum(self, count: int, dtype: str) -> Any: ...

    def bcast_obj(self, value: Any) -> Any: ...

    def allgather_obj(self, value: Any) -> list[Any]: ...


class Summing(NamedTuple):
    """``run`` makes ``total`` the sum of all ranks' ``array``, which it overwrites; they may be one. ``path`` names the
    way."""

    array: Array
    total: Array
    run: Callable[[], None]
    path: str


class Backend(ABC):
    """What one device offers. ``NumpyBackend`` and ``CupyBackend`` are the two kept implementations."""

    name: str  # "numpy" or "cupy"
    device: str  # "cpu" or "cuda:0"
    reason: str  # why this device was chosen, one line
    auto = False  # whether the number of BLAS threads is found out while training runs

    @property
    def threads(self) -> int | None:
        """The number of BLAS threads; None on a device that has none."""
        return None

    @property
    def unit(self) -> str | None:
        """What no other process may use as well: the GPU's identity; None on a device that is shared."""
        return None

    def __init__(self) -> None:
        self._bound: dict[Kernel, Kernel] = {}

    @property
    @abstractmethod
    def xp(self) -> Any:
        """The array module: creation, ufuncs, reductions."""

    @abstractmethod
    def asarray(self, array: np.ndarray, dtype: str | None = None) -> Array:
        """A host array on this device, C-contiguous: the only way up. No copy where the device is the host."""

    @abstractmethod
    def to_host(self, array: Array) -> np.ndarray:
        """An array of this device as a NumPy array: the only way down, and a synchronisation point."""

    def empty(self, shape: int | tuple[int, ...], dtype: str) -> Array:
        """Memory for what a step computes with, where it is quickest: here the module's own."""
        return self.xp.empty(shape, dtype)

    def copy_of(self, host: np.ndarray, dtype: str) -> Array:
        """A host array's copy on this device, in memory that ``empty`` gave."""
        out = self.empty(host.shape, dtype)
        self.xp.copyto(out, self.asarray(host, dtype))
        return out

    @abstractmethod
    def gemm(self, a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> None:
        """``out = alpha * a b + beta * out`` in place, with no temporary.

        a (M, K), b (K, N), out (M, N): float32 or float64, one dtype, each contiguous in C or Fortran
        order, so ``.T`` views are free. ``out`` must not overlap ``a`` or ``b``. ``alpha`` and ``beta`` are numbers or
        ``Scalars``: arrays of one element of the same dtype, on this device.
        """

    @abstractmethod
    def take_rows(self, source: Array, indices: Array, out: Array) -> None:
        """``out[i] = source[indices[i]]``. The indices (int64) are in range: they were made on the host."""

    def elementwise(self, kernel: Kernel) -> Kernel:
        """``kernel(xp, *arrays)`` of ``kernels.py`` bound to this device (on a GPU: fused into one launch)."""
        bound = self._bound.get(kernel)
        if bound is None:
            bound = self._bound[kernel] = self._bind(kernel)
        return bound

    @abstractmethod
    def _bind(self, kernel: Kernel) -> Kernel: ...

    def scalars(self, count: int, dtype: str) -> Scalars:
        """Numbers that a captured step reads anew each time it runs."""
        return Scalars(self.xp, count, dtype)

    def capture(self, parts: Sequence[Steps]) -> Captured:
        """Steps ready to be run many times, in the device's quickest way.

        A device may note what a step calls when it first runs and replay that afterwards. So a step must make the same
        calls on the same arrays every time; what changes is the contents of arrays and ``scalars``.
        """
        return CallByCall(self.xp, parts)

    def sum_through_host(self, array: Array, ranks: Ranks) -> None:
        """``array`` <- its sum over all ranks, in place: contiguous, and alike on every rank."""
        host = self.to_host(array)
        ranks.allreduce_(host)
        self.xp.copyto(array, self.asarray(host))

    def summing(self, count: int, dtype: str, ranks: Ranks) -> Summing:
        """The quickest way to sum an array (count,) over all ranks at every step."""
        array = self.xp.zeros(count, dtype)
        return Summing(array, array, partial(self.sum_through_host, array, ranks), "MPI, through the host")

    def active(self) -> AbstractContextManager[object]:
        """Enter this around work: it makes the device current, or sets the number of BLAS threads."""
        return nullcontext()

    @abstractmethod
    def synchronize(self) -> None:
        """Return when all work given to the device is done."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What a result must be published with: library versions, processor, threads, numeric mode."""

    def check(self, array: Array, argument: str) -> Array:
        """The array unchanged; ``DataError`` if it lives in another module (nothing is copied silently)."""
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


def array_module(x: Array) -> Any:
    """The module that owns ``x``: numpy or cupy. CuPy is never imported to find out."""
    owner = type(x).__module__.partition(".")[0]
    return np if owner == "builtins" else sys.modules.get(owner, np)


def to_host(x: Array) -> np.ndarray:
    """``x`` as a NumPy array, wherever it lives (a synchronisation point for a GPU array)."""
    if array_module(x) is np:
        return np.asarray(x)
    host: np.ndarray = x.get()
    return host
