"""Ranks as threads of one process: a double of MPI for quick tests. It has its calls, not its failures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from twostroke.ranks.communicator import Communicator

T = TypeVar("T")


class ThreadRank(Communicator):
    """One of ``size`` ranks that share ``barrier`` and ``slots``."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, slots: list[Any]) -> None:
        self.rank = self.local_rank = rank
        self.size = self.local_size = size
        self._barrier, self._slots = barrier, slots
        self.calls = 0  # sums

    def _exchange(self, value: Any) -> list[Any]:
        self._slots[self.rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()
        return values

    def allreduce_(self, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.calls += 1
        values = self._exchange(array.copy())
        if len({(value.shape, value.dtype) for value in values}) > 1:
            raise ValueError(f"ranks sum arrays of different kinds: {[value.shape for value in values]}")
        array[:] = sum(values[1:], start=values[0])

    def bcast_(self, array: np.ndarray) -> None:
        array[:] = self._exchange(array.copy())[0]

    def bcast_obj(self, value: Any) -> Any:
        return self._exchange(value)[0]

    def allgather_obj(self, value: Any) -> list[Any]:
        return self._exchange(value)

    def barrier(self) -> None:
        self._exchange(None)


def on_ranks(size: int, work: Callable[[ThreadRank], T]) -> list[T]:
    """What ``work`` returns on each rank. The exception of the first rank that failed is raised."""
    barrier, slots = threading.Barrier(size, timeout=60), [None] * size

    def run(rank: int) -> T:
        try:
            return work(ThreadRank(rank, size, barrier, slots))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [future.result() for future in futures]
