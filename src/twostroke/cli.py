"""The command line: the commands' names, and every failure as one line and an exit code (see ``errors``).

stdout carries results, stderr notes and errors.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from .commands.bench import bench
from .commands.doctor import doctor
from .commands.draw import draw
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.predict import predict
from .commands.report import report
from .commands.terminal import ClosedPipe, Stopped, complain, discard_stdout, say, stoppable, tolerate_encodings
from .commands.train import train
from .commands.verify import verify
from .errors import ConfigError, DeviceError, TwoStrokeError
from .ranks.mpi import COMMAND, current, launched, speaks_before_mpi
from .version import __version__

RANK_0_FIRST_S: Final = 1.0
UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy of click inside a newer typer

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
for command in (train, evaluate, predict, draw, report, export, bench, verify, doctor):
    app.command()(command)


@app.callback(invoke_without_command=True)
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
    elif ctx.invoked_subcommand != "train" and launched()[1] > 1 and "--help" not in ctx.obj:
        raise ConfigError(
            "an MPI launcher started several processes that would each do the same",
            where=ctx.invoked_subcommand,
            found=f"{launched()[1]} processes",
            expected="one",
            remedy=f"Start it without the launcher; only training is shared: {COMMAND}.",
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (by default the process's own) and return its exit code."""
    words = list(sys.argv[1:] if args is None else args)
    if own_process := args is None and "--debug" not in words:
        sys.unraisablehook = lambda _: None  # once a GPU is lost every destructor of CuPy fails
    tolerate_encodings()
    try:
        with stoppable(), warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow: DivergenceError says it better
            warnings.showwarning = lambda message, *_, **__: complain(f"note: {message}")
            code = app(words, prog_name="twostroke", standalone_mode=False, obj=words)
        return code if isinstance(code, int) else 0
    except (ClosedPipe, SystemExit) as end:
        # Typer ends like this when it has completed a word, rich and click when nobody reads what they write.
        if isinstance(end, SystemExit) and not end.code:
            return 0
        discard_stdout()
        line = f"error: ended by {type(end).__name__}" if current().size > 1 else None
        return _leave(line, ClosedPipe.exit_code, words)
    except (Exception, Stopped, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exc()
        line, code = _explain(error)
        code = _leave(line, code, words, alike=isinstance(error, UsageError))
        if own_process and isinstance(error, DeviceError):
            sys.stdout.flush()
            os._exit(code)  # CuPy's destructors would print a traceback each
        return code


def _leave(line: str | None, code: int, words: Sequence[str], *, alike: bool = False) -> int:
    """Say why, and return the exit code; a rank of an MPI job ends the whole job with it.

    What all ranks have found is rank 0's to say: the others wait, and are ended by its end. Before MPI has started
    nothing ends them; ``alike`` is what all of them must find.
    """
    ranks = current()
    joined = ranks.size > 1
    rank, size = (ranks.rank, ranks.size) if joined else launched()
    if rank:
        time.sleep(RANK_0_FIRST_S)
    if line and (joined or speaks_before_mpi(alike=alike or "--distributed" not in words)):
        complain(f"[rank {rank}] {line}" if size > 1 else line)
    ranks.abort(code)
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
        command = context.command_path if context else "twostroke"
        message = error.format_message()
        return f"error: {message}{'' if message.endswith(('.', '?')) else '.'} See: {command} --help", 2
    if isinstance(error, Stopped):
        return " ".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT", 130
    return f"error: unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)", 1
