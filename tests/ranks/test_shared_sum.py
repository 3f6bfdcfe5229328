"""Sums in shared memory, the ranks as threads of this process: the arithmetic, the waiting, and when there is none."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.thread_ranks import ThreadRank, on_ranks
from twostroke.ranks import shared_sum
from twostroke.ranks.communicator import SingleProcess
from twostroke.ranks.shared_sum import PAGE, SWITCH, SharedSum, rank_bytes, shared_memory


@pytest.fixture(autouse=True)
def _impatient() -> Iterator[None]:
    """Threads change places as often as they can, so that one that does not wait for the others is found out."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready():
        os.sched_yield()
        assert time.monotonic() < end, "the other ranks have not come"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "count"), [(2, 1), (2, 2), (2, 1001), (3, 2), (3, 1000), (5, 7777)])
def test_every_rank_has_the_sum_in_the_order_of_ranks(size: int, count: int, dtype: str) -> None:
    """Again and again, each rank's array overwritten as soon as its call returns: nobody may be late for the others."""
    memory = bytearray(size * rank_bytes(count, dtype))
    rounds = np.random.default_rng(0).standard_normal((40, size, count)).astype(dtype)

    def work(ranks: ThreadRank) -> list[bytes]:
        add_up, sums = SharedSum(memory, ranks.rank, size, count, dtype, wait), []
        for values in rounds:
            add_up.array[:] = values[ranks.rank]
            add_up()
            sums.append(add_up.total.tobytes())
        return sums

    expected = []
    for first, *others in rounds:
        expected.append(sum(others, start=first).tobytes())
    assert on_ranks(size, work) == [expected] * size


def test_arrays_begin_at_pages_of_their_own() -> None:
    memory = shared_memory(5, "float64", SingleProcess())
    if memory is None:
        pytest.skip("no shared memory on this system")
    sums = SharedSum(memory, 0, 1, 5, "float64", wait)
    assert len(memory) == 2 * PAGE
    assert sums.array.ctypes.data % PAGE == 0
    assert not sums.array.any()


def test_all_ranks_map_the_same_memory() -> None:
    def work(ranks: ThreadRank) -> list[int]:
        memory = shared_memory(3, "float32", ranks)
        assert memory is not None
        memory[PAGE + ranks.rank] = ranks.rank + 1
        ranks.barrier()
        assert memory[:PAGE] == bytes(PAGE)
        return list(memory[PAGE : PAGE + 3])

    files = len(os.listdir("/proc/self/fd"))
    assert on_ranks(3, work) == [[1, 2, 3]] * 3
    assert len(os.listdir("/proc/self/fd")) == files


def nowhere(ranks: ThreadRank) -> bool:
    return shared_memory(1000, "float32", ranks) is None


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    assert on_ranks(2, nowhere) == [True, True]


def test_other_processors_go_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert on_ranks(2, nowhere) == [True, True]


def test_no_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, start: int, n_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    files = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert on_ranks(3, nowhere) == [True] * 3
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.parametrize("what", ["nothing", "something else", "something short"])
def test_a_rank_that_does_not_see_rank_0_s_processes(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Two containers may have one name, and processes of the same numbers."""
    opened: Any = shared_sum._opened

    def elsewhere(path: str, n_bytes: int) -> Any:
        if what == "nothing":
            return opened("/proc/0/fd/0", n_bytes)
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(n_bytes if what == "something else" else 10)
            return opened(file.name, n_bytes)

    monkeypatch.setattr(shared_sum, "_opened", elsewhere)
    assert on_ranks(3, nowhere) == [True] * 3
