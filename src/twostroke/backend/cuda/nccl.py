"""All-reduce over ranks with one GPU each: by NCCL from GPU to GPU, or by MPI through pinned host memory.

MPI never gets a device pointer: an MPI that is not CUDA-aware would treat it as a host address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..base import Array, Ranks


class NcclSum:
    """A call queues an all-reduce of ``array``, in place, on the current stream.

    ``nccl`` is CuPy's module of that name; ``stream()`` returns the current stream's address. Rank 0 creates the NCCL
    id, and MPI broadcasts it.
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
    """A call all-reduces ``array`` in place through ``host``, a pinned array of the same shape. Works with any MPI."""

    def __init__(self, array: Array, host: Any, ranks: Ranks) -> None:
        self._array, self._host, self._ranks = array, host, ranks

    def __call__(self) -> None:
        self._array.get(out=self._host)
        self._ranks.allreduce_(self._host)
        self._array.set(self._host)
