"""All-reduce through shared memory, for ranks on one machine: no messages, and each element is summed by one rank."""

from __future__ import annotations

import mmap
import os
import platform
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

SWITCH: Final = "TWOSTROKE_SHARED_SUM"  # 0: all-reduces go through MPI
PAGE: Final = 4096
TOKEN: Final = 16  # random bytes that prove that a rank has opened the right memory


class Ranks(Protocol):
    """The part of ``Communicator`` that is used here."""

    rank: int
    size: int

    def bcast_obj(self, value: Any) -> Any: ...

    def allgather_obj(self, value: Any) -> list[Any]: ...


class SharedSum:
    """A call all-reduces ``array`` (count,) into ``total`` (count,); clobbers ``array``.

    All ranks' arrays are in the shared ``memory``. Each rank sums one part, in rank order, so all ranks get the same
    bits; then each rank copies all parts. ``total`` is private memory: to write cache lines that other ranks have just
    read takes three times as long. ``wait(ready)`` returns when ``ready()`` is true.
    """

    def __init__(
        self,
        memory: Any,
        rank: int,
        size: int,
        count: int,
        dtype: str,
        wait: Callable[[Callable[[], bool]], None],
    ) -> None:
        bytes_of_rank = rank_bytes(count, dtype)
        starts = [index * bytes_of_rank for index in range(size)]
        self._arrays = [np.frombuffer(memory, dtype, count, start + PAGE) for start in starts]
        # The number of barriers that each rank has reached; only that rank writes it.
        places = [memoryview(memory)[start : start + 8].cast("q") for start in starts]
        self._mine, self._others = places[rank], [places[other] for other in range(size) if other != rank]
        self._parts = [slice(index * count // size, (index + 1) * count // size) for index in range(size)]
        self._rank, self._wait = rank, wait
        own = self._arrays[rank][self._parts[rank]]
        self._scratch = np.empty_like(own)
        self.array, self.total = self._arrays[rank], np.empty(count, dtype)

    def __call__(self) -> None:
        self._meet()
        part = self._parts[self._rank]
        first, *middle, last = (array[part] for array in self._arrays)
        for array in middle:
            first = np.add(first, array, out=self._scratch)
        np.add(first, last, out=self.array[part])
        self._meet()
        for part, array in zip(self._parts, self._arrays, strict=True):
            np.copyto(self.total[part], array[part])
        self._meet()  # no rank may overwrite a part that another has not yet copied

    def _meet(self) -> None:
        self._mine[0] = place = self._mine[0] + 1
        self._wait(lambda: all(other[0] >= place for other in self._others))


def shared_memory(count: int, dtype: str, ranks: Ranks) -> mmap.mmap | None:
    """Memory for a ``SharedSum``, mapped by all ``ranks`` of one machine; or None on all of them.

    Rank 0 creates an anonymous file (memfd) and allocates its pages; the others open it through /proc. The kernel frees
    it when the last rank ends, in whatever way.
    """
    # x86 only: other CPUs may reorder writes as seen by other ranks, and Python has no memory fence.
    able = platform.machine() in ("x86_64", "AMD64") and hasattr(os, "memfd_create")
    if not all(ranks.allgather_obj(able and os.environ.get(SWITCH) != "0")):
        return None
    n_bytes, token = ranks.size * rank_bytes(count, dtype), secrets.token_bytes(TOKEN)
    memory, found, file = None, None, -1
    if ranks.rank == 0:
        try:
            file = os.memfd_create("twostroke")
            os.posix_fallocate(file, 0, n_bytes)
            memory = mmap.mmap(file, n_bytes)
            memory[:TOKEN] = token
            found = f"/proc/{os.getpid()}/fd/{file}", token
        except OSError:
            memory = None
    found = ranks.bcast_obj(found)
    if ranks.rank and found:
        memory = _opened(found[0], n_bytes)
    right = memory is not None and memory[:TOKEN] == found[1]
    everyone = ranks.allgather_obj(right)
    if file >= 0:
        os.close(file)
    if not all(everyone):
        return None
    assert memory is not None
    if ranks.rank == 0:
        memory[:TOKEN] = bytes(TOKEN)
    ranks.allgather_obj(None)
    return memory


def rank_bytes(count: int, dtype: str) -> int:
    """The bytes of one rank: a page for its barrier counter, and whole pages for its array."""
    return PAGE + -(-count * np.dtype(dtype).itemsize // PAGE) * PAGE


def _opened(path: str, n_bytes: int) -> mmap.mmap | None:
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return mmap.mmap(file, n_bytes)
    except (OSError, ValueError):
        return None
    finally:
        os.close(file)
