"""The command line: train, evaluate, predict, bench, verify, doctor.

stdout carries results, stderr notes and errors; every failure is one line and an exit code (see ``errors``).
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from . import benchmark, chart, doctor, options, record, report, verification
from .atomic_file import write_atomically
from .backend import Backend, select_backend
from .checkpoint import restore, save_checkpoint
from .crossover import summarise
from .dataset import Dataset, load_dataset
from .digit_image import FIELD, prepare_digit
from .errors import ConfigError, DeviceError, ModelError, TwoStrokeError
from .metrics import Result
from .mlp import MLP
from .model_file import load_model, save_model
from .run_folder import locked, writable_folder
from .settings import KEYS, Settings, as_integer, named, resolve
from .terminal import (
    ClosedPipe,
    Say,
    Stopped,
    complain,
    discard_stdout,
    encodes,
    hush,
    in_shell,
    live_epochs,
    say,
    stoppable,
    stoppable_after_work,
    tolerate_encodings,
    uninterrupted,
)
from .training import TrainingRun, evaluate
from .version import __version__

UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy of click inside a newer typer

CHECKPOINT: Final = "checkpoint.safetensors"

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


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


@app.command("train")
def _train(
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


@app.command("evaluate")
def _evaluate(
    model: options.Model,
    data: options.Data = None,
    device: options.Device = None,
    threads: options.Threads = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure a model on the test part of a data set: loss, accuracy, errors by class."""
    tell = hush if json else say
    backend = _select(device, threads)
    net, source = load_model(model, backend=backend), load_dataset(data or "mnist")
    _check_fit(net, source, model)
    for line in (report.device_line(backend), report.data_line(source), report.network_line(net)):
        tell(line)
    test = evaluate(net, source.test_images, source.test_labels)
    classes = record.class_counts(source.test_labels, net.predict(source.test_images), net.layers[-1])
    for line in report.class_table(classes):
        tell(line)
    result = record.evaluation_record(net, source, test, classes, model)
    errors = f"{result['errors']:,} errors in {result['samples']:,}"
    last = f"test accuracy {test.accuracy:.2%} ({errors}), test loss {test.loss:.4f}"
    say(record.to_json(result) if json else last)


@app.command("predict")
def _predict(
    model: options.Model,
    images: options.Images = None,
    index: options.Index = None,
    data: options.IndexData = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Tell what digit a picture shows, and how sure the network is."""
    if bool(images) == (index is not None):
        what = "both images and --index" if images else "neither an image nor --index"
        raise ConfigError("bad arguments", found=what, expected="one of them", remedy="See: twostroke predict --help.")
    if data is not None and index is None:
        raise ConfigError("--data without --index", where="--data", found=repr(data), remedy="Add --index I.")
    net = load_model(model)
    shape: tuple[int, ...] = (FIELD, FIELD)
    samples: list[tuple[str, Any, int | None]] = []
    if index is None:
        _check_takes_images(net, model)
        samples += [(str(path), prepare_digit(path), None) for path in images or []]
    else:
        source = load_dataset(data or "mnist")
        _check_fit(net, source, model)
        if not 0 <= index < len(source.test_images):
            last = len(source.test_images) - 1
            raise ConfigError("no such sample", where="--index", found=index, expected=f"0..{last} in {source.name}")
        name, shape = f"{source.name} test sample {index}", source.image_shape
        samples.append((name, source.test_images[index : index + 1], int(source.test_labels[index])))
    plain = not encodes(report.BLOCKS)
    predictions = []
    for title, pixels, label in samples:
        outputs = net.predict_proba(pixels)[0]
        predictions.append(record.prediction_record(title, outputs, label))
        for line in report.prediction_lines(predictions[-1], pixels.reshape(shape), plain=plain):
            (hush if json else say)(line)
    if json:
        say(record.to_json({"model": str(model), "output": net.output, "predictions": predictions}))


@app.command("bench")
def _bench(
    layers: options.BenchLayers = None,
    batch_sizes: options.BatchSizes = None,
    devices: options.Devices = None,
    seconds: options.Seconds = None,
    threads: options.Threads = None,
    out: options.BenchOut = None,
    json: options.BenchJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure training speed over batch sizes on every device, and from where a GPU pays."""
    tell, to_tell = hush if json else say, complain if json else say
    try:
        config = benchmark.BenchConfig.parse(layers, batch_sizes, devices, threads, seconds)
        found, missing = benchmark.find_devices(config)
    except ConfigError as error:
        flags = {name: f"--{name.replace('_', '-')}" for name in ("layers", "batch_sizes", "devices", "threads")}
        raise named(error, {**flags, "seconds": "--seconds", "device": "--devices"}) from error
    folder = writable_folder(Path(out or "runs/bench"), "--out")
    for device, reason in missing.items():
        to_tell(f"not measured: {device}: {reason}")
    tell(f"measuring {', '.join(found)}: about {config.seconds * len(found):.0f} s")
    result = summarise(benchmark.measure(config, found), missing)
    for line in [*chart.table(result), result["verdict"]]:
        tell(line)
    files = {"bench.json": f"{record.to_json(result)}\n".encode()}
    try:
        files["bench.png"] = chart.png(result)
    except ImportError as error:
        complain(f"note: no picture: {error}. Install matplotlib with: pip install matplotlib")
    for name, content in files.items():
        try:
            write_atomically(folder / name, content)
        except OSError as error:
            raise ConfigError("cannot write", where=f"--out {folder / name}", found=error.strerror) from error
    tell(f"written: {', '.join(str(folder / name) for name in files)}")
    if json:
        say(record.to_json(result["records"]))


@app.command("verify")
def _verify(
    check: options.Verification,
    device: options.Device = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Prove it on this machine: the gradients, that devices agree, that a resumed run is exact."""
    found = verification.verify(check, _select(device, "1"))
    for line in [record.to_json(found.record())] if json else [report.device_line(found.backend), *found.lines()]:
        say(line)
    found.require()


@app.command("doctor")
def _doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what this machine has, which device is chosen, why, and how fast it is."""
    facts = doctor.examine()
    for line in [record.to_json(facts)] if json else doctor.lines(facts):
        say(line)


def _select(device: str | None, threads: str | None) -> Backend:
    try:
        return select_backend(device or "auto", as_integer(threads or "auto"))
    except ConfigError as error:
        raise named(error, {"device": "--device", "threads": "--threads"}) from error


def _check_fit(net: MLP, data: Dataset, model: Path) -> None:
    if data.n_features != net.layers[0] or data.n_classes > net.layers[-1]:
        raise ModelError(
            "the model does not fit the data",
            where=model,
            found=f"{net.layers[0]} inputs and {net.layers[-1]} outputs",
            expected=f"{data.n_features} inputs and {data.n_classes} outputs for {data.name}",
            remedy="Name the data that it was trained on.",
        )


def _check_takes_images(net: MLP, model: Path) -> None:
    if net.layers[0] != FIELD * FIELD:
        raise ModelError(
            "the model takes no pictures of 28 x 28",
            where=model,
            found=f"{net.layers[0]} inputs",
            expected=f"{FIELD * FIELD}",
            remedy="Use --index I --data PATH.",
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (by default the process's own) and return its exit code."""
    words = list(sys.argv[1:] if args is None else args)
    tolerate_encodings()
    try:
        with stoppable(), warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow: DivergenceError says it better
            warnings.showwarning = lambda message, *_, **__: complain(f"note: {message}")
            code = app(words, prog_name="twostroke", standalone_mode=False, obj=words)
        return code if isinstance(code, int) else 0
    except (ClosedPipe, SystemExit):  # SystemExit: rich and click, when their own writing meets a closed pipe
        discard_stdout()
        return ClosedPipe.exit_code
    except (Exception, Stopped, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exc()
        line, code = _explain(error)
        complain(line)
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
