"""Input and output: lines on stdout, notes and errors on stderr, a progress bar, and the signals that end a run."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..errors import TwoStrokeError
from ..signals import handled

Say: TypeAlias = Callable[[str], None]


class Stopped(BaseException):
    """SIGINT or SIGTERM. Not an Exception, so that no ``except Exception`` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class ClosedPipe(BaseException):
    """The reader of stdout is gone. The exit code is that of a program killed by SIGPIPE."""

    exit_code = 128 + signal.SIGPIPE


def say(line: str) -> None:
    """Print a line on stdout and flush. Control characters (a path may hold any) are escaped."""
    try:
        print(_one_line(line), flush=True)
    except BrokenPipeError:
        raise ClosedPipe from None
    except OSError as error:
        discard_stdout()
        raise TwoStrokeError("cannot write the output", where="standard output", found=error.strerror) from error


def hush(line: str) -> None:
    """Say nothing."""


def complain(line: str) -> None:
    """Print a line on stderr; ignore that it is closed."""
    with contextlib.suppress(OSError):
        print(_one_line(" ".join(line.splitlines())), file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def in_shell(path: Path | str) -> str:
    """A path as one word of a shell's command line."""
    text = str(path)
    return shlex.quote(text) if text.isprintable() else f"${text!a}"


def encodes(text: str) -> bool:
    """Whether stdout can show these characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def tolerate_encodings() -> None:
    """Escape the characters that stdout or stderr cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard_stdout() -> None:
    """Redirect stdout to /dev/null, so that the interpreter's flush at exit raises nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def live_epochs(epochs: int) -> Iterator[Say]:
    """Yield a function that prints an epoch's line and advances a progress bar; without a terminal there is no bar."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not (console.is_terminal and sys.stdout and sys.stdout.isatty()):
        yield say
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeElapsedColumn())
    with Progress(SpinnerColumn(), TextColumn("training"), *columns, console=console, transient=True) as bar:
        task = bar.add_task("training", total=epochs)

        def say_above(line: str) -> None:
            console.print(_one_line(line))
            bar.advance(task)

        yield say_above


def stoppable() -> contextlib.AbstractContextManager[None]:
    """SIGINT and SIGTERM raise ``Stopped`` inside the block."""

    def stop(number: int, _: Any) -> NoReturn:
        raise Stopped(number)

    return handled(stop)


def stoppable_after_work(request: Callable[[int], None]) -> contextlib.AbstractContextManager[None]:
    """The first SIGINT or SIGTERM inside the block calls ``request``; a second one raises ``Stopped``."""
    seen: list[int] = []

    def stop(number: int, _: Any) -> None:
        if seen:
            raise Stopped(number)
        seen.append(number)
        request(number)

    return handled(stop)
