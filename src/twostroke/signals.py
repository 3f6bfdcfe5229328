"""Signals that wait until work that must not be torn is done. Python delivers them to the main thread only."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

# Those that end a run; Windows has the first two.
ENDING: Final = tuple(n for n in signal.Signals if n.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU"))

HANGUP: Final = getattr(signal, "SIGHUP", None)


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None], numbers: tuple[int, ...] = ENDING) -> Iterator[None]:
    """Within the block, ``handler`` takes these signals; outside the main thread, nothing changes.

    Under nohup a SIGHUP is ignored, and stays so.
    """
    heard = numbers if threading.current_thread() is threading.main_thread() else ()
    heard = tuple(n for n in heard if n != HANGUP or signal.getsignal(n) is not signal.SIG_IGN)
    previous = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer signals to the end of the block."""
    waiting: list[int] = []
    with handled(lambda number, _: waiting.append(number)):
        yield
    for number in waiting[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def late_interrupt(request: Callable[[bool], None]) -> Iterator[None]:
    """Where SIGINT would raise ``KeyboardInterrupt``: call ``request(True)`` instead, and at the end of the block
    ``request(False)``, then raise it."""
    waiting: list[int] = []

    def note(number: int, _: Any) -> None:
        waiting.append(number)
        request(True)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with handled(note, (signal.SIGINT,) if usual else ()):
        yield
    if waiting:
        request(False)
        raise KeyboardInterrupt
