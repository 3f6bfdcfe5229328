"""Input and output: lines on stdout, notes and errors on stderr, a progress bar, and the signals that end a run."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeAlias, cast

from ..errors import TwoStrokeError
from ..signals import handled

Say: TypeAlias = Callable[[str], None]
NAME: Final = "twostroke"


class Stopped(BaseException):
    """A signal of ``ENDING``. Not an Exception, so that no ``except Exception`` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class ClosedPipe(BaseException):
    """The reader of stdout is gone. The exit code is that of a program killed by SIGPIPE."""

    exit_code = 128 + 13  # SIGPIPE, which Windows does not have


def say(line: str) -> None:
    """Print a line on stdout and flush. Control characters (a path may hold any) are escaped."""
    try:
        print(_one_line(line), flush=True)
    except BrokenPipeError:
        raise ClosedPipe from None
    except OSError as error:
        discard(sys.stdout)
        raise TwoStrokeError("cannot write the output", where="standard output", found=error.strerror) from error


def hush(line: str) -> None:
    """Say nothing."""


def complain(line: str) -> None:
    """Print a line on stderr; ignore that it is closed."""
    try:
        print(_one_line(" ".join(line.splitlines())), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)  # what is left in its buffer would make Python end with exit code 120


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def in_shell(path: Path | str) -> str:
    """A path as one word of a shell's command line."""
    text = str(path)
    return shlex.quote(text) if text.isprintable() else f"${text!a}"


def at_home(word: str) -> str:
    """A word of the command line with the home folder for its ~, which no shell replaces in --out=~/runs."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{flag}{equals}{os.path.expanduser(value)}" if value.startswith("~/") else word


def program() -> str:
    """How this program was called, as a shell takes it: twostroke, .venv/bin/twostroke, python -m twostroke."""
    called = Path(sys.argv[0])
    words = [NAME]
    if called.name == "__main__.py" and called.parent.name == NAME:
        words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    elif called.name == NAME and called.resolve() != Path(shutil.which(NAME, path=_users_path()) or "").resolve():
        words = [sys.argv[0]]
    return " ".join(map(in_shell, words))


def _users_path() -> str:
    """PATH without what uv puts before it for uvx and `uv run`: the shell that called them does not find that."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    added = "UV" in os.environ and folders[0] == str(Path(sys.prefix) / "bin")
    return os.pathsep.join(folders[1:] if added else folders)


def fitted(line: str, indent: int) -> list[str]:
    """On a terminal, the line broken at words, its second part and those after it indented; else the line."""
    if not (sys.stdout and sys.stdout.isatty()):
        return [line]
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.wrap(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


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


def discard(stream: Any) -> None:
    """Redirect stdout or stderr to /dev/null, so that the interpreter's flush at exit raises nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Screen:
    """stdout for rich. Once the terminal is closed nothing is shown: a signal ends the run in good order."""

    def __init__(self) -> None:
        self._stream = sys.stdout  # rich puts itself in the place of sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            discard(self._stream)
        return len(text)


@contextlib.contextmanager
def live_epochs(epochs: int, done: Callable[[], float]) -> Iterator[Say]:
    """Yield a function that prints an epoch's line, if it is not "", above a progress bar; without a terminal there is
    no bar. ``done`` is the number of epochs so far, with parts; the bar's own thread asks. Percentages are bold."""
    if not (sys.stdout and sys.stdout.isatty()):
        yield lambda line: say(line) if line else None
        return
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    console = Console(file=cast(IO[str], _Screen()), soft_wrap=True, highlight=False, markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs, left"), TimeRemainingColumn())

    class Bar(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            for task in self.task_ids:
                self.update(task, completed=done())
            return super().get_renderables()

    with Bar(SpinnerColumn(), TextColumn("training"), *columns, console=console, transient=True) as bar:
        bar.add_task("training", total=epochs)

        def say_above(line: str) -> None:
            if line:
                shown = Text(_one_line(line))
                shown.highlight_regex(r"[0-9.]+%", "bold")
                console.print(shown)

        yield say_above


def stoppable() -> contextlib.AbstractContextManager[None]:
    """Signals raise ``Stopped`` inside the block."""

    def stop(number: int, _: Any) -> NoReturn:
        raise Stopped(number)

    return handled(stop)


def stoppable_after_work(request: Callable[[int], None]) -> contextlib.AbstractContextManager[None]:
    """The first signal inside the block calls ``request``; a second one raises ``Stopped``.

    SIGXCPU comes again each second, as long as the process saves what it has.
    """
    seen: list[int] = []

    def stop(number: int, _: Any) -> None:
        if seen and signal.Signals(number).name == "SIGXCPU":
            return
        if seen:
            raise Stopped(number)
        seen.append(number)
        request(number)

    return handled(stop)
