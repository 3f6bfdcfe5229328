"""Ends a process that has waited too long for other ranks."""

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

WATCHDOG: Final = "TWOSTROKE_WATCHDOG"
WATCHDOG_S: Final = 600.0
HURRY_S: Final = 10.0  # the limit after a signal: who sends one does not want to wait for a rank that is frozen
TICKS: Final = 20  # in which the watchdog counts its limit: a process that was itself stopped has not waited


class Watchdog:
    """Ends this process when one of its calls has waited for other ranks longer than ``limit`` seconds.

    While Python's main thread waits inside MPI its handlers of signals do not run. So the watchdog hears of signals,
    too: the call that waits then, or else the next one, may last ``HURRY_S`` more.
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
        """A call begins that waits for others."""
        self._calls += 1
        self._waiting = True

    def end(self) -> None:
        """It has returned."""
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
        os._exit(code)  # the main thread is inside MPI and will not come back

    def _heard(self, seconds: float) -> int:
        """A signal that wants the end, or 0 if none has come for so long."""
        if not select.select([self._signals], [], [], seconds)[0]:
            return 0
        return max((n for n in os.read(self._signals, 4096) if n in (signal.SIGINT, signal.SIGTERM)), default=0)


def watchdog_limit() -> float:
    """Seconds, from the environment. Raises ``ConfigError``."""
    text = os.environ.get(WATCHDOG, "") or WATCHDOG_S
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise ConfigError("bad limit of the watchdog", where=WATCHDOG, found=repr(text), expected="seconds > 0")


@contextmanager
def watched_from_outside(limit: float) -> Iterator[None]:
    """The end of the process after ``limit`` seconds, with a traceback: MPI's first and last calls stop all threads."""
    with suppress(AttributeError, ValueError, OSError):  # a stderr that is no file
        faulthandler.dump_traceback_later(limit, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
