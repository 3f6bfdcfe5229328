"""``twostroke train``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import typer

from .. import options, pictures, record, report
from ..atomic_file import write_atomically
from ..backend import Backend, select_backend
from ..checkpoint import restore, save_checkpoint
from ..dataset import Dataset, load_dataset
from ..digit_image import FIELD
from ..errors import ConfigError, ModelError
from ..findings import examine
from ..metrics import Result
from ..mlp import MLP
from ..model_file import save_model
from ..run_folder import locked, would_be_writable, writable_folder
from ..settings import KEYS, Settings, named, resolve, to_toml
from ..terminal import Say, Stopped, hush, in_shell, live_epochs, say, stoppable_after_work, uninterrupted
from ..training import EpochRecord, TrainingRun, evaluate
from .report import write_page

CHECKPOINT: Final = "checkpoint.safetensors"
SHOWN: Final = "# All settings of a run. In a FILE.toml: twostroke train --config FILE.toml"


def train(
    ctx: typer.Context,
    data: options.Data = None,
    preset: options.Preset = None,
    config: options.Config = None,
    show_config: options.ShowConfig = False,
    layers: options.Layers = None,
    activation: options.Activation = None,
    loss: options.Loss = None,
    output: options.Output = None,
    init: options.Init = None,
    dtype: options.Dtype = None,
    optimizer: options.Optimizer = None,
    lr: options.Lr = None,
    momentum: options.Momentum = None,
    l2: options.L2 = None,
    dropout: options.Dropout = None,
    schedule: options.Schedule = None,
    warmup: options.Warmup = None,
    batch_size: options.BatchSize = None,
    epochs: options.Epochs = None,
    val_size: options.ValSize = None,
    patience: options.Patience = None,
    seed: options.Seed = None,
    device: options.Device = None,
    threads: options.Threads = None,
    tf32: options.TF32 = None,
    out: options.Out = None,
    checkpoint_every: options.CheckpointEvery = None,
    resume: options.Resume = False,
    report: options.Report = False,
    dry_run: options.DryRun = False,
    log_format: options.LogFormat = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a network and save it. Without arguments: MNIST, preset fast.

    SIGINT or SIGTERM ends the run after its step, with a checkpoint from which --resume goes on.
    """
    flags = {key: value for key, value in locals().items() if key in KEYS}
    settings = resolve(flags, config)
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ConfigError("bad interval", where="--checkpoint-every", found=checkpoint_every, expected="N >= 1 steps")
    log = _log_format(log_format, json)
    if report:
        pictures.require("--report")
    try:
        if show_config:
            _show_config(settings, json=log != "text")
        elif dry_run:
            _rehearse(settings, every=checkpoint_every, resume=resume, page=report, log=log, quiet=quiet)
        else:
            _run_training(settings, ctx.obj, every=checkpoint_every, resume=resume, page=report, log=log, quiet=quiet)
    except ConfigError as error:
        raise named(error, settings.names) from error


def _log_format(log_format: str | None, json: bool) -> str:
    """ "text", "json" (a line for each epoch and the result) or "record" (--json: one object)."""
    if log_format not in (None, "text", "json"):
        raise ConfigError("unknown format", where="--log-format", found=repr(log_format), expected="text or json")
    if json and log_format:
        found = f"--json and --log-format {log_format}"
        raise ConfigError("bad arguments", found=found, expected="one of them", remedy="See: twostroke train --help.")
    return "record" if json else log_format or "text"


def _show_config(settings: Settings, *, json: bool) -> None:
    data = load_dataset(settings.data)
    values = settings.effective(data, settings.make_network(data))
    for line in [record.to_json(values)] if json else [SHOWN, *to_toml(values)]:
        say(line)


def _rehearse(settings: Settings, *, every: int | None, resume: bool, page: bool, log: str, quiet: bool) -> None:
    """All that a run does before its first step, but for making its folder; then say what would follow."""
    tell = hush if quiet or log != "text" else say
    data, net, backend = _prepare(settings, tell)
    folder = would_be_writable(settings.folder(data), settings.names["out"])
    with locked(folder, settings.names["out"]) if folder.exists() else nullcontext():
        run = TrainingRun(net, data, settings.config, backend)
        if resume:
            _restore(run, data, folder, tell)
        names = ["model.safetensors", "record.json"] + [CHECKPOINT] * bool(every) + ["report.html"] * page
        files = [folder / name for name in names]
        plan = record.plan_record(run, data, settings.effective(data, net), files)
    lines = report.plan_lines(plan)
    for line in [record.to_json(plan)] if log != "text" else lines[-1:] if quiet else lines:
        say(line)


def _prepare(settings: Settings, tell: Say) -> tuple[Dataset, MLP, Backend]:
    backend = select_backend(settings.device, settings.threads, tf32=settings.tf32)
    tell(report.device_line(backend))
    data = load_dataset(settings.data)
    tell(report.data_line(data))
    net = settings.make_network(data)
    tell(report.network_line(net))
    tell(report.settings_line(settings.config, settings.preset))
    return data, net, backend


def _run_training(
    settings: Settings, words: list[str], *, every: int | None, resume: bool, page: bool, log: str, quiet: bool
) -> None:
    tell = hush if quiet or log != "text" else say
    data, net, backend = _prepare(settings, tell)
    folder = writable_folder(settings.folder(data), settings.names["out"])
    with locked(folder, settings.names["out"]):
        run = TrainingRun(net, data, settings.config, backend)
        if resume:
            _restore(run, data, folder, tell)
        with _epochs_told(settings.config.epochs, log, quiet) as tell_epoch:
            for epoch in run.history:
                tell_epoch(epoch)
            _train_to_the_end(run, data, folder / CHECKPOINT, every, words, tell_epoch)
        # Not the last record's: with --patience the best parameters were brought back.
        test = evaluate(net, data.test_images, data.test_labels)
        _finish(settings, run, data, test, folder, page=page, log=log, tell=tell)


def _restore(run: TrainingRun, data: Dataset, folder: Path, tell: Say) -> None:
    found = restore(run, data, folder / CHECKPOINT)
    for line in found or [f"no checkpoint in {folder}: starting from the beginning"]:
        tell(line)


@contextmanager
def _epochs_told(epochs: int, log: str, quiet: bool) -> Iterator[Callable[[EpochRecord], None]]:
    """Say each epoch in the format that was asked for."""
    if quiet or log == "record":
        yield lambda _: None
    elif log == "json":
        yield lambda epoch: say(record.epoch_json(epoch))
    else:
        with live_epochs(epochs) as tell:
            yield lambda epoch: tell(report.epoch_line(epoch))


def _train_to_the_end(
    run: TrainingRun,
    data: Dataset,
    checkpoint: Path,
    every: int | None,
    words: list[str],
    tell_epoch: Callable[[EpochRecord], None],
) -> None:
    """Work until the run is done; on a signal end the step, save, and raise ``Stopped`` with the way to go on."""
    signals: list[int] = []

    def request(number: int) -> None:
        signals.append(number)
        run.stopping = True

    with stoppable_after_work(request):
        while not run.done and not signals:
            epoch = run.advance(every - run.steps % every if every else None)
            if epoch:
                tell_epoch(epoch)
            if every and not signals and (run.done or run.steps % every == 0):
                save_checkpoint(run, data, checkpoint)
        if signals and not run.done:
            save_checkpoint(run, data, checkpoint)
            stop = Stopped(signals[0])
            again = " ".join(map(in_shell, ["twostroke", *(word for word in words if word != "--resume"), "--resume"]))
            stop.add_note(f"after step {run.steps}. Go on with: {again}")
            raise stop


def _finish(
    settings: Settings, run: TrainingRun, data: Dataset, test: Result, folder: Path, *, page: bool, log: str, tell: Say
) -> None:
    """Save what was learnt and say where it is."""
    net = run.net
    model = folder / "model.safetensors"
    config, preset = settings.config, settings.preset
    result = record.run_record(net, data, config, preset, run.history, test, model, settings.data)
    with uninterrupted():
        _save(net, model, result)
    tell(f"model: {model}")
    if page:
        write_page(examine(result, net, data), folder, tell)
    source = "" if settings.data == "mnist" else f" {in_shell(settings.data)}"
    tell(f"next: twostroke evaluate {in_shell(model)}{source}")
    where = "IMAGE.png" if net.layers[0] == FIELD * FIELD else f"--index 0 --data{source}"
    tell(f"      twostroke predict {in_shell(model)} {where}")
    lines = {"text": report.result_line, "record": record.to_json, "json": record.result_json}
    say(lines[log](result))


def _save(net: MLP, model: Path, result: dict[str, Any]) -> None:
    save_model(net, model, {name: value for name, value in result.items() if name not in ("history", "model")})
    path = model.with_name("record.json")
    try:
        write_atomically(path, f"{record.to_json(result)}\n".encode())
    except OSError as error:
        remedy = f"The model is saved in {model}."
        raise ModelError("cannot write the record", where=path, found=error.strerror, remedy=remedy) from error
