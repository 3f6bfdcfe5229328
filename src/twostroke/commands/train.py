"""``twostroke train``: what was asked for. ``training_job`` does it."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Final

import typer

from ..errors import ConfigError, need
from ..provenance import to_json
from ..ranks.communicator import agree
from ..ranks.mpi import joined
from ..runs.config_file import to_toml
from ..runs.settings import Settings, named, resolve
from . import no_page, options
from .terminal import discard, program, say
from .training_job import Job, rehearse, run_training

SHOWN: Final = "# All settings of a run. In a FILE.toml: twostroke train --config FILE.toml"


@options.takes_settings
def train(
    ctx: typer.Context,
    *,
    config: options.Config = None,
    show_config: options.ShowConfig = False,
    checkpoint_every: options.CheckpointEvery = None,
    resume: options.Resume = False,
    report: options.Report = False,
    distributed: options.Distributed = False,
    dry_run: options.DryRun = False,
    log_format: options.LogFormat = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **flags: Any,
) -> None:
    """Train a network and save it. Without arguments: MNIST, preset fast, whose values are the defaults below.

    Ctrl-C, or a signal, ends the run after its step, with a checkpoint from which --resume goes on.
    """
    with joined(distributed) as ranks:
        if ranks.rank:  # rank 0 speaks for all
            discard(sys.stdout)
            warnings.simplefilter("ignore")
        log = _log_format(log_format, json)
        agree(ranks, {"--dry-run": dry_run, "--show-config": show_config, "--resume": resume})
        settings = resolve(flags, config)
        if report:
            need("plot", "--report")
            no_page(settings.task, "--report")
        try:
            if show_config:
                _show_config(settings, json=log != "text")
            else:
                job = Job(settings, ranks, distributed, checkpoint_every, resume, report, log, quiet, ctx.obj)
                (rehearse if dry_run else run_training)(job)
        except ConfigError as error:
            raise named(error, settings.names) from error


def _log_format(log_format: str | None, json: bool) -> str:
    """ "text", "json" (a line for each epoch and the result) or "record" (--json: one object)."""
    if log_format not in (None, "text", "json"):
        raise ConfigError("unknown format", where="--log-format", found=repr(log_format), expected="text or json")
    if json and log_format:
        found = f"--json and --log-format {log_format}"
        raise ConfigError(
            "bad arguments", found=found, expected="one of them", remedy=f"See: {program()} train --help."
        )
    return "record" if json else log_format or "text"


def _show_config(settings: Settings, *, json: bool) -> None:
    data = settings.load()
    settings = settings.suited_to(data)
    values = settings.effective(data, settings.make_network(data))
    for line in [to_json(values)] if json else [SHOWN, *to_toml(values)]:
        say(line)
