"""Training: one step, an epoch of steps, and a generator of one record per epoch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from ..backend import Array, Backend
from ..data.dataset import Dataset, check_images, check_labels
from ..errors import ConfigError, DivergenceError
from .batches import batch_bounds, dropout_keys, epoch_order
from .config import TrainConfig
from .metrics import Result, Running
from .mlp import MLP, backward, forward, loss_forward, predict_classes
from .optimizers import OPTIMIZERS, Momentum, Nesterov, Optimizer
from .recorded_epoch import Replay
from .schedules import make_schedule
from .workspace import Buffers, Workspace, label_dtype

__all__ = [
    "EpochRecord", "Evaluation", "TrainConfig", "TrainingRun", "TrainingStep", "evaluate", "make_optimizer", "train",
    "upload",
]  # fmt: skip

# What a run is at, beside its arrays: what a checkpoint keeps and ranks share.
POSITION: Final = ("epoch", "batch", "steps", "waited", "seconds", "first_loss", "best_loss")
EVALUATION_ROWS: Final = 2048
DIVERGED: Final = 1000.0  # times the first batch's loss: no training comes back from there


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    ``epoch`` counts from 1 to ``epochs``, ``steps`` since the beginning of the run; ``learning_rate`` is that of
    the last step. Losses are means per sample, accuracies 0..1: ``train_loss`` and ``train_accuracy`` are those of
    each batch just before its update; ``val_loss``, ``val_accuracy``, ``test_loss`` and ``test_accuracy`` those
    after the epoch, or None where there is no such part. ``train_seconds`` covers the steps, synchronised, without
    evaluation, and ``samples_per_second`` is of these.
    """

    epoch: int
    epochs: int
    steps: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    train_seconds: float
    samples_per_second: float


class TrainingStep:
    """Gather a batch, forward, loss, backward, update: all in arrays allocated here, recorded once per batch size.

    ``labels`` (N,) may be target rows (N, K). Without ``images`` (N, D) the caller puts each batch into A[0], without
    ``running`` no loss is noted. ``weights`` (N,) are relative to their batch's mean; ``dropout``: fill ``keys`` (N,).
    """

    def __init__(
        self,
        net: MLP,
        images: Array | None,
        labels: Array,
        optimizer: Optimizer,
        batch_size: int,
        running: Running | None = None,
        *,
        weights: Array | None = None,
        dropout: float = 0.0,
    ) -> None:
        self.net, self.images, self.labels, self.weights = net, images, labels, weights
        self.optimizer, self.running = optimizer, running
        self.workspace = Workspace(
            net.backend, net.layers, net.dtype, batch_size, weighted=weights is not None, dropout=dropout
        )
        self.keys = net.backend.xp.zeros(len(labels), "uint32") if dropout else None
        self._recorded: dict[int, Callable[[], None]] = {}

    def run(self, order: Array, start: int, stop: int, lr: float) -> None:
        """One step on the samples ``order[start:stop]``."""
        n = stop - start
        buffers = self.workspace.rows(n)
        if n not in self._recorded:
            self._recorded[n] = self.net.backend.record(partial(self.gather_and_learn, buffers))
        self.net.backend.xp.copyto(buffers.indices, order[start:stop])
        self.optimizer.set_rate(lr)
        self._recorded[n]()
        if self.running is not None:
            self.running.update(start, buffers)

    def replay(self, bounds: Sequence[tuple[int, int]]) -> Replay:
        """The batches ``bounds`` of an epoch as one piece of work. Needs ``running``."""
        assert self.running is not None
        return Replay(self.workspace, self.optimizer, self.running, bounds, self.gather_and_learn)

    def gather_and_learn(self, buffers: Buffers) -> None:
        """A step on the samples whose numbers are in ``indices``."""
        if self.images is not None:
            self.workspace.gather_inputs(self.images, buffers)
        self.workspace.gather_targets(self.labels, buffers)
        if self.weights is not None:
            self.workspace.gather_weights(self.weights, buffers)
        if self.keys is not None:
            self.workspace.draw_masks(self.keys, buffers)
        self.learn(buffers)

    def learn(self, buffers: Buffers) -> None:
        """The two strokes and the update, for inputs A[0] and targets T that are in place."""
        forward(self.net, buffers)
        loss_forward(self.net, buffers)
        if self.running is not None:
            predict_classes(self.net, buffers)
        self.learn_from(buffers)

    def learn_from(self, buffers: Buffers) -> None:
        """The way back and the update, after the way forward."""
        backward(self.net, buffers, self.optimizer.target_views, *self.optimizer.prepare())
        self.optimizer.update()


class Evaluation:
    """A labelled set on the device, ready to be evaluated again and again."""

    def __init__(self, net: MLP, images: Any, labels: Any, *, keep_outputs: bool = False) -> None:
        backend, rows = net.backend, min(EVALUATION_ROWS, len(images))
        self.net = net
        with backend.active():
            self._images, self._labels = upload(backend, images, labels, net)
            self._workspace = Workspace(backend, net.layers, net.dtype, rows, training=False)
            self._running = Running(backend, len(images), net.dtype)
            self.outputs = backend.xp.empty((len(images), net.layers[-1]), net.dtype) if keep_outputs else None
        self._bounds = list(batch_bounds(len(images), rows))

    def run(self) -> Result:
        """Mean loss and accuracy of the network as it is now."""
        workspace = self._workspace
        with self.net.backend.active():
            for start, stop in self._bounds:
                buffers = workspace.rows(stop - start)
                workspace.load_inputs(self._images[start:stop], buffers)
                workspace.load_targets(self._labels[start:stop], buffers)
                forward(self.net, buffers)
                loss_forward(self.net, buffers)
                predict_classes(self.net, buffers)
                self._running.update(start, buffers)
                if self.outputs is not None:
                    self.outputs[start:stop] = buffers.A[-1]
            return self._running.result(self._labels)


def evaluate(net: MLP, images: Any, labels: Any) -> Result:
    """Mean loss and accuracy of ``net`` on host arrays images (N, D) and labels (N,). Raises ``DataError``."""
    return evaluate_outputs(net, images, labels, keep_outputs=False)[0]


def evaluate_outputs(net: MLP, images: Any, labels: Any, *, keep_outputs: bool = True) -> tuple[Result, Any]:
    """``evaluate``, and the outputs (N, K) of the same forward pass, on the host."""
    images = check_images(images, "images", net.layers[0])
    labels = check_labels(labels, "labels", net.layers[-1], len(images))
    evaluation = Evaluation(net, images, labels, keep_outputs=keep_outputs)
    result = evaluation.run()
    return result, net.backend.to_host(evaluation.outputs) if keep_outputs else None


def upload(backend: Backend, images: Any, labels: Any, net: MLP) -> tuple[Array, Array]:
    """Host samples on the device: pixels as uint8, other images in the network's dtype."""
    dtype = None if images.dtype == "uint8" else net.dtype
    with backend.active():
        return backend.asarray(images, dtype), backend.asarray(labels, label_dtype(net.layers[-1]))


def make_optimizer(net: MLP, config: TrainConfig) -> Optimizer:
    """The configuration's optimiser, with its state on the network's device."""
    kind = OPTIMIZERS[config.optimizer]
    if issubclass(kind, Momentum | Nesterov):
        return kind(net, config.l2, config.momentum)
    return kind(net, config.l2)


class TrainingRun:
    """A run of training and its position, so that it can be stopped after any step and continued.

    ``advance`` works; ``history`` holds the records of the epochs that are done. The samples go to the device
    once; each epoch sends an order up and brings a few numbers down. Raises ``ConfigError`` or ``DataError`` at
    once for arguments that do not fit.
    """

    _step_type: Callable[..., TrainingStep] = TrainingStep
    _running_type: Callable[..., Running] = Running
    _evaluation_type: Callable[..., Evaluation] = Evaluation

    def __init__(self, net: MLP, data: Dataset, config: TrainConfig, backend: Backend | None = None) -> None:
        images, labels, evaluations = _check(net, data, config)
        n = len(images)
        batch_size = n if config.batch_size == "full" else int(config.batch_size)
        if batch_size > n:
            warnings.warn(f"batch_size {batch_size} is larger than the {n} samples: using these", stacklevel=3)
            batch_size = n
        self.net, self.config = net.to(backend) if backend else net, config
        self.bounds = list(batch_bounds(n, batch_size))
        self.stopping = False  # set it, from a signal's handler for example, to end ``advance`` after the step
        self.history: list[EpochRecord] = []
        self.epoch = self.batch = self.steps = self.waited = 0
        self.seconds = 0.0  # spent in the steps of this epoch
        self.first_loss = self.best_loss = math.inf
        self._schedule = make_schedule(config.schedule, config.warmup)
        with net.backend.active():
            device_images, self._labels = upload(net.backend, images, labels, net)
            self.running = self._running_type(net.backend, n, net.dtype)
            self.optimizer = make_optimizer(net, config)
            given = device_images, self._labels, self.optimizer, batch_size, self.running
            self._step = self._step_type(net, *given, dropout=config.dropout)
            self._replay = self._step.replay(self.bounds)
            self._evaluations = {name: self._evaluation_type(net, *arrays) for name, arrays in evaluations.items()}
            self.best = net.parameters.copy() if config.patience else None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.epoch >= self.config.epochs or (self.best is not None and self.waited >= self.config.patience)

    @property
    def state(self) -> dict[str, Array]:
        """Every array that carries over from step to step, by name; writing into them moves the run."""
        arrays = {"parameters": self.net.parameters, "losses": self.running.losses}
        arrays |= {"predictions": self.running.predictions}
        arrays |= {f"optimizer.{name}": array for name, array in self.optimizer.state.items()}
        return arrays if self.best is None else arrays | {"best": self.best}

    def advance(self, most_steps: int | None = None) -> EpochRecord | None:
        """Work until the epoch is done, and return its record; or None, after ``most_steps`` or ``stopping``."""
        backend, config, bounds = self.net.backend, self.config, self.bounds
        lr = 0.0
        last = len(bounds) if most_steps is None else min(len(bounds), self.batch + most_steps)
        with backend.active():
            started = time.perf_counter()
            order = backend.asarray(epoch_order(len(self._labels), config.seed, self.epoch))
            if self._step.keys is not None:
                keys = dropout_keys(len(self._labels), config.seed, self.epoch)
                backend.xp.copyto(self._step.keys, backend.asarray(keys))
            while self._replay and self.batch < last and not self.stopping:
                lr = self._run_many(order, min(last, self.batch + self._replay.at_once))
            while self.batch < last and not self.stopping:
                lr = self._rate(self.steps)
                self._step.run(order, *bounds[self.batch], lr)
                self.batch += 1
                self.steps += 1
            if self.batch < len(bounds):
                backend.synchronize()
                self.seconds += time.perf_counter() - started
                return None
            result = self.running.result(self._labels[order])
            self.seconds += time.perf_counter() - started
            return self._end_epoch(result, lr)

    def _rate(self, step: int) -> float:
        """The learning rate in the middle of a step: the first step moves, the last one too."""
        return self.config.learning_rate * self._schedule((step + 0.5) / (self.config.epochs * len(self.bounds)))

    def _run_many(self, order: Array, stop: int) -> float:
        """The batches up to ``stop``, as few calls as the device allows; the last learning rate."""
        rates = [self._rate(step) for step in range(self.steps, self.steps + stop - self.batch)]
        self._replay.run(order, self.batch, rates)
        self.batch, self.steps = stop, self.steps + len(rates)
        if stop < len(self.bounds):
            self.net.backend.synchronize()  # steps that wait in a queue cannot be stopped
        return rates[-1]

    def _end_epoch(self, result: Result, lr: float) -> EpochRecord:
        if self.epoch == 0:
            self.first_loss = self.running.mean_loss(*self.bounds[0])
        batch_size = self.bounds[0][1]
        _check_converges(self.net, self.running, result, self.epoch, batch_size, self.first_loss)
        results = {name: evaluation.run() for name, evaluation in self._evaluations.items()}
        val, test = results.get("val"), results.get("test")
        record = EpochRecord(
            epoch=self.epoch + 1,
            epochs=self.config.epochs,
            steps=self.steps,
            learning_rate=lr,
            train_loss=result.loss,
            train_accuracy=result.accuracy,
            val_loss=val.loss if val else None,
            val_accuracy=val.accuracy if val else None,
            test_loss=test.loss if test else None,
            test_accuracy=test.accuracy if test else None,
            train_seconds=self.seconds,
            samples_per_second=len(self._labels) / self.seconds,
        )
        self.history.append(record)
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        if self.best is not None and val is not None:
            xp = self.net.backend.xp
            self.waited += 1
            if val.loss < self.best_loss:
                self.best_loss, self.waited = val.loss, 0
                xp.copyto(self.best, self.net.parameters)
            if self.done:
                xp.copyto(self.net.parameters, self.best)
        return record


def train(
    net: MLP, data: Dataset, config: TrainConfig | None = None, *, backend: Backend | None = None
) -> Iterator[EpochRecord]:
    """Train ``net`` in place on ``data``, as ``config`` says, yielding a record after every epoch.

    The network is moved to ``backend`` first; by default it stays where it is. Arguments are checked when the
    generator is made, before its first ``next``. Raises ``ConfigError``, ``DataError``, ``DivergenceError`` (the
    parameters are then those of the failed epoch).
    """
    return _records(TrainingRun(net, data, config or TrainConfig(), backend))


def _records(run: TrainingRun) -> Iterator[EpochRecord]:
    while not run.done:
        record = run.advance()
        if record is not None:
            yield record


def _check(net: MLP, data: Dataset, config: TrainConfig) -> tuple[Any, Any, dict[str, tuple[Any, Any]]]:
    """Checked training images and labels, and the sets to evaluate by name."""
    if data.n_features != net.layers[0] or data.n_classes > net.layers[-1]:
        raise ConfigError(
            "the network does not fit the data",
            where="layers",
            found=",".join(map(str, net.layers)),
            expected=f"{data.n_features} inputs and {data.n_classes} outputs for {data.name}",
        )
    images = check_images(data.train_images, "train_images", net.layers[0])
    labels = check_labels(data.train_labels, "train_labels", net.layers[-1], len(images))
    evaluations: dict[str, tuple[Any, Any]] = {}
    if config.val_size:
        whole = replace(data, train_images=images, train_labels=labels)
        part, val_images, val_labels = whole.split(config.val_size, config.seed)
        evaluations["val"] = (val_images, val_labels)
        images, labels = part.train_images, part.train_labels
    if config.evaluate_test and len(data.test_images):
        test_images = check_images(data.test_images, "test_images", net.layers[0])
        test_labels = check_labels(data.test_labels, "test_labels", net.layers[-1], len(test_images))
        evaluations["test"] = (test_images, test_labels)
    return images, labels, evaluations


def _check_converges(
    net: MLP, running: Running, result: Result, epoch: int, batch_size: int, first_loss: float
) -> None:
    """Raise ``DivergenceError`` if the epoch's loss or its last update is not finite, or the loss has exploded."""
    finite = bool(net.backend.to_host(net.backend.xp.isfinite(net.parameters).all()))
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
