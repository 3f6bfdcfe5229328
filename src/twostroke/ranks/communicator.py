"""The processes of a distributed run: which of them this one is, and what it does together with the others.

A run is one process (``SingleProcess``, which imports nothing) or the ranks of an MPI job (``MPIProcess``). All ranks
make the same calls in the same order. Every call that waits for the others is watched: one that waits longer than the
watchdog's limit ends the process, and with it the job.
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
    """This process among its peers: as it stands, the only one.

    ``local_rank`` and ``local_size`` count the ranks on this host; ``cores`` are those that are this rank's share.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def cores(self) -> int:
        """How many threads this rank may use."""
        return len(own_cores())

    @property
    def host_cores(self) -> int:
        """How many cores the ranks on this host have together."""
        return len(own_cores())

    @property
    def crowded(self) -> bool:
        """Whether ranks on this host must share a core."""
        return self.local_size > self.host_cores

    def allreduce_(self, array: np.ndarray) -> None:
        """``array`` <- its sum over all ranks, in place: contiguous, on the host, alike on every rank."""

    def shared_sum(self, count: int, dtype: str) -> SharedSum | None:
        """An array (count,) on the host and the quickest sum of it over ranks that share memory; None on all ranks if
        they do not."""
        return None

    def bcast_(self, array: np.ndarray) -> None:
        """``array`` <- rank 0's, in place: contiguous, on the host, alike on every rank."""

    def bcast_obj(self, value: Any) -> Any:
        """Rank 0's ``value``."""
        return value

    def allgather_obj(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in the order of ranks."""
        return [value]

    def barrier(self) -> None:
        """Return when all ranks are here."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around work that waits for the other ranks in another way than by these methods."""
        yield

    def abort(self, code: int) -> None:
        """End every process of the job with this exit code; return if there is no other."""

    def close(self) -> None:
        """Leave the job, after the last call to any of these."""

    def describe(self) -> dict[str, Any]:
        """What a result is published with."""
        return {"ranks": self.size}


class SingleProcess(Communicator):
    """One process, as always."""


def agree(communicator: Communicator, facts: Mapping[str, Any]) -> None:
    """Return if all ranks bring the same facts; else ``ConfigError`` on all of them, naming what differs."""
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
