"""Training: one step, an epoch of steps, and a generator of one record per epoch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final

from .backend import Array, Backend
from .batches import batch_bounds, batch_count, epoch_order
from .dataset import Dataset, check_images, check_labels
from .errors import ConfigError, DivergenceError
from .metrics import Result, Running
from .mlp import MLP, backward, forward, loss_forward, predict_classes
from .optimizers import OPTIMIZERS, SCHEDULES, Momentum, Nesterov, Optimizer, make_schedule
from .workspace import Buffers, Workspace, label_dtype

DEFAULT_LEARNING_RATE: Final = {"sgd": 0.5, "momentum": 0.3, "nesterov": 0.3, "adam": 2e-3, "adamw": 2e-3}
EVALUATION_ROWS: Final = 2048
DIVERGED: Final = 1000.0  # times the first batch's loss: no training comes back from there


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Raises ``ConfigError`` for a value out of range.

    ``batch_size`` is a number of samples or "full" (full-batch gradient descent). ``lr`` is the highest
    learning rate; None takes the optimiser's default. ``l2`` adds l2/2 * sum W^2 to the loss. ``val_size`` (a
    number of samples, or a fraction) is held out of the training set; with ``patience`` > 0 training stops when
    the validation loss has not fallen for that many epochs, and the best parameters are kept.
    ``evaluate_test`` adds the test set's loss and accuracy to every record.
    """

    epochs: int = 4
    batch_size: int | str = 128
    seed: int = 0
    optimizer: str = "momentum"
    lr: float | None = None
    momentum: float = 0.9
    l2: float = 0.0
    schedule: str = "one-cycle"
    warmup: float = 0.2
    val_size: float = 0
    patience: int = 0
    evaluate_test: bool = True

    def __post_init__(self) -> None:
        if self.batch_size != "full" and not _is_integer(self.batch_size, 1):
            _refuse("batch_size", self.batch_size, "an integer >= 1, or full")
        for name, low in (("epochs", 1), ("seed", 0), ("patience", 0)):
            if not _is_integer(getattr(self, name), low):
                _refuse(name, getattr(self, name), f"an integer >= {low}")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            if not (isinstance(value, str) and value in known):
                _refuse(name, repr(value), " or ".join(known))
        if self.lr is not None and not (_is_finite(self.lr) and self.lr > 0):
            _refuse("lr", self.lr, "a finite number > 0")
        if not (_is_finite(self.momentum) and 0 <= self.momentum < 1):
            _refuse("momentum", self.momentum, "a number >= 0 and < 1")
        if not (_is_finite(self.l2) and self.l2 >= 0):
            _refuse("l2", self.l2, "a finite number >= 0")
        if not (_is_finite(self.warmup) and 0 < self.warmup < 1):
            _refuse("warmup", self.warmup, "a fraction > 0 and < 1")
        if not (_is_finite(self.val_size) and (0 <= self.val_size < 1 or _is_integer(self.val_size, 1))):
            _refuse("val_size", self.val_size, "a fraction >= 0 and < 1, or a whole number of samples")
        if self.patience and not self.val_size:
            _refuse("patience", self.patience, "a validation split to watch: set val_size as well, to 0.1 for example")

    @property
    def learning_rate(self) -> float:
        """``lr``, or the optimiser's default."""
        return DEFAULT_LEARNING_RATE[self.optimizer] if self.lr is None else self.lr

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with changes."""
        return TrainConfig(**{field.name: getattr(self, field.name) for field in fields(self)} | changes)


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did. Losses are means per sample, accuracies 0..1; training's are those of each batch just
    before its update. ``train_seconds`` covers the steps, synchronised, without evaluation."""

    epoch: int  # from 1
    epochs: int
    steps: int  # since the beginning of the run
    learning_rate: float  # of the last step
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

    ``running`` notes the loss and the prediction of every sample; without it the step only learns.
    """

    def __init__(
        self,
        net: MLP,
        images: Array,
        labels: Array,
        optimizer: Optimizer,
        batch_size: int,
        running: Running | None = None,
    ) -> None:
        self.net, self.images, self.labels = net, images, labels
        self.optimizer, self.running = optimizer, running
        self.workspace = Workspace(net.backend, net.layers, net.dtype, batch_size)
        self._recorded: dict[int, Callable[[], None]] = {}

    def run(self, order: Array, start: int, stop: int, lr: float) -> None:
        """One step on the samples ``order[start:stop]``."""
        n = stop - start
        buffers = self.workspace.rows(n)
        if n not in self._recorded:
            self._recorded[n] = self.net.backend.record(partial(self._gather_and_learn, buffers))
        self.net.backend.xp.copyto(buffers.indices, order[start:stop])
        self.optimizer.set_rate(lr)
        self._recorded[n]()
        if self.running is not None:
            self.running.update(start, buffers)

    def _gather_and_learn(self, buffers: Buffers) -> None:
        self.workspace.gather_inputs(self.images, buffers)
        self.workspace.gather_targets(self.labels, buffers)
        self.learn(buffers)

    def learn(self, buffers: Buffers) -> None:
        """The two strokes and the update, for inputs A[0] and targets T that are in place."""
        forward(self.net, buffers)
        loss_forward(self.net, buffers)
        if self.running is not None:
            predict_classes(self.net, buffers)
        backward(self.net, buffers, self.optimizer.target_views, *self.optimizer.prepare())
        self.optimizer.update()


class Evaluation:
    """A labelled set on the device, ready to be evaluated again and again."""

    def __init__(self, net: MLP, images: Any, labels: Any) -> None:
        backend = net.backend
        self.net = net
        self._images, self._labels = upload(backend, images, labels, net)
        rows = min(EVALUATION_ROWS, len(images))
        self._workspace = Workspace(backend, net.layers, net.dtype, rows, training=False)
        self._running = Running(backend, len(images), net.dtype)

    def run(self) -> Result:
        """Mean loss and accuracy of the network as it is now."""
        workspace = self._workspace
        with self.net.backend.active():
            for start, stop in batch_bounds(len(self._images), workspace.capacity):
                buffers = workspace.rows(stop - start)
                workspace.load_inputs(self._images[start:stop], buffers)
                workspace.load_targets(self._labels[start:stop], buffers)
                forward(self.net, buffers)
                loss_forward(self.net, buffers)
                predict_classes(self.net, buffers)
                self._running.update(start, buffers)
            return self._running.result(self._labels)


def evaluate(net: MLP, images: Any, labels: Any) -> Result:
    """Mean loss and accuracy of ``net`` on host arrays images (N, D) and labels (N,)."""
    images = check_images(images, "images", net.layers[0])
    labels = check_labels(labels, "labels", net.layers[-1], len(images))
    return Evaluation(net, images, labels).run()


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


def train(
    net: MLP, data: Dataset, config: TrainConfig | None = None, *, backend: Backend | None = None
) -> Iterator[EpochRecord]:
    """Train ``net`` in place on ``backend`` (by default where it is), yielding a record after every epoch.

    The samples go to the device once; each epoch sends an order up and brings two numbers down. Arguments are
    checked when the generator is made, before its first ``next``. Raises ``ConfigError``, ``DataError``,
    ``DivergenceError`` (the parameters are then those of the failed epoch).
    """
    config = config or TrainConfig()
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
    batch_size = len(images) if config.batch_size == "full" else int(config.batch_size)
    if batch_size > len(images):
        warnings.warn(f"batch_size {batch_size} is larger than the {len(images)} samples: using these", stacklevel=2)
        batch_size = len(images)
    if backend is not None:
        net.to(backend)
    return _epochs(net, images, labels, batch_size, config, evaluations)


def _epochs(
    net: MLP, images: Any, labels: Any, batch_size: int, config: TrainConfig, evaluations: dict[str, Any]
) -> Iterator[EpochRecord]:
    backend, n = net.backend, len(images)
    with backend.active():
        device_images, device_labels = upload(backend, images, labels, net)
        running = Running(backend, n, net.dtype)
        optimizer = make_optimizer(net, config)
        step = TrainingStep(net, device_images, device_labels, optimizer, batch_size, running)
        evaluators = {name: Evaluation(net, *arrays) for name, arrays in evaluations.items()}
        best = net.parameters.copy() if config.patience else None
    schedule = make_schedule(config.schedule, config.warmup)
    steps, total = 0, config.epochs * batch_count(n, batch_size)
    best_loss, first_loss, waited, lr = math.inf, math.inf, 0, 0.0
    for epoch in range(config.epochs):
        with backend.active():
            started = time.perf_counter()
            order = backend.asarray(epoch_order(n, config.seed, epoch))
            for start, stop in batch_bounds(n, batch_size):
                # The rate in the middle of the step: the first step moves, the last one too.
                lr = config.learning_rate * schedule((steps + 0.5) / total)
                step.run(order, start, stop, lr)
                steps += 1
            result = running.result(device_labels[order])
            seconds = time.perf_counter() - started
            if epoch == 0:
                first_loss = running.mean_loss(0, min(batch_size, n))
            _check_converges(net, running, result, epoch, batch_size, first_loss)
            results = {name: evaluator.run() for name, evaluator in evaluators.items()}
        yield EpochRecord(
            epoch=epoch + 1,
            epochs=config.epochs,
            steps=steps,
            learning_rate=lr,
            train_loss=result.loss,
            train_accuracy=result.accuracy,
            val_loss=results["val"].loss if "val" in results else None,
            val_accuracy=results["val"].accuracy if "val" in results else None,
            test_loss=results["test"].loss if "test" in results else None,
            test_accuracy=results["test"].accuracy if "test" in results else None,
            train_seconds=seconds,
            samples_per_second=n / seconds,
        )
        if best is not None:
            if results["val"].loss < best_loss:
                best_loss, waited = results["val"].loss, 0
                backend.xp.copyto(best, net.parameters)
            else:
                waited += 1
            if waited >= config.patience or epoch + 1 == config.epochs:
                backend.xp.copyto(net.parameters, best)
                return


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


def _is_integer(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(name: str, found: object, expected: str) -> None:
    raise ConfigError(f"bad {name.replace('_', ' ')}", where=name, found=found, expected=expected)
