"""Ends this process when it has waited too long for other ranks."""

from __future__ import annotations

import faulthandler
import math
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ..errors import ConfigError, PeerError
from ..signals import ENDING

WATCHDOG: Final = "TWOSTROKE_WATCHDOG"
WATCHDOG_S: Final = 600.0
HURRY_S: Final = 10.0  # the limit after a signal: its sender should not have to wait for a frozen rank
TICKS: Final = 20  # per limit: counted, not timed, so that a process that was itself suspended is not ended


class Watchdog:
    """Ends this process when a call has waited for other ranks longer than ``limit`` seconds.

    Python's signal handlers do not run while the main thread waits inside MPI. So the watchdog receives signals as
    well: after one, the call that is waiting, or else the next one, may last ``HURRY_S`` more.
    """

    def __init__(self, limit: float, rank: int) -> None:
        self.limit, self.rank = limit, rank
        self._calls, self._waiting = 0, False
        self._signals, write = os.pipe()
        os.set_blocking(write, False)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begin(self) -> None:
        """Call before waiting for other ranks."""
        self._calls += 1
        self._waiting = True

    def end(self) -> None:
        """Call after the wait."""
        self._waiting = False

    def _watch(self) -> None:
        ticks, seen, hurried, number = 0, 0, -1, 0
        while ticks <= TICKS:
            hurry = hurried >= self._calls
            received = self._heard(min(self.limit, HURRY_S if hurry else math.inf) / TICKS)
            if received and not hurry:
                number, hurried, ticks = received, self._calls + (not self._waiting), 0
            else:
                ticks = ticks + 1 if self._waiting and seen == self._calls else 0
            seen = self._calls
        error = PeerError(
            "another rank does not answer",
            where=f"rank {self.rank}",
            found=f"no answer for {self.limit:g} s",
            remedy=f"Go on from the checkpoint with --resume; {WATCHDOG}=SECONDS sets the limit.",
        )
        line, code = f"error: {error}", error.exit_code
        if number and hurried == self._calls:
            line, code = f"stopped by {signal.Signals(number).name} while another rank did not answer.", 128 + number
            line += " Go on from the checkpoint with --resume."
        with suppress(OSError):
            os.write(2, f"[rank {self.rank}] {line}\n".encode())
        os._exit(code)  # the main thread is inside MPI and will not return

    def _heard(self, seconds: float) -> int:
        """A signal that ends a run, if received within ``seconds``; else 0."""
        if not select.select([self._signals], [], [], seconds)[0]:
            return 0
        return max((n for n in os.read(self._signals, 4096) if n in ENDING), default=0)


def watchdog_limit() -> float:
    """The limit in seconds, from the environment. Raises ``ConfigError``."""
    text = os.environ.get(WATCHDOG, "") or WATCHDOG_S
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise ConfigError("bad limit of the watchdog", where=WATCHDOG, found=repr(text), expected="seconds > 0")


@contextmanager
def watched_from_outside(limit: float) -> Iterator[None]:
    """End the process after ``limit`` seconds, with a traceback: MPI's init and finalize block all Python threads."""
    with suppress(AttributeError, ValueError, OSError):  # stderr is not a file
        faulthandler.dump_traceback_later(limit, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
