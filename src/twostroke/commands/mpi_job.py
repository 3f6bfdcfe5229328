"""The command line in an MPI job: which process speaks, and how an error ends all of them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from ..errors import ConfigError, TwoStrokeError
from ..ranks.mpi import COMMAND, RefusedElsewhere, current, first_of_host, launched, tell_all
from .terminal import complain

__all__ = ["RefusedElsewhere", "in_job", "leave", "refuse_several"]

RANK_0_FIRST_S: Final = 1.0


def refuse_several(command: str) -> None:
    """Raise ``ConfigError`` if an MPI launcher started several processes of a command that only one may run."""
    if launched()[1] > 1:
        raise ConfigError(
            "an MPI launcher started several processes that would each do the same",
            where=command,
            found=f"{launched()[1]} processes",
            expected="one",
            remedy=f"Start it without the launcher; only training is shared: {COMMAND}.",
        )


def in_job() -> bool:
    """Whether this process is one of several ranks."""
    return current().size > 1


def leave(line: str | None, code: int, *, signalled: bool = False) -> int:
    """Print ``line``, and return the exit code; a rank of an MPI job aborts the whole job with it.

    Rank 0 prints what every rank finds: the other ranks wait for it to abort them. Before MPI has started there is
    nothing to abort: the ranks meet and compare their errors, but not after a signal, which one rank alone may get.
    Where they cannot meet, the first rank of each host prints: all of its ranks have the same packages.
    """
    ranks = current()
    rank, size = (ranks.rank, ranks.size) if in_job() else launched()
    if rank and in_job():
        time.sleep(RANK_0_FIRST_S)
    if line and (in_job() or size == 1 or _speaks(line, code, signalled=signalled)):
        complain(f"[rank {rank}] {line}" if size > 1 else line)
    ranks.abort(code)
    return code


def _speaks(line: str, code: int, *, signalled: bool) -> bool:
    """Whether this rank prints an error that came before MPI."""
    if not signalled:
        with suppress(TwoStrokeError):
            return tell_all(line, code)
    if launched()[0]:
        time.sleep(RANK_0_FIRST_S)  # a launcher ends the others as soon as one has ended
    return first_of_host()
