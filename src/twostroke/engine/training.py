"""The training loop: a run of epochs that yields one record per epoch."""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from ..backend import Array, Backend
from ..data.dataset import Dataset, check_fit
from ..data.doubts import doubts
from ..errors import ConfigError, DivergenceError, TwoStrokeError
from ..signals import late_interrupt
from .batches import batch_bounds, dropout_keys, epoch_order
from .config import TrainConfig
from .epoch import Epoch
from .evaluation import Evaluation, upload
from .kinds import Optimizer
from .metrics import Running, mean
from .mlp import MLP
from .optimizers import OPTIMIZERS, Momentum, Nesterov, OptimizerState, Own
from .schedules import make_schedule
from .step import TrainingStep
from .targets import Result, targets_of, unit
from .weights import relative_weights, sample_weights

POSITION: Final = ("epoch", "batch", "steps", "waited", "seconds", "first_loss", "best_loss")
ABSENT: Final = ("train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy")  # unless measured
DIVERGED: Final = 1000.0  # times the first batch's loss: no run recovers from that


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch.

    ``epoch`` counts from 1 to ``epochs``, ``steps`` from the start of the run; ``learning_rate`` is that of the last
    step. Losses are means per sample, accuracies 0..1. With weights of samples or classes, training and validation
    losses are weighted means; accuracies and the test loss count every sample once. ``train_loss`` and
    ``train_accuracy`` are measured on each batch just before its update; ``val_loss``, ``val_accuracy``, ``test_loss``
    and ``test_accuracy`` after the epoch (None without such a set). ``train_seconds`` is the time of the steps,
    synchronised, without evaluation; ``samples_per_second`` is computed from it. A regression has no accuracies (None),
    but ``train_rmse``, ``val_rmse`` and ``test_rmse``, root mean squared errors in the units of the targets, and R^2 as
    ``train_r2``, ``val_r2`` and ``test_r2``; of several targets these are means.
    """

    epoch: int
    epochs: int
    steps: int
    learning_rate: float
    train_loss: float
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    train_seconds: float
    samples_per_second: float
    train_rmse: float | None = None
    train_r2: float | None = None
    val_rmse: float | None = None
    val_r2: float | None = None
    test_rmse: float | None = None
    test_r2: float | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The fields by name: a classifier's without errors, a regression's without accuracies."""
        absent = ("_rmse", "_r2") if self.train_rmse is None else ("_accuracy",)
        return {name: value for name, value in asdict(self).items() if not name.endswith(absent)}


def make_optimizer(net: MLP, config: TrainConfig) -> OptimizerState:
    """The optimiser that ``config`` names, with its state on the network's device."""
    if isinstance(config.optimizer, Optimizer):
        return Own(net, config.l2, config.optimizer)
    kind = OPTIMIZERS[config.optimizer]
    options = (config.momentum,) if issubclass(kind, Momentum | Nesterov) else ()
    return kind(net, config.l2, *options)


class Kit(NamedTuple):
    """The classes that a run uses; a distributed run substitutes its own."""

    step: Callable[..., TrainingStep] = TrainingStep
    running: Callable[..., Running] = Running
    evaluation: Callable[..., Evaluation] = Evaluation


ALONE: Final = Kit()


class TrainingRun:
    """A training run and its position: it can be stopped after any step and continued.

    ``advance`` trains; ``history`` holds the records of finished epochs. The samples are uploaded once; each epoch
    uploads their order and downloads a few numbers. The constructor raises ``ConfigError`` or ``DataError`` for bad
    arguments.
    """

    def __init__(
        self, net: MLP, data: Dataset, config: TrainConfig, backend: Backend | None = None, *, kit: Kit = ALONE
    ) -> None:
        _check_kind(net, "net", MLP, "an MLP")
        _check_kind(data, "data", Dataset, "a Dataset")
        _check_kind(config, "config", TrainConfig, "a TrainConfig")
        images, labels, self.sample_weight, evaluations = _check(net, data, config)
        n = len(images)
        batch_size = n if config.batch_size == "full" else int(config.batch_size)
        if batch_size > n:
            warnings.warn(f"batch_size {batch_size} is larger than the {n} samples: using these", stacklevel=3)
            batch_size = n
        self.net, self.config = net.to(backend) if backend else net, config
        self.bounds = list(batch_bounds(n, batch_size))
        self.stopping = False  # set it (in a signal handler, say) to make ``advance`` return after this step
        self._within_a_step = False  # while steps are run; still so if they were broken off
        self.history: list[EpochRecord] = []
        self.started_from: str | None = None  # SHA-256 of a model file, which a checkpoint's run must share
        self.epoch = self.batch = self.steps = self.waited = 0
        self.seconds = 0.0  # spent in this epoch's steps
        self.first_loss = self.best_loss = math.inf
        self._schedule = make_schedule(config.schedule, config.warmup)
        with net.backend.active():
            device_images, self._labels = upload(net.backend, images, labels, net)
            self.running = kit.running(net.backend, n, net.dtype, unit(net))
            self.optimizer = make_optimizer(net, config)
            given = device_images, self._labels, self.optimizer, batch_size, self.running
            weights = None if self.sample_weight is None else net.backend.xp.zeros(n, net.dtype)
            self._step = kit.step(net, *given, weights=weights, dropout=config.dropout)
            self._steps = Epoch(self._step, self.bounds)
            self._uploaded: int | None = None  # the epoch whose order and scalars are on the device
            self._evaluations = {name: kit.evaluation(net, *arrays) for name, arrays in evaluations.items()}
            # The best parameters so far; once these are the network's again, those of the last epoch.
            self.best = net.parameters.copy() if config.patience or config.keep == "best" else None

    @property
    def position(self) -> dict[str, Any]:
        """The counters of the run, without arrays and history: saved in checkpoints, broadcast to ranks."""
        if self._within_a_step:
            remedy = "Restore a checkpoint, or begin again."
            raise TwoStrokeError("the run was broken off within a step", where=f"epoch {self.epoch + 1}", remedy=remedy)
        return {name: getattr(self, name) for name in POSITION}

    @position.setter
    def position(self, values: Mapping[str, Any]) -> None:
        self._within_a_step = False
        for name in POSITION:
            setattr(self, name, values[name])

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return self.epoch >= self.config.epochs or 0 < self.config.patience <= self.waited

    @property
    def kept_epoch(self) -> int | None:
        """The number of the epoch with the lowest validation loss, if its parameters are brought back at the end."""
        return None if self.best is None else self.epoch - self.waited

    @property
    def state(self) -> dict[str, Array]:
        """The arrays that persist between steps, by name; writing into them changes the run."""
        arrays = {"parameters": self.net.parameters, "losses": self.running.losses}
        arrays |= {"predictions": self.running.predictions}
        arrays |= {f"optimizer.{name}": array for name, array in self.optimizer.state.items()}
        return arrays if self.best is None else arrays | {"best": self.best}

    def restart(self, config: TrainConfig) -> None:
        """Go back to the first step; ``config`` may change seed, epochs and lr only. The caller resets the arrays."""
        self.config, self._uploaded, self._within_a_step = config, None, False
        self.epoch = self.batch = self.steps = 0
        self.history.clear()

    def advance(self, most_steps: int | None = None) -> EpochRecord | None:
        """Train to the end of the epoch and return its record; or None after ``most_steps`` or ``stopping``.

        Ctrl-C raises ``KeyboardInterrupt`` between two steps: the run can go on, or be saved. After any other exception
        within a step it can not, and says so.
        """
        with late_interrupt(partial(setattr, self, "stopping")):
            return self._advance(most_steps)

    def _advance(self, most_steps: int | None) -> EpochRecord | None:
        backend, batch = self.net.backend, self.position["batch"]
        last = len(self.bounds) if most_steps is None else min(len(self.bounds), batch + most_steps)
        with backend.active():
            started = time.perf_counter()
            if self._uploaded != self.epoch:
                self._begin_epoch()
            self._within_a_step = True
            self.batch = self._steps.run(batch, last, self._reached)
            self.steps, self._within_a_step = self.steps + self.batch - batch, False
            if self.batch < len(self.bounds):
                backend.synchronize()
                self.seconds += time.perf_counter() - started
                return None
            result = self.running.result(self._labels[self._steps.order])
            self.seconds += time.perf_counter() - started
            return self._end_epoch(result)

    def _reached(self, batch: int) -> bool:
        """Whether to stop before this batch. It is noted, for a thread that shows how far the epoch is."""
        self.batch = batch
        return self.stopping

    def _begin_epoch(self) -> None:
        """Upload the sample order, the scalars of every step, the relative weights, and the dropout keys."""
        backend, n, seed, epoch = self.net.backend, len(self._labels), self.config.seed, self.epoch
        order = epoch_order(n, seed, epoch)
        steps = range(epoch * len(self.bounds), (epoch + 1) * len(self.bounds))
        numbers = [self.optimizer.numbers(self._rate(step), step + 1, self.config.l2) for step in steps]
        self._steps.begin(order, numbers)
        if self._step.weights is not None and self.sample_weight is not None:
            relative = relative_weights(self.sample_weight, order, self.bounds)[0]
            backend.xp.copyto(self._step.weights, backend.asarray(relative, self.net.dtype))
        if self._step.keys is not None:
            backend.xp.copyto(self._step.keys, backend.asarray(dropout_keys(n, seed, epoch)))
        self._uploaded = epoch

    def _rate(self, step: int) -> float:
        """The learning rate at the middle of step ``step``, counted from 0; so one-cycle never gives 0."""
        return self.config.learning_rate * self._schedule((step + 0.5) / (self.config.epochs * len(self.bounds)))

    def _end_epoch(self, result: Result) -> EpochRecord:
        if self.epoch == 0:
            self.first_loss = self.running.mean_loss(*self.bounds[0])
        _check_converges(self.net, self.running, result, self.epoch, self.bounds[0][1], self.first_loss)
        results = {name: evaluation.run() for name, evaluation in self._evaluations.items()}
        parts: dict[str, Any] = dict.fromkeys(ABSENT)
        for name, one in {"train": result, **results}.items():
            parts |= one.of_part(name, self.net.regression)
        record = EpochRecord(
            epoch=self.epoch + 1,
            epochs=self.config.epochs,
            steps=self.steps,
            learning_rate=self._rate(self.steps - 1),
            train_seconds=self.seconds,
            samples_per_second=len(self._labels) / self.seconds,
            **parts,
        )
        self.history.append(record)
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        if self.best is not None and (val := results.get("val")) is not None:
            xp = self.net.backend.xp
            self.waited += 1
            if val.loss < self.best_loss:
                self.best_loss, self.waited = val.loss, 0
                xp.copyto(self.best, self.net.parameters)
            if self.done:
                last = self.net.parameters.copy()
                xp.copyto(self.net.parameters, self.best)
                xp.copyto(self.best, last)
        return record


def train(
    net: MLP, data: Dataset, config: TrainConfig | None = None, *, backend: Backend | None = None
) -> Iterator[EpochRecord]:
    """Train ``net`` in place on ``data``, as ``config`` says, yielding a record after every epoch.

    Nothing is trained but by walking what is returned (``for record in train(...)``; ``fit`` does it for you). The
    network is first moved to ``backend``, if given. Arguments are checked by the call, before the first ``next``.
    Warns of data from which a network learns nothing: pixels that are not scaled, classes without samples.
    Raises ``ConfigError``, ``DataError``, ``DivergenceError`` (the parameters are then those of the failed epoch).
    """
    run = TrainingRun(net, data, config or TrainConfig(), backend)
    _say_doubts(data)
    begun: list[bool] = []
    found = _records(run, begun)
    weakref.finalize(found, _say_if_unwalked, begun)
    return found


def fit(
    net: MLP, data: Dataset, config: TrainConfig | None = None, *, backend: Backend | None = None
) -> list[EpochRecord]:
    """Train ``net`` in place on ``data``, as ``config`` says, to the end; on ``backend``, if given.

    Returns the records of all epochs. Raises ``ConfigError``, ``DataError``, ``DivergenceError`` as ``train`` does.
    """
    run = TrainingRun(net, data, config or TrainConfig(), backend)
    _say_doubts(data)
    return list(_records(run, []))


def _records(run: TrainingRun, begun: list[bool]) -> Iterator[EpochRecord]:
    begun.append(True)
    while not run.done:
        if record := run.advance():
            yield record


def _say_doubts(data: Dataset) -> None:
    for line in doubts(data):
        warnings.warn(line, stacklevel=3)


def _say_if_unwalked(begun: list[bool]) -> None:
    if not begun:
        what = "nothing was trained: train() trains while its records are walked, and none was"
        warnings.warn(f"{what}. Use for record in train(...), or fit(...).", stacklevel=3)


def _check_kind(value: object, where: str, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        remedy = "Use TrainConfig(**config)." if isinstance(value, dict) and kind is TrainConfig else None
        raise ConfigError(f"not {name}", where=where, found=type(value).__name__, expected=name, remedy=remedy)


def _check(net: MLP, data: Dataset, config: TrainConfig) -> tuple[Any, Any, Any, dict[str, tuple[Any, ...]]]:
    """Check the data. Returns training images, labels and weights, and by name what each ``Evaluation`` is made of."""
    check_fit(net.layers, data, task=net.task)
    images = net.inputs(data.train_images, "train_images")
    labels = targets_of(net, data.train_labels, "train_labels", len(images))
    weights = sample_weights(replace(data, train_labels=labels), config.class_weight)
    evaluations: dict[str, tuple[Any, ...]] = {}
    if config.val_size:
        kept, held = data.split_indices(config.val_size, config.seed)
        evaluations["val"] = images[held], labels[held], None if weights is None else weights[held]
        images, labels, weights = images[kept], labels[kept], None if weights is None else weights[kept]
        for part, given in (("training", weights), ("validation", evaluations["val"][2])):
            if given is not None and not given.any():
                what, expected = f"all weights of the {part} part are zero", "one above 0 in either part"
                raise ConfigError(what, where="val_size", found=config.val_size, expected=expected)
    if config.evaluate_test and len(data.test_images):
        test_images = net.inputs(data.test_images, "test_images")
        test_labels = targets_of(net, data.test_labels, "test_labels", len(test_images))
        evaluations["test"] = (test_images, test_labels)
    return images, labels, weights, evaluations


def _check_converges(
    net: MLP, running: Running, result: Result, epoch: int, batch_size: int, first_loss: float
) -> None:
    """Raise ``DivergenceError`` if the epoch's loss or the parameters are not finite, or the loss has exploded."""
    finite = math.isfinite(mean(net.backend, net.parameters))
    if finite and result.loss <= DIVERGED * max(first_loss, 1.0):
        return
    bad = running.first_nonfinite()
    where, found = f"epoch {epoch + 1}", f"a mean loss of {result.loss:.3g} after one of {first_loss:.3g} at the start"
    if bad is not None:
        where += f", step {bad[0] // batch_size + 1}"
        found = f"a loss that is not finite (mean of the epoch before it: {bad[1]:.3g})"
    elif not finite:
        where, found = f"{where}, last step", "weights that are not finite"
    raise DivergenceError(
        "training diverged",
        where=where,
        found=found,
        expected="a falling loss",
        remedy="Lower the learning rate (lr, --lr).",
    )
