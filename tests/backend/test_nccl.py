"""Sums between GPUs through a double of NCCL and of pinned memory: the calls and their arguments, without a GPU."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import StrictBackend
from tests.support.thread_ranks import ThreadRank, on_ranks
from twostroke import DeviceError
from twostroke.backend.cuda.nccl import NcclSum, PinnedSum
from twostroke.backend.cuda.probe import gpu_of

KINDS = {7: np.float32, 8: np.float64}


class FakeNccl:
    """CuPy's module ``nccl`` of one rank: an id, communicators, and a sum over memory that it is given as addresses."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0

    def __init__(self, ranks: ThreadRank) -> None:
        self.ranks = ranks
        self.made: list[tuple[int, Any, int]] = []
        self.streams: list[int] = []

    def get_unique_id(self) -> tuple[int, ...]:
        assert self.ranks.rank == 0
        return (1, 2, 3)

    def NcclCommunicator(self, size: int, name: Any, rank: int) -> Any:
        self.made.append((size, name, rank))
        return SimpleNamespace(allReduce=self.all_reduce)

    def all_reduce(self, send: int, receive: int, count: int, kind: int, op: int, stream: int) -> None:
        assert (send, op) == (receive, self.NCCL_SUM)
        self.streams.append(stream)
        dtype: np.dtype[Any] = np.dtype(KINDS[kind])
        memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(send)
        self.ranks.allreduce_(np.ndarray(count, dtype, buffer=memoryview(memory)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nccl_is_called_as_it_must_be(dtype: str) -> None:
    def work(ranks: ThreadRank) -> tuple[Any, ...]:
        nccl, backend = FakeNccl(ranks), StrictBackend()
        array = backend.asarray(np.arange(5, dtype=dtype) * (ranks.rank + 1))
        streams = iter([11, 12])
        add = NcclSum(nccl, array, ranks, lambda: next(streams))
        add()
        add()
        return backend.to_host(array).tolist(), nccl.made, nccl.streams

    for rank, (values, made, streams) in enumerate(on_ranks(3, work)):
        assert values == [0, 18, 36, 54, 72]  # 1 + 2 + 3, then three times that
        assert made == [(3, (1, 2, 3), rank)]  # every rank has rank 0's id
        assert streams == [11, 12]  # the current one at each call


def test_through_pinned_memory() -> None:
    class Device:
        """An array of a GPU, as far as ``get`` and ``set`` go."""

        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def get(self, out: np.ndarray) -> None:
            out[:] = self.values

        def set(self, host: np.ndarray) -> None:
            self.values[:] = host

    def work(ranks: ThreadRank) -> list[float]:
        array = Device(np.full(4, ranks.rank + 1.0))
        PinnedSum(array, np.empty(4), ranks)()
        return list(array.values)

    assert on_ranks(3, work) == [[6.0] * 4] * 3


@pytest.mark.parametrize(
    ("gpus", "local_rank", "local_size", "expected"),
    [(4, 2, 4, 2), (4, 1, 2, 1), (1, 1, 2, 0), (0, 1, 2, 0), (1, 0, 1, 0)],
)
def test_each_rank_takes_the_gpu_of_its_place(
    monkeypatch: pytest.MonkeyPatch, gpus: int, local_rank: int, local_size: int, expected: int
) -> None:
    """With one visible GPU number 0: the launcher may have shown each rank its own."""
    runtime = SimpleNamespace(getDeviceCount=lambda: gpus)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    assert gpu_of(local_rank, local_size) == expected


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(getDeviceCount=lambda: 2)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    with pytest.raises(DeviceError, match=r"more ranks than GPUs.*3 ranks on a machine with 2 GPUs"):
        gpu_of(0, 3)


def test_without_cupy_there_is_no_gpu_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert gpu_of(1, 2) == 0
