"""The communicator of a distributed run: this process's rank, and the collective operations.

A run is one process (``SingleProcess``, which imports no MPI) or the ranks of an MPI job (``MPIProcess``). All ranks
make the same calls in the same order. A watchdog ends the process, and so the job, when a collective call waits longer
than its limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..backend.machine import own_cores
from ..errors import ConfigError
from .shared_sum import SharedSum


class Communicator:
    """Collective operations over all ranks. This base class is a job of one rank.

    ``local_rank`` and ``local_size`` count the ranks on this host.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def cores(self) -> int:
        """The number of cores, and so of threads, for this rank."""
        return len(own_cores())

    @property
    def host_cores(self) -> int:
        """The number of cores that all ranks on this host may use together."""
        return len(own_cores())

    @property
    def crowded(self) -> bool:
        """Whether this host has more ranks than cores."""
        return self.local_size > self.host_cores

    def allreduce_(self, array: np.ndarray) -> None:
        """All-reduce in place: a contiguous host array of the same shape and dtype on every rank."""

    def shared_sum(self, count: int, dtype: str) -> SharedSum | None:
        """An all-reduce of a host array (count,) through shared memory; None on all ranks if they do not share
        memory."""
        return None

    def bcast_(self, array: np.ndarray) -> None:
        """Broadcast from rank 0 in place: a contiguous host array of the same shape and dtype on every rank."""

    def bcast_obj(self, value: Any) -> Any:
        """Broadcast: rank 0's ``value``, on every rank."""
        return value

    def allgather_obj(self, value: Any) -> list[Any]:
        """All-gather: every rank's ``value``, in rank order, on every rank."""
        return [value]

    def barrier(self) -> None:
        """Wait until all ranks have called this."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Context in which the watchdog also covers waits that are not calls of these methods."""
        yield

    def abort(self, code: int) -> None:
        """End every process of the job with this exit code; with one process, do nothing."""

    def close(self) -> None:
        """Leave the job; no other method may be called afterwards."""

    def describe(self) -> dict[str, Any]:
        """Ranks, hosts and MPI library, for the run's record."""
        return {"ranks": self.size}


class SingleProcess(Communicator):
    """A run of one process."""


def agree(communicator: Communicator, facts: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` on every rank, naming the differences, unless ``facts`` are equal on all ranks."""
    everyone = communicator.allgather_obj(dict(facts))
    first, differing = everyone[0], []
    for rank, theirs in enumerate(everyone):
        for key in sorted({*first, *theirs}):
            if first.get(key) != theirs.get(key):
                differing.append(f"{key} {first.get(key)} on rank 0 and {theirs.get(key)} on rank {rank}")
    if differing:
        raise ConfigError(
            "the ranks do not have the same run",
            where="--distributed",
            found="; ".join(differing),
            remedy="Start them all with the same options, data and packages.",
        )
