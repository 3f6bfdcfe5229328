"""A training job: prepare, train, save, and say each in the form that was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..backend import Backend, select_backend
from ..data.dataset import Dataset, load_dataset
from ..data.digit_image import FIELD
from ..engine.metrics import Result
from ..engine.mlp import MLP
from ..engine.training import EpochRecord, TrainingRun, evaluate
from ..errors import ConfigError, ModelError
from ..files.atomic_file import write_atomically
from ..models.checkpoint import restore, save_checkpoint
from ..models.model_file import save_model
from ..provenance import to_json, versions
from ..ranks.communicator import Communicator
from ..ranks.data_parallel import DistributedRun, share
from ..runs import record
from ..runs.folder import locked, set_aside, would_be_writable, writable_folder
from ..runs.settings import Settings
from ..show import text as report
from ..show.findings import examine
from .report import write_page
from .terminal import Say, Stopped, hush, in_shell, live_epochs, say, stoppable_after_work, uninterrupted

CHECKPOINT: Final = "checkpoint.safetensors"
RECORD: Final = "record.json"


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    settings: Settings
    ranks: Communicator
    distributed: bool
    every: int | None  # steps between checkpoints
    resume: bool
    page: bool  # whether to write a report
    log: str
    quiet: bool
    words: list[str]

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            where, expected = "--checkpoint-every", "N >= 1 steps"
            raise ConfigError("bad interval", where=where, found=self.every, expected=expected)

    @property
    def tell(self) -> Say:
        return hush if self.quiet or self.log != "text" else say

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return self.ranks.rank == 0

    def make_run(self, net: MLP, data: Dataset, backend: Backend) -> TrainingRun:
        if not self.distributed:
            return TrainingRun(net, data, self.settings.config, backend)
        facts = {**versions(), "--checkpoint-every": self.every, "--tf32": self.settings.tf32}
        facts["device"] = backend.name
        run = DistributedRun(net, data, self.settings.config, backend, communicator=self.ranks, facts=facts)
        self.tell(report.ranks_line(run.describe(), backend))
        if self.ranks.crowded:
            warnings.warn(report.crowded_line(self.ranks.local_size, self.ranks.host_cores), stacklevel=2)
        return run


def rehearse(job: Job) -> None:
    """All that a run does before its first step, but for making its folder; then say what would follow."""
    settings = job.settings
    data, net, backend = _prepare(job)
    folder = would_be_writable(settings.folder(data), settings.names["out"])
    with locked(folder, settings.names["out"]) if folder.exists() and job.writes else nullcontext():
        run = job.make_run(net, data, backend)
        if job.resume:
            _restore(run, data, folder, job)
        names = ["model.safetensors", RECORD] + [CHECKPOINT] * bool(job.every) + ["report.html"] * job.page
        files = [folder / name for name in names]
        plan = record.plan_record(run, data, settings.effective(data, net), files)
    lines = report.plan_lines(plan)
    for line in [to_json(plan)] if job.log != "text" else lines[-1:] if job.quiet else lines:
        say(line)


def _prepare(job: Job) -> tuple[Dataset, MLP, Backend]:
    settings, ranks, tell = job.settings, job.ranks, job.tell
    # Ranks on one machine divide its cores: threads of theirs that shared a core would wait for each other.
    threads = ranks.cores if job.distributed and settings.threads == "auto" else settings.threads
    place = {"local_rank": ranks.local_rank, "local_size": ranks.local_size}
    backend = select_backend(settings.device, threads, tf32=settings.tf32, **place)
    tell(report.device_line(backend))
    data = load_dataset(settings.data)
    tell(report.data_line(data))
    net = settings.make_network(data)
    tell(report.network_line(net))
    tell(report.settings_line(settings.config, settings.preset))
    return data, net, backend


def run_training(job: Job) -> None:
    settings = job.settings
    data, net, backend = _prepare(job)
    folder = settings.folder(data)
    if job.writes:
        folder = writable_folder(folder, settings.names["out"])
    with locked(folder, settings.names["out"]) if job.writes else nullcontext():
        run = job.make_run(net, data, backend)
        if job.resume:
            _restore(run, data, folder, job)
        if job.writes and not run.done:
            set_aside(folder / RECORD, settings.names["out"])
        with _epochs_told(job) as tell_epoch:
            for epoch in run.history:
                tell_epoch(epoch)
            _train_to_the_end(job, run, data, folder / CHECKPOINT, tell_epoch)
        if job.writes:
            # Not the last record's: with --patience the best parameters were brought back.
            test = evaluate(net, data.test_images, data.test_labels)
            _finish(job, run, data, test, folder)


def _restore(run: TrainingRun, data: Dataset, folder: Path, job: Job) -> None:
    found = restore(run, data, folder / CHECKPOINT) if job.writes else []
    if isinstance(run, DistributedRun):
        share(run)
    for line in found or [f"no checkpoint in {folder}: starting from the beginning"]:
        job.tell(line)


@contextmanager
def _epochs_told(job: Job) -> Iterator[Callable[[EpochRecord], None]]:
    """Say each epoch in the format that was asked for."""
    if job.quiet or job.log == "record":
        yield lambda _: None
    elif job.log == "json":
        yield lambda epoch: say(record.epoch_json(epoch))
    elif job.distributed:  # no bar: an MPI launcher gives its ranks a terminal, whatever its own output is
        yield lambda epoch: say(report.epoch_line(epoch))
    else:
        with live_epochs(job.settings.config.epochs) as tell:
            yield lambda epoch: tell(report.epoch_line(epoch))


def _train_to_the_end(
    job: Job, run: TrainingRun, data: Dataset, checkpoint: Path, tell_epoch: Callable[[EpochRecord], None]
) -> None:
    """Work until the run is done; on a signal end the step, save, and raise ``Stopped`` with the way to go on."""
    every, signals = job.every, list[int]()

    def request(number: int) -> None:
        signals.append(number)
        run.stopping = True

    def save() -> None:
        if job.writes:
            save_checkpoint(run, data, checkpoint)

    with stoppable_after_work(request):
        while not run.done and not run.stopping:
            epoch = run.advance(every - run.steps % every if every else None)
            if epoch:
                tell_epoch(epoch)
            if every and not run.stopping and (run.done or run.steps % every == 0):
                save()
        if run.stopping and not run.done:
            save()
            number = max(max(numbers, default=0) for numbers in job.ranks.allgather_obj(signals))
            launcher = ["mpirun", "-n", str(job.ranks.size)] if job.distributed else []
            words = [*launcher, "twostroke", *(word for word in job.words if word != "--resume"), "--resume"]
            stop = Stopped(number)
            stop.add_note(f"after step {run.steps}. Go on with: {' '.join(map(in_shell, words))}")
            raise stop


def _finish(job: Job, run: TrainingRun, data: Dataset, test: Result, folder: Path) -> None:
    """Save what was learnt and say where it is."""
    net, settings, tell = run.net, job.settings, job.tell
    model = folder / "model.safetensors"
    config, preset = settings.config, settings.preset
    result = record.run_record(net, data, config, preset, run.history, test, model, settings.data)
    if isinstance(run, DistributedRun):
        result["distributed"] = run.describe()
        tell(report.summing_line(result["distributed"]))
    with uninterrupted():
        _save(net, model, result)
    tell(f"model: {model}")
    if job.page:
        write_page(examine(result, net, data), folder, tell)
    source = "" if settings.data == "mnist" else f" {in_shell(settings.data)}"
    tell(f"next: twostroke evaluate {in_shell(model)}{source}")
    where = "IMAGE.png" if net.layers[0] == FIELD * FIELD else f"--index 0 --data{source}"
    tell(f"      twostroke predict {in_shell(model)} {where}")
    lines = {"text": report.result_line, "record": to_json, "json": record.result_json}
    say(lines[job.log](result))


def _save(net: MLP, model: Path, result: dict[str, Any]) -> None:
    save_model(net, model, {name: value for name, value in result.items() if name not in ("history", "model")})
    path = model.with_name(RECORD)
    try:
        write_atomically(path, f"{to_json(result)}\n".encode())
    except OSError as error:
        remedy = f"The model is saved in {model}."
        raise ModelError("cannot write the record", where=path, found=error.strerror, remedy=remedy) from error
