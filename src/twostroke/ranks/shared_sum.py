"""Sums over ranks on one machine, in memory that they share: nothing is sent, and each element is added up once."""

from __future__ import annotations

import mmap
import os
import platform
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

SWITCH: Final = "TWOSTROKE_SHARED_SUM"  # 0: sums go through MPI
PAGE: Final = 4096
TOKEN: Final = 16  # bytes by which a rank knows that it has opened the right memory


class Ranks(Protocol):
    """What is needed of a ``Communicator``."""

    rank: int
    size: int

    def bcast_obj(self, value: Any) -> Any: ...

    def allgather_obj(self, value: Any) -> list[Any]: ...


class SharedSum:
    """``array`` (count,), this rank's own, and a call that puts the sum over all ranks into ``total`` (count,).

    The ranks' arrays lie in ``memory`` one after the other. Each rank adds up one part of them, in the order of ranks,
    so that all have the same bits, and then all take all parts. ``total`` is in no other rank's cache: to write
    where another one has just read takes three times as long. ``array`` is overwritten, ``wait(ready)`` returns when
    ``ready()`` is true.
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
        # How often each rank has come to a place where it waits for the others: written by that rank alone.
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
        self._meet()  # nobody may change what another one has not yet taken

    def _meet(self) -> None:
        self._mine[0] = place = self._mine[0] + 1
        self._wait(lambda: all(other[0] >= place for other in self._others))


def shared_memory(count: int, dtype: str, ranks: Ranks) -> mmap.mmap | None:
    """Memory for a ``SharedSum`` that all ``ranks`` of one machine have mapped; or None, on all of them.

    Rank 0 makes a file that has no name and whose memory is there before anybody writes to it; the others open it
    through /proc. Nothing is left behind, however a rank ends.
    """
    # Other processors may show a rank's writes to the others in another order; Python has no fence against that.
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
    """Of one rank: a page for its place and whole pages for its array."""
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
