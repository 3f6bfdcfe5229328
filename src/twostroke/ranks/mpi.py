"""MPI: detect a job, join it and leave it."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from ..backend.machine import own_cores
from ..errors import ConfigError, PeerError, missing
from .communicator import Communicator, SingleProcess
from .shared_sum import SharedSum, shared_memory
from .watchdog import WATCHDOG_S, Watchdog, watchdog_limit, watched_from_outside

LAUNCHERS: Final = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
LOCAL_RANKS: Final = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
COMMAND: Final = "mpirun -n N twostroke train --distributed"
YIELDING_S: Final = 0.01  # a wait yields its core for so long, then sleeps NAP_S between polls
NAP_S: Final = 1e-4
SAID_S: Final = 0.1  # before an abort: MPICH's launcher may discard output that was written just before it


def launched() -> tuple[int, int]:
    """(rank, size) from the MPI launcher's environment variables; (0, 1) without a launcher."""
    for names in LAUNCHERS:
        values = [os.environ.get(name, "") for name in names]
        if all(value.isdecimal() for value in values):
            return int(values[0]), int(values[1])
    return 0, 1


def first_of_host() -> bool:
    """Whether this is the first rank of its host, by the launcher's environment variables."""
    return next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), str(launched()[0])) == "0"


class MPIProcess(Communicator):
    """A rank of an MPI job; ``mpi`` is mpi4py.MPI. Raises ``ConfigError`` if the launcher belongs to another MPI."""

    def __init__(self, mpi: Any, limit: float = WATCHDOG_S) -> None:
        self._mpi, self._world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size
        self._watchdog = Watchdog(limit, self.rank)
        self._polls = False
        first_line = mpi.Get_library_version().replace("\x00", "").splitlines()[0]
        self.library = " ".join(first_line.partition(",")[0].replace("Version:", "").split())
        expected = launched()[1]
        if self.size != expected:
            raise ConfigError(
                "mpirun belongs to another MPI than mpi4py uses",
                where="the number of ranks",
                found=f"{self.size} by {self.library}",
                expected=f"{expected} by the launcher",
                remedy="Start with the mpirun of the same installation.",
            )
        host = self._together(self._world.Split_type, mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = host.rank, host.size
        self._host_cores = self._together(host.allgather, own_cores())
        hosts = [crowded for first, crowded in self.allgather_obj((not self.local_rank, self.crowded)) if first]
        self.hosts = len(hosts)
        # MPICH busy-waits. Where ranks share a core, every message of an all-reduce then costs a time slice, so we poll
        # non-blocking calls instead. On one host these are as fast as blocking ones; between hosts perhaps not.
        self._polls = any(hosts) or (self.hosts == 1 and "MPICH" in self.library)

    @property
    def cores(self) -> int:
        # A launcher may bind each rank to its own cores, or leave all cores to all ranks.
        return min(len(self._host_cores[self.local_rank]), max(1, self.host_cores // self.local_size))

    @property
    def host_cores(self) -> int:
        return len(set().union(*self._host_cores))

    def allreduce_(self, array: np.ndarray) -> None:
        if self._polls:
            self._together(self._poll, self._world.Iallreduce, self._mpi.IN_PLACE, array)
        else:
            self._together(self._world.Allreduce, self._mpi.IN_PLACE, array)

    def shared_sum(self, count: int, dtype: str) -> SharedSum | None:
        memory = shared_memory(count, dtype, self) if self.hosts == 1 and self.size > 1 else None
        return None if memory is None else SharedSum(memory, self.rank, self.size, count, dtype, _wait)

    def bcast_(self, array: np.ndarray) -> None:
        if self._polls:
            self._together(self._poll, self._world.Ibcast, array)
        else:
            self._together(self._world.Bcast, array)

    def bcast_obj(self, value: Any) -> Any:
        self._meet()
        return self._together(self._world.bcast, value)

    def allgather_obj(self, value: Any) -> list[Any]:
        self._meet()
        values: list[Any] = self._together(self._world.allgather, value)
        return values

    def barrier(self) -> None:
        if self._polls:
            self._meet()
        else:
            self._together(self._world.Barrier)

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._watchdog.begin()
        try:
            yield
        finally:
            self._watchdog.end()

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        time.sleep(SAID_S)
        self._world.Abort(code)

    def close(self) -> None:
        self.barrier()
        with watched_from_outside(self._watchdog.limit):
            self._mpi.Finalize()

    def describe(self) -> dict[str, Any]:
        return {"ranks": self.size, "hosts": self.hosts, "cores_of_host": self.host_cores, "mpi": self.library}

    def _meet(self) -> None:
        """If polling, wait for all ranks here, because the blocking call that follows would busy-wait."""
        if self._polls:
            self._together(self._poll, self._world.Ibarrier)

    def _poll(self, call: Callable[..., Any], *arguments: Any) -> None:
        _wait(call(*arguments).Test)

    def _together(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._watchdog.begin()
        try:
            return call(*arguments)
        except self._mpi.Exception as error:
            remedy = "Go on from the checkpoint with --resume."
            raise PeerError("another rank may be lost", where="MPI", found=error, remedy=remedy) from error
        finally:
            self._watchdog.end()


_ours: list[Communicator] = [SingleProcess()]


def current() -> Communicator:
    """This process's communicator: within ``joined`` the one it yields, else a ``SingleProcess``."""
    return _ours[-1]


@contextmanager
def joined(distributed: bool) -> Iterator[Communicator]:
    """Context with this process's communicator: an ``MPIProcess`` if ``distributed``, else the current one.

    Leaves the job at the end of the block, but not after an exception: then the caller must call ``abort``. Raises
    ``ConfigError`` if the launcher and ``distributed`` contradict each other, or mpi4py is missing.
    """
    size = launched()[1]
    if not distributed:
        if size > 1:
            raise ConfigError(
                "an MPI launcher started several processes that would each train alone",
                where="--distributed",
                found=f"{size} processes without it",
                remedy=f"Let them train together: {COMMAND}.",
            )
        yield current()
        return
    communicator, refusals = _meet_all(None)
    if any(refusals):
        communicator.close()
        raise RefusedElsewhere(max(code for _, code in filter(None, refusals)))
    if communicator.size == 1:
        warnings.warn(f"--distributed has one rank; several are started by: {COMMAND}", stacklevel=3)
    _ours.append(communicator)
    yield communicator
    communicator.close()
    _ours.remove(communicator)


class RefusedElsewhere(BaseException):
    """Another rank had an error before the job began, and prints it. Not an Exception: nothing is wrong here."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


def tell_all(line: str, code: int) -> bool:
    """Tell the other ranks of an error before this one has joined: without it they would wait for this rank.

    Returns whether this rank is the first that has this error, and so prints it. Raises ``TwoStrokeError`` where the
    job cannot be joined.
    """
    communicator, refusals = _meet_all((line, code))
    communicator.close()
    return [refusal and refusal[0] for refusal in refusals].index(line) == communicator.rank


def _meet_all(refusal: tuple[str, int] | None) -> tuple[MPIProcess, list[tuple[str, int] | None]]:
    """Start MPI, and exchange what each rank found wrong before."""
    limit = watchdog_limit()
    with watched_from_outside(limit):
        mpi = import_mpi()
    communicator = MPIProcess(mpi, limit)
    return communicator, communicator.allgather_obj(refusal)


def import_mpi() -> Any:
    """Import ``mpi4py.MPI``, which initialises MPI. Raises ``MissingExtra``."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library
        what = None if isinstance(error, ImportError) else "an MPI library"
        raise missing("mpi", "--distributed", error, what=what) from error
    return MPI


def _wait(ready: Callable[[], bool]) -> None:
    """Poll ``ready()`` until it is true, yielding the core in between."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began < YIELDING_S:
            os.sched_yield()
        else:
            time.sleep(NAP_S)
