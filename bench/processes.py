"""A command in a process group of its own, with a time limit that also ends whatever the command started."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

TIMED_OUT: Final = 124  # as timeout(1) says it
_running: set[int] = set()  # the process groups of commands, from all threads


class Done(NamedTuple):
    """How a command ended, and what it printed until then."""

    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """Its failure in a line."""
        if self.code == TIMED_OUT:
            return "timed out"
        lines = self.err.strip().splitlines()
        return f"exit code {self.code}: {lines[-1] if lines else 'no output'}"


def run(
    command: Sequence[str], seconds: float, *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Done:
    """Run it to its end, or for so many seconds; then nothing of it is left."""
    # Files, not pipes: a pipe ends when the last process that holds it does, and compilers leave workers behind. A
    # group, not a session: whoever ends our session ends these with it.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=cwd, process_group=0
        )
        _running.add(child.pid)
        late = threading.Event()
        # A wait with a limit would look twenty times a second, and a command's time would be a multiple of that.
        limit = threading.Timer(seconds, _end_late, [child.pid, late])
        limit.start()
        try:
            code = child.wait()
        finally:
            limit.cancel()
            _end(child.pid)
            child.wait()
            _running.discard(child.pid)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Done(TIMED_OUT if late.is_set() else code, *texts)


def end_all() -> None:
    """End the commands of all threads, with everything that they started."""
    for group in list(_running):
        _end(group)


def _end_late(group: int, late: threading.Event) -> None:
    late.set()
    _end(group)


def _end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def bind(threads: int) -> list[int]:
    """Bind this process and its children to the first ``threads`` cores it may use."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise SystemExit(f"--threads {threads}: this process may use {len(cores)} cores")
    os.sched_setaffinity(0, cores[:threads])
    return cores[:threads]
