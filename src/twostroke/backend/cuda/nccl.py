"""Sums over ranks that have a GPU each: by NCCL, from GPU to GPU, or by MPI through pinned host memory.

A GPU's array is never given to MPI: builds of MPI that do not know CUDA read its address as the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..base import Array, Ranks


class NcclSum:
    """``array`` <- its sum over all ranks, queued on the current stream at each call.

    ``nccl`` is CuPy's module of that name, ``stream`` gives the current stream's address. The ranks find each other by
    an id that rank 0 makes and MPI carries.
    """

    def __init__(self, nccl: Any, array: Array, ranks: Ranks, stream: Callable[[], int]) -> None:
        name = ranks.bcast_obj(nccl.get_unique_id() if ranks.rank == 0 else None)
        kind = {"f": nccl.NCCL_FLOAT32, "d": nccl.NCCL_FLOAT64}[array.dtype.char]
        self._communicator = nccl.NcclCommunicator(ranks.size, name, ranks.rank)
        self._array, self._stream = array, stream
        self._arguments = (array.data.ptr, array.data.ptr, array.size, kind, nccl.NCCL_SUM)

    def __call__(self) -> None:
        self._communicator.allReduce(*self._arguments, self._stream())


class PinnedSum:
    """The same through ``host``, an array of page-locked memory like ``array``: the way that any MPI can go."""

    def __init__(self, array: Array, host: Any, ranks: Ranks) -> None:
        self._array, self._host, self._ranks = array, host, ranks

    def __call__(self) -> None:
        self._array.get(out=self._host)
        self._ranks.allreduce_(self._host)
        self._array.set(self._host)
