"""A training job: prepare, train, save; and say each in the form that was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..backend import Backend, select_backend
from ..data.bundled import FIELD
from ..data.dataset import Dataset
from ..data.doubts import doubts, learned_nothing
from ..engine.evaluation import evaluate
from ..engine.mlp import MLP
from ..engine.targets import Result
from ..engine.training import EpochRecord, TrainingRun
from ..engine.weights import sample_weights
from ..errors import ConfigError, DivergenceError, ModelError
from ..files.regular_file import absolute
from ..measure.quicker import advice
from ..models.checkpoint import restore, save_checkpoint
from ..models.model_file import save_model
from ..provenance import to_json, versions
from ..ranks.communicator import Communicator
from ..ranks.data_parallel import DistributedRun, share
from ..runs import record
from ..runs.epoch_log import EpochLog, log_path
from ..runs.folder import (
    CHECKPOINT,
    LAST,
    MODEL,
    PAGE,
    RECORD,
    locked,
    set_aside,
    would_be_writable,
    writable_folder,
    write_file,
)
from ..runs.settings import Settings
from ..show import text
from ..show.findings import examine
from ..signals import uninterrupted
from . import doubt
from .terminal import Say, Stopped, fitted, hush, in_shell, live_epochs, program, say, stoppable_after_work

MOST_LINES, FIRST_LINES = 30, 10  # epochs that have a line of the log: of many, the first and each so many-th


@dataclass
class Job:
    """What was asked for; the settings are suited to the data as soon as it is read."""

    settings: Settings
    ranks: Communicator
    distributed: bool
    every: int | None  # steps between checkpoints
    resume: bool
    page: bool  # whether to write one
    log: str
    quiet: bool
    words: list[str]  # of the command line

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            where, expected = "--checkpoint-every", "N >= 1 steps"
            raise ConfigError("bad interval", where=where, found=self.every, expected=expected)

    @property
    def tell(self) -> Say:
        """Says a line of the log, where there is one."""
        return hush if self.quiet or self.log != "text" else say

    def tell_row(self, line: str) -> None:
        """Say a line of the head of the log. A rank's is whole: its terminal is the MPI launcher's, not the user's."""
        for part in [line] if self.distributed else fitted(line, text.KEYS):
            self.tell(part)

    @property
    def digest(self) -> str | None:
        """That of the model that the run starts from, if it does."""
        return self.settings.start.digest if self.settings.start else None

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.ranks.rank == 0

    def lock(self, folder: Path) -> AbstractContextManager[None]:
        """Hold the folder, where this process writes to it."""
        return locked(folder, self.settings.names["out"]) if self.writes and folder.exists() else nullcontext()

    def log_file(self, folder: Path) -> Path | None:
        """Where the epochs are logged too, if anywhere; checked."""
        path = self.settings.log_csv
        return log_path(path, self.settings.names["log_csv"], folder) if path and self.writes else None

    def steps_to_checkpoint(self, steps: int) -> int | None:
        """How many steps to go until the next checkpoint; None: none is due."""
        return self.every and self.every - steps % self.every

    def make_run(self, net: MLP, data: Dataset, backend: Backend) -> TrainingRun:
        """The run before its first step: of this process alone, or of all ranks."""
        run = self._make_run(net, data, backend)
        run.started_from = self.digest
        return run

    def _make_run(self, net: MLP, data: Dataset, backend: Backend) -> TrainingRun:
        if not self.distributed:
            run = TrainingRun(net, data, self.settings.config, backend)
            if self.settings.device == "auto" and (line := advice(run, data, self.settings.threads)):
                warnings.warn(line, stacklevel=2)
            return run
        facts: dict[str, Any] = {**versions(), "--checkpoint-every": self.every, "--tf32": self.settings.tf32}
        facts |= {"device": backend.name, "--from": self.digest}
        run = DistributedRun(net, data, self.settings.config, backend, communicator=self.ranks, facts=facts)
        self.tell_row(text.ranks_line(run.describe(), backend))
        if self.ranks.crowded:
            warnings.warn(text.crowded_line(self.ranks.local_size, self.ranks.host_cores), stacklevel=2)
        return run


def run_training(job: Job) -> None:
    """Prepare; train to the end, or to a signal; save."""
    data, net, backend = _prepare(job)
    folder, out = job.settings.folder(data), job.settings.names["out"]
    if job.writes:
        writable_folder(folder, out)
    file = job.log_file(folder)
    with job.lock(folder):
        run = job.make_run(net, data, backend)
        if job.resume:
            _resume(job, run, data, folder)
        if job.writes and not run.done:
            for name in (RECORD, LAST):
                set_aside(folder / name, out)
        log = EpochLog(file, job.settings.names["log_csv"], run.history) if file else None
        with _stopping(job, run, data, folder / CHECKPOINT) as save:
            with _epochs_told(job, run, data) as tell_epoch:
                for epoch in run.history:
                    tell_epoch(epoch)
                while not run.done and not run.stopping:
                    done = run.advance(job.steps_to_checkpoint(run.steps))
                    if done and log:
                        log.append(done)
                    if done and (run.done or not run.stopping):  # a terminal was closed: save before saying anything
                        tell_epoch(done)
                    due = run.done if job.every is None else run.done or run.steps % job.every == 0
                    # A run that was resumed has a checkpoint, which is to end with it.
                    if due and (job.every or job.resume) and not run.stopping:
                        save()
            if job.writes and run.done:  # a signal changes nothing any more
                # Not the last record's: with --patience the best parameters were brought back.
                _save(job, run, data, evaluate(net, data.test_images, data.test_labels), folder)


def rehearse(job: Job) -> None:
    """All that a run does before its first step, but for making its folder; then say what would follow."""
    data, net, backend = _prepare(job)
    folder = would_be_writable(job.settings.folder(data), job.settings.names["out"])
    file = job.log_file(folder)
    with job.lock(folder):
        run = job.make_run(net, data, backend)
        if job.resume:
            _resume(job, run, data, folder)
        last = [LAST] * (run.config.keep == "best")
        names = [MODEL, *last, RECORD] + [CHECKPOINT] * bool(job.every) + [PAGE] * job.page
        files = [*(folder / name for name in names), *([file] if file else [])]
        plan = record.plan_record(run, data, job.settings.effective(data, net), files)
    lines = text.plan_lines(plan)
    for line in [to_json(plan)] if job.log != "text" else lines[-1:] if job.quiet else lines:
        say(line)


def _prepare(job: Job) -> tuple[Dataset, MLP, Backend]:
    """The data, the network on the host, and the backend; each with its line of the log."""
    settings, ranks, tell = job.settings, job.ranks, job.tell_row
    # Ranks on one machine divide its cores: their threads would wait for each other on a shared core.
    threads = ranks.cores if job.distributed and settings.threads == "auto" else settings.threads
    place = {"local_rank": ranks.local_rank, "local_size": ranks.local_size}
    backend = select_backend(settings.device, threads, tf32=settings.tf32, **place)
    tell(text.device_line(backend))
    data = settings.load()
    for line in text.data_lines(data):
        tell(line)
    doubt(doubts(data), strict=settings.strict)
    job.settings = settings = settings.suited_to(data)
    sample_weights(data, settings.config.class_weight)  # refuses what does not suit the data before a folder is made
    net = settings.make_network(data)
    if settings.start:
        tell(text.row("from", f"{settings.start.path}, SHA-256 {settings.start.digest[:12]}..."))
        if Path(settings.start.path).resolve() == (settings.folder(data) / MODEL).resolve():
            where = f"{settings.names['from_model']} {settings.start.path}"
            what, remedy = "this run would replace the model that it starts from", "Choose another folder: --out DIR."
            raise ConfigError(what, where=where, remedy=remedy)
    tell(text.network_line(net))
    tell(text.settings_line(settings.config, settings.preset))
    return data, net, backend


def _resume(job: Job, run: TrainingRun, data: Dataset, folder: Path) -> None:
    """Put the run where the folder's checkpoint is, on every rank."""
    found = restore(run, data, folder / CHECKPOINT) if job.writes else []
    if isinstance(run, DistributedRun):
        share(run)
    for line in found or [f"no checkpoint in {folder}: starting from the beginning"]:
        job.tell(line)


@contextmanager
def _epochs_told(job: Job, run: TrainingRun, data: Dataset) -> Iterator[Callable[[EpochRecord], None]]:
    """A function that says an epoch in the format that was asked for."""
    config = job.settings.config
    measured = {"train": True, "val": config.val_size, "test": len(data.test_images)}
    if job.quiet or job.log == "record":
        yield lambda _: None
        return
    if job.log == "json":
        yield lambda epoch: say(record.epoch_json(epoch))
        return
    names = [name for name, one in measured.items() if one]
    say(text.epoch_head(names, config.epochs, regression=data.regression))
    every = max(1, config.epochs // MOST_LINES)

    def tell_line(tell: Say, epoch: EpochRecord) -> None:
        shown = epoch.epoch <= FIRST_LINES or epoch.epoch % every == 0 or epoch.epoch == config.epochs
        tell(text.epoch_line(epoch) if shown else "")

    if job.distributed:  # no bar: an MPI launcher gives its ranks a terminal, whatever its own output is
        yield partial(tell_line, lambda line: say(line) if line else None)
    else:
        with live_epochs(config.epochs, lambda: run.epoch + run.batch / len(run.bounds)) as tell:
            yield partial(tell_line, tell)


@contextmanager
def _stopping(job: Job, run: TrainingRun, data: Dataset, checkpoint: Path) -> Iterator[Callable[[], None]]:
    """Let a signal within the block stop the run after its step; then save, and raise ``Stopped``, which says how to go
    on. A run that is done is not stopped. Yields the function that saves a checkpoint."""
    signals: list[int] = []

    def request(number: int) -> None:
        signals.append(number)
        run.stopping = True

    def save() -> None:
        if job.writes:
            save_checkpoint(run, data, checkpoint)

    with stoppable_after_work(request):
        yield save
        if run.stopping and not run.done:
            save()
            number = max(max(numbers, default=0) for numbers in job.ranks.allgather_obj(signals))
            launcher = f"mpirun -n {job.ranks.size} " if job.distributed else ""
            words = [*(word for word in job.words if word != "--resume"), "--resume"]
            stop = Stopped(number)
            stop.add_note(f"after step {run.steps}. Go on with: {launcher}{program()} {' '.join(map(in_shell, words))}")
            raise stop


def _save(job: Job, run: TrainingRun, data: Dataset, test: Result, folder: Path) -> None:
    """Write the model, the record and the page, and say where they are and what to do next."""
    net, settings, tell, model = run.net, job.settings, job.tell, folder / MODEL
    config, preset = settings.config, settings.preset
    result = record.run_record(net, data, config, preset, run.history, test, model, settings.data)
    options = settings.data_options
    result["data_options"] = options | ({"test": absolute(options["test"])} if "test" in options else {})
    result |= {"kept_epoch": run.kept_epoch} if run.kept_epoch else {}
    result |= {"from_model": settings.start.record} if settings.start else {}
    if isinstance(run, DistributedRun):
        result["distributed"] = run.describe()
        tell(text.summing_line(result["distributed"]))
    origin = {name: value for name, value in result.items() if name not in ("history", "model")}
    with uninterrupted():
        save_model(net, model, origin)
        if config.keep == "best":
            _save_last(run, folder / LAST, origin)
        _write_record(result, folder / RECORD, model)
    tell(text.row("model", str(model)))
    if run.kept_epoch is not None:
        tell(text.row("", text.kept_words(run.history, run.kept_epoch)))
    if config.keep == "best":
        tell(text.row("last", str(folder / LAST)))
    if settings.log_csv:
        tell(text.row("epochs", settings.log_csv))
    if job.page:
        from .report import write_page  # with the pictures; most runs need none

        write_page(examine(result, net, data), folder, tell)
    source = "" if settings.data == "mnist" else f" {in_shell(settings.data)}"
    tell(text.row("next", f"{program()} evaluate {in_shell(model)}{source}"))
    where = "IMAGE.png" if net.layers[0] == FIELD * FIELD else f"--index 0 --data{source}"
    tell(text.row("", f"{program()} predict {in_shell(model)} {where}"))
    lines = {"text": text.result_line, "record": to_json, "json": record.result_json}
    say(lines[job.log](result))
    doubt(learned_nothing(test, data.test_labels), strict=settings.strict, error=DivergenceError)


def _save_last(run: TrainingRun, path: Path, origin: dict[str, Any]) -> None:
    """Write the model of the last epoch, where that of the best one was brought back."""
    net = deepcopy(run.net)
    net.parameters = run.best
    own = {name: value for name, value in run.history[-1].values.items() if name.startswith("test_")}
    others = {name: value for name, value in origin.items() if not name.startswith("test_")}
    save_model(net, path, {**others, **own, "kept_epoch": run.epoch})


def _write_record(result: dict[str, Any], path: Path, model: Path) -> None:
    data = record.record_bytes(result, path, model)
    write_file(path, data, "the record", ModelError, f"The model is saved in {model}.")
