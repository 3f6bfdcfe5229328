"""The command line: the commands' names, and every failure as one line and an exit code (see ``errors``).

stdout carries results, stderr notes and errors.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from .commands.mpi_job import RefusedElsewhere, in_job, leave, refuse_several
from .commands.options import Group, add
from .commands.terminal import (
    NAME,
    ClosedPipe,
    Stopped,
    at_home,
    complain,
    discard,
    program,
    say,
    stoppable,
    tolerate_encodings,
)
from .errors import DeviceError, TwoStrokeError
from .version import __version__

UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy of click inside a newer typer
COMMANDS: Final = ("train", "evaluate", "predict", "draw", "report", "export", "bench", "verify", "doctor")


def app_of(words: Sequence[str]) -> typer.Typer:
    """The program with the command that ``words`` begin with, or with all: each takes its time to import."""
    app = typer.Typer(cls=Group, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_twostroke)
    for name in {*words[:1]} & {*COMMANDS} or COMMANDS:
        add(app, getattr(import_module(f".commands.{name}", __package__), name))
    return app


def _twostroke(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Train multilayer perceptrons on a CUDA GPU or a CPU, and use them.

    Start with [bold]twostroke train[/bold]: it trains on MNIST in seconds and says how to go on.
    """
    if version:
        say(f"twostroke {__version__}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help(), flush=True)
    elif ctx.invoked_subcommand != "train" and "--help" not in ctx.obj:
        refuse_several(ctx.invoked_subcommand)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (by default the process's own) and return its exit code."""
    words = [at_home(word) for word in (sys.argv[1:] if args is None else args)]
    if own_process := args is None and "--debug" not in words:
        sys.unraisablehook = lambda _: None  # once a GPU is lost every destructor of CuPy fails
    tolerate_encodings()
    try:
        with stoppable(), warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow: DivergenceError says it better
            warnings.showwarning = lambda message, *_, **__: complain(f"note: {message}")
            code = app_of(words)(words, prog_name=NAME, standalone_mode=False, obj=words)
        return code if isinstance(code, int) else 0
    except (ClosedPipe, SystemExit) as end:
        # Typer raises SystemExit when it has completed a word, rich and click when stdout is closed.
        if isinstance(end, SystemExit) and not end.code:
            return 0
        discard(sys.stdout)
        line = f"error: ended by {type(end).__name__}" if in_job() else None
        return leave(line, ClosedPipe.exit_code)
    except RefusedElsewhere as end:
        return end.exit_code
    except (Exception, Stopped, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exc()
        line, code = _explain(error)
        code = leave(line, code, signalled=not isinstance(error, Exception))
        if own_process and isinstance(error, DeviceError):
            sys.stdout.flush()
            os._exit(code)  # CuPy's destructors would print a traceback each
        return code


def _explain(error: BaseException) -> tuple[str, int]:
    """The line and the exit code that an exception means."""
    if isinstance(error, MemoryError):
        remedy = "Use a smaller network (--layers) or batch (--batch-size)."
        error = DeviceError("out of memory", where=str(error) or None, remedy=remedy)
    if isinstance(error, TwoStrokeError):
        return f"error: {error}", error.exit_code
    if isinstance(error, UsageError):
        context = getattr(error, "ctx", None)
        command = program() + (context.command_path.removeprefix(NAME) if context else "")
        message = error.format_message()
        return f"error: {message}{'' if message.endswith(('.', '?')) else '.'} See: {command} --help", 2
    if isinstance(error, Stopped):
        return " ".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT", 130
    return f"error: unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)", 1
