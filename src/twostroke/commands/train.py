"""``twostroke train``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import typer

from .. import options, record, report
from ..atomic_file import write_atomically
from ..backend import select_backend
from ..checkpoint import restore, save_checkpoint
from ..dataset import Dataset, load_dataset
from ..digit_image import FIELD
from ..errors import ConfigError, ModelError
from ..metrics import Result
from ..mlp import MLP
from ..model_file import save_model
from ..run_folder import locked, writable_folder
from ..settings import KEYS, Settings, named, resolve
from ..terminal import Say, Stopped, hush, in_shell, live_epochs, say, stoppable_after_work, uninterrupted
from ..training import TrainingRun, evaluate

CHECKPOINT: Final = "checkpoint.safetensors"


def train(
    ctx: typer.Context,
    data: options.Data = None,
    preset: options.Preset = None,
    config: options.Config = None,
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
    schedule: options.Schedule = None,
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
    try:
        _run_training(settings, ctx.obj, every=checkpoint_every, resume=resume, json=json, quiet=quiet or json)
    except ConfigError as error:
        raise named(error, settings.names) from error


def _run_training(
    settings: Settings, words: list[str], *, every: int | None, resume: bool, json: bool, quiet: bool
) -> None:
    tell = hush if quiet else say
    backend = select_backend(settings.device, settings.threads, tf32=settings.tf32)
    tell(report.device_line(backend))
    data = load_dataset(settings.data)
    tell(report.data_line(data))
    net = settings.make_network(data)
    tell(report.network_line(net))
    tell(report.settings_line(settings.config, settings.preset))
    folder = writable_folder(
        Path(settings.out or Path("runs") / (data.name.strip(".") or "data")), settings.names["out"]
    )
    with locked(folder, settings.names["out"]):
        run = TrainingRun(net, data, settings.config, backend)
        if resume:
            found = restore(run, data, folder / CHECKPOINT)
            for line in found or [f"no checkpoint in {folder}: starting from the beginning"]:
                tell(line)
        with live_epochs(settings.config.epochs) if not quiet else nullcontext(hush) as tell_epoch:
            for epoch in run.history:
                tell_epoch(report.epoch_line(epoch))
            _train_to_the_end(run, data, folder / CHECKPOINT, every, words, tell_epoch)
        # Not the last record's: with --patience the best parameters were brought back.
        test = evaluate(net, data.test_images, data.test_labels)
        _finish(settings, run, data, test, folder, json=json, tell=tell)


def _train_to_the_end(
    run: TrainingRun, data: Dataset, checkpoint: Path, every: int | None, words: list[str], tell_epoch: Say
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
                tell_epoch(report.epoch_line(epoch))
            if every and not signals and (run.done or run.steps % every == 0):
                save_checkpoint(run, data, checkpoint)
        if signals and not run.done:
            save_checkpoint(run, data, checkpoint)
            stop = Stopped(signals[0])
            again = " ".join(map(in_shell, ["twostroke", *(word for word in words if word != "--resume"), "--resume"]))
            stop.add_note(f"after step {run.steps}. Go on with: {again}")
            raise stop


def _finish(
    settings: Settings, run: TrainingRun, data: Dataset, test: Result, folder: Path, *, json: bool, tell: Say
) -> None:
    """Save what was learnt and say where it is."""
    net = run.net
    model = folder / "model.safetensors"
    result = record.run_record(net, data, settings.config, settings.preset, run.history, test, model)
    with uninterrupted():
        _save(net, model, result)
    tell(f"model: {model}")
    source = "" if settings.data == "mnist" else f" {in_shell(settings.data)}"
    tell(f"next: twostroke evaluate {in_shell(model)}{source}")
    where = "IMAGE.png" if net.layers[0] == FIELD * FIELD else f"--index 0 --data{source}"
    tell(f"      twostroke predict {in_shell(model)} {where}")
    say(record.to_json(result) if json else report.result_line(result))


def _save(net: MLP, model: Path, result: dict[str, Any]) -> None:
    save_model(net, model, {name: value for name, value in result.items() if name not in ("history", "model")})
    path = model.with_name("record.json")
    try:
        write_atomically(path, f"{record.to_json(result)}\n".encode())
    except OSError as error:
        remedy = f"The model is saved in {model}."
        raise ModelError("cannot write the record", where=path, found=error.strerror, remedy=remedy) from error
