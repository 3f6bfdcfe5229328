"""Training: an epoch against a loop written here, repeatability, early stopping, divergence, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final, get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

import twostroke as ts
from twostroke.backend import Backend
from twostroke.data.dataset import TASKS
from twostroke.engine.batches import epoch_order
from twostroke.engine.config import DEFAULT_LEARNING_RATE, TrainConfig
from twostroke.engine.evaluation import evaluate
from twostroke.engine.initializers import INITIALIZERS
from twostroke.engine.kernels import ACTIVATIONS, LOSSES
from twostroke.engine.mlp import DTYPES, MOST_ROWS
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.schedules import SCHEDULES, make_schedule
from twostroke.engine.training import EpochRecord, TrainingRun, train
from twostroke.errors import ConfigError, DataError, DivergenceError

Floats = NDArray[np.float64]
TIMES = ("train_seconds", "samples_per_second")
DOUBTED = pytest.mark.filterwarnings("ignore:the values of arrays|.* classes have no training sample")


def blobs(n: int = 50, d: int = 6, k: int = 3, seed: int = 1, n_test: int = 20) -> ts.Dataset:
    """Noisy pixels around one random picture for each class."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(40, 215, (k, d))

    def part(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        labels = np.resize(np.arange(k), count).astype(np.uint8)
        pixels = np.clip(centres[labels] + rng.normal(0, 30, (count, d)), 0, 255).astype(np.uint8)
        return pixels, labels

    return ts.Dataset.from_arrays(*part(n), *part(n_test), n_classes=k, name="blobs")


def scaled(data: ts.Dataset, dtype: str) -> ts.Dataset:
    """The same pictures as floats 0..1."""
    white = np.dtype(dtype).type(255)
    train_images, test_images = (a.astype(dtype) / white for a in (data.train_images, data.test_images))
    return dataclasses.replace(data, train_images=train_images, test_images=test_images)


def facts(record: EpochRecord) -> dict[str, Any]:
    """A record without its clock."""
    return {key: value for key, value in dataclasses.asdict(record).items() if key not in TIMES}


def relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class Reference:
    """Forward, loss and gradient as the formulas say, in float64, one plain expression each."""

    def __init__(self, net: ts.MLP) -> None:
        self.activation, self.output, self.loss = net.activation, net.output, net.loss
        self.W = [np.array(net.backend.to_host(W), np.float64) for W in net.weights]
        self.b = [np.array(net.backend.to_host(b), np.float64) for b in net.biases]

    @property
    def flat(self) -> Floats:
        return np.concatenate([np.concatenate([W.ravel(), b.ravel()]) for W, b in zip(self.W, self.b, strict=True)])

    @staticmethod
    def apply(name: str, Z: Floats) -> Floats:
        if name == "softmax":
            E = np.exp(Z - Z.max(axis=1, keepdims=True))
            return np.asarray(E / E.sum(axis=1, keepdims=True))
        if name == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-Z)))
        return np.asarray({"relu": np.where(Z > 0, Z, 0.0), "tanh": np.tanh(Z), "identity": Z}[name])

    @staticmethod
    def slope(name: str, A: Floats) -> Floats:
        slopes = {"relu": (A > 0) * 1.0, "tanh": 1 - A**2, "sigmoid": A * (1 - A), "identity": np.ones_like(A)}
        return np.asarray(slopes[name])

    def forward(self, X: Floats) -> list[Floats]:
        A = [X]
        for index, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            name = self.output if index == len(self.W) - 1 else self.activation
            A.append(self.apply(name, A[-1] @ W + b))
        return A

    def losses(self, A: Floats, T: Floats) -> Floats:
        if self.loss == "quadratic":
            return np.asarray(0.5 * ((A - T) ** 2).sum(axis=1))
        if self.output == "softmax":
            return np.asarray(-(T * np.log(A)).sum(axis=1))
        return np.asarray(-(T * np.log(A) + (1 - T) * np.log(1 - A)).sum(axis=1))

    def gradient(self, X: Floats, T: Floats) -> tuple[Floats, Floats, list[Floats], list[Floats]]:
        """The losses of each row, the outputs, and dW, db of the mean loss."""
        A = self.forward(X)
        dZ = (A[-1] - T) / len(X)
        if self.loss == "quadratic":
            dZ = dZ * self.slope(self.output, A[-1])
        dW: list[Floats] = []
        db: list[Floats] = []
        for index in reversed(range(len(self.W))):
            dW.insert(0, A[index].T @ dZ)
            db.insert(0, dZ.sum(axis=0, keepdims=True))
            if index:
                dZ = (dZ @ self.W[index].T) * self.slope(self.activation, A[index])
        return self.losses(A[-1], T), A[-1], dW, db


def reference_training(net: ts.MLP, data: ts.Dataset, config: TrainConfig, batch_size: int) -> tuple[Floats, Any]:
    """SGD and momentum, one-cycle and constant, written out; parameters and (loss, accuracy) of each epoch."""
    reference, history = Reference(net), []
    X, labels = data.train_images / 255.0, data.train_labels
    T = np.eye(data.n_classes)[labels]
    n, step = len(X), 0
    starts = range(0, n, batch_size)
    total = config.epochs * len(starts)
    velocity_W, velocity_b = [0.0 * W for W in reference.W], [0.0 * b for b in reference.b]
    mu = config.momentum if config.optimizer == "momentum" else 0.0
    for epoch in range(config.epochs):
        order = epoch_order(n, config.seed, epoch)
        losses: list[float] = []
        hits = 0
        for start in starts:
            rows = order[start : start + batch_size]
            progress = (step + 0.5) / total
            factor = min(progress / config.warmup, (1 - progress) / (1 - config.warmup))
            lr = config.learning_rate * (factor if config.schedule == "one-cycle" else 1.0)
            step += 1
            batch_losses, A, dW, db = reference.gradient(X[rows], T[rows])
            losses += batch_losses.tolist()
            hits += int((A.argmax(axis=1) == labels[rows]).sum())
            for index in range(len(velocity_W)):
                velocity_W[index] = mu * velocity_W[index] - lr * (dW[index] + config.l2 * reference.W[index])
                velocity_b[index] = mu * velocity_b[index] - lr * db[index]
                reference.W[index] = reference.W[index] + velocity_W[index]
                reference.b[index] = reference.b[index] + velocity_b[index]
        history.append((sum(losses) / n, hits / n))
    return reference.flat, history


# --- the generator and its records ---------------------------------------------------------------------------


def test_train_is_a_generator_of_one_record_per_epoch() -> None:
    data = blobs()
    records = train(ts.MLP([6, 8, 3]), data, TrainConfig(epochs=3, batch_size=8))
    assert isinstance(records, types.GeneratorType)
    seen = list(records)
    assert all(isinstance(record, EpochRecord) for record in seen)
    assert [record.epoch for record in seen] == [1, 2, 3]
    assert [record.epochs for record in seen] == [3, 3, 3]
    assert [record.steps for record in seen] == [7, 14, 21]  # 6 batches of 8 and one of 2
    for record in seen:
        assert record.val_loss is None
        assert record.val_accuracy is None
        assert record.test_loss is not None
        assert record.samples_per_second == pytest.approx(50 / record.train_seconds)
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.epoch = 0


def test_nothing_is_trained_before_the_first_next() -> None:
    net = ts.MLP([6, 3])
    before = net.parameters.copy()
    records = train(net, blobs(n=200), TrainConfig(epochs=1))
    assert np.array_equal(net.parameters, before)
    next(records)
    assert not np.array_equal(net.parameters, before)


def test_doubtful_data_are_told_where_train_is_called() -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 6)).astype("float32"), np.arange(60) % 2 * 2
    data = ts.Dataset.from_arrays(images, labels, images, labels)
    with pytest.warns(UserWarning, match="values of arrays|without a gap") as told:
        ts.fit(ts.MLP([6, 3]), data, TrainConfig(epochs=1, batch_size=30, lr=1e-6))
    assert [str(one.message).partition(":")[0][:30] for one in told] == [
        "the values of arrays lie in 0.",
        "1 of 3 classes have no trainin",
    ]
    assert {one.filename for one in told} == {__file__}
    with pytest.warns(UserWarning, match="values of arrays|without a gap") as told:
        list(train(ts.MLP([6, 3]), data, TrainConfig(epochs=1, batch_size=30, lr=1e-6)))
    assert {one.filename for one in told} == {__file__}


def test_records_that_nobody_walks_are_told() -> None:
    with pytest.warns(UserWarning, match=r"nothing was trained: .* Use for record in train\(\.\.\.\), or fit") as told:
        train(ts.MLP([6, 3]), blobs(n=200))
    assert told[0].filename == __file__
    next(train(ts.MLP([6, 3]), blobs(n=200)))  # what was begun may be left


def test_test_set_is_left_alone_on_request() -> None:
    (record,) = train(ts.MLP([6, 3]), blobs(n=200), TrainConfig(epochs=1, evaluate_test=False))
    assert (record.test_loss, record.test_accuracy) == (None, None)


def test_default_config_trains() -> None:
    records = list(train(ts.MLP([6, 3]), blobs(n=200)))
    assert len(records) == TrainConfig().epochs


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_same_seed_gives_the_same_bits(optimizer: str) -> None:
    def run(seed: int) -> tuple[Any, list[dict[str, Any]]]:
        net = ts.MLP([6, 8, 3], seed=5)
        config = TrainConfig(epochs=3, batch_size=8, seed=seed, optimizer=optimizer, l2=1e-3, val_size=9)
        records = [facts(record) for record in train(net, blobs(), config)]
        return net.parameters.tobytes(), records

    assert run(0) == run(0)
    other_parameters, other_records = run(1)
    assert other_parameters != run(0)[0]
    assert other_records != run(0)[1]


def test_weights_depend_on_the_network_s_seed_only() -> None:
    assert np.array_equal(ts.MLP([6, 8, 3], seed=3).parameters, ts.MLP([6, 8, 3], seed=3).parameters)
    assert not np.array_equal(ts.MLP([6, 8, 3], seed=3).parameters, ts.MLP([6, 8, 3], seed=4).parameters)


# --- the maths of an epoch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "schedule", "l2", "batch_size"),
    [
        ("sgd", "constant", 0.0, 8),
        ("sgd", "one-cycle", 0.01, 7),
        ("momentum", "one-cycle", 0.0, 10),
        ("momentum", "constant", 0.02, 50),
        ("sgd", "constant", 0.0, 1),
    ],
)
@pytest.mark.parametrize("network", ["relu/cross-entropy/softmax", "tanh/cross-entropy/sigmoid", "sigmoid/quadratic/"])
def test_training_equals_a_loop_written_from_the_formulas(
    backend: Backend, network: str, optimizer: str, schedule: str, l2: float, batch_size: int
) -> None:
    activation, loss, output = network.split("/")
    net = ts.MLP([6, 7, 5, 3], activation, loss, seed=2, dtype="float64", output=output or None)
    data = blobs()
    config = TrainConfig(
        epochs=2, batch_size=batch_size, seed=4, optimizer=optimizer, lr=0.2, schedule=schedule, l2=l2, warmup=0.3
    )
    expected, history = reference_training(net, data, config, batch_size)
    records = list(train(net, data, config, backend=backend))
    assert relative(backend.to_host(net.parameters), expected) <= 1e-12
    for record, (mean_loss, accuracy) in zip(records, history, strict=True):
        assert record.train_loss == pytest.approx(mean_loss, rel=1e-12)
        assert record.train_accuracy == pytest.approx(accuracy, abs=1e-12)


def test_full_batch_is_one_hand_written_step() -> None:
    data = blobs(n=12)
    net = ts.MLP([6, 3], "identity", "quadratic", seed=1, dtype="float64", output="identity")
    W, b = net.weights[0].copy(), net.biases[0].copy()
    X, T = data.train_images / 255.0, np.eye(3)[data.train_labels]
    residual = X @ W + b - T
    config = TrainConfig(epochs=1, batch_size="full", optimizer="sgd", lr=0.25, schedule="constant")
    (record,) = train(net, data, config)
    assert record.steps == 1
    assert record.train_loss == pytest.approx(0.5 * (residual**2).sum() / 12, rel=1e-13)
    np.testing.assert_allclose(net.weights[0], W - 0.25 * X.T @ residual / 12, rtol=0, atol=1e-14)
    np.testing.assert_allclose(net.biases[0][0], b[0] - 0.25 * residual.mean(axis=0), rtol=0, atol=1e-14)


def test_a_batch_size_beyond_the_samples_is_clipped_with_one_warning() -> None:
    data = blobs(n=20)
    net, full = ts.MLP([6, 4, 3], seed=1), ts.MLP([6, 4, 3], seed=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clipped = list(train(net, data, TrainConfig(epochs=3, batch_size=21)))
    assert [str(w.message) for w in caught] == ["batch_size 21 is larger than the 20 samples: using these"]
    assert caught[0].filename == __file__
    whole = list(train(full, data, TrainConfig(epochs=3, batch_size="full")))
    assert np.array_equal(net.parameters, full.parameters)
    assert [facts(r) for r in clipped] == [facts(r) for r in whole]
    exact = ts.MLP([6, 4, 3], seed=1)
    list(train(exact, data, TrainConfig(epochs=3, batch_size=20)))  # no warning: those are errors here
    assert np.array_equal(exact.parameters, full.parameters)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 5e-6), ("float64", 1e-12)])
def test_pixels_and_scaled_floats_train_alike(backend: Backend, dtype: str, limit: float) -> None:
    data, parameters, losses = blobs(), [], []
    for source in (data, scaled(data, dtype)):
        net = ts.MLP([6, 8, 3], seed=1, dtype=dtype)
        records = list(train(net, source, TrainConfig(epochs=2, batch_size=8), backend=backend))
        parameters.append(backend.to_host(net.parameters).copy())
        losses.append(np.array([(record.train_loss, record.test_loss) for record in records], float))
    assert relative(parameters[0], parameters[1]) <= limit
    np.testing.assert_allclose(losses[0], losses[1], rtol=limit)


def test_float64_trains_in_float64_and_float32_stays_near() -> None:
    nets = [ts.MLP([6, 8, 3], seed=1, dtype=dtype) for dtype in ("float32", "float64")]
    for net in nets:
        list(train(net, blobs(), TrainConfig(epochs=2, batch_size=8)))
        assert net.parameters.dtype == net.dtype
    difference = relative(nets[0].parameters.astype(np.float64), nets[1].parameters)
    assert 1e-12 < difference < 1e-4  # not the same arithmetic, but the same training


def test_training_on_another_device_is_the_training_on_numpy(backend: Backend) -> None:
    data = blobs(n=77)
    config = TrainConfig(epochs=3, batch_size=16, val_size=0.2, optimizer="adam", l2=1e-3)
    here, there = ts.MLP([6, 9, 3], seed=1), ts.MLP([6, 9, 3], seed=1)
    on_host = [facts(record) for record in train(here, data, config)]
    on_device = [facts(record) for record in train(there, data, config, backend=backend)]
    assert there.backend is backend
    found = backend.to_host(there.parameters)
    if backend.name == "cupy":
        assert relative(found, here.parameters) <= 1e-4
    else:
        assert np.array_equal(found, here.parameters)
        assert on_device == on_host


def test_without_a_backend_the_network_trains_where_it_is(backend: Backend) -> None:
    net = ts.MLP([6, 3], backend=backend)
    list(train(net, blobs(n=200), TrainConfig(epochs=1)))
    assert net.backend is backend
    assert ts.array_module(net.parameters) is backend.xp


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_that_train_on_one_backend_get_the_serial_result() -> None:
    backend = ts.select_backend("cpu", threads=1)

    def run(_: int = 0) -> bytes:
        net = ts.MLP([6, 8, 3], seed=1)
        list(train(net, blobs(n=200), TrainConfig(epochs=3, batch_size=4), backend=backend))
        return bytes(net.parameters.tobytes())

    expected, interval = run(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(run, range(24))) == {expected}
    finally:
        sys.setswitchinterval(interval)


def test_mnist_in_one_epoch() -> None:
    data = ts.load_dataset("mnist")
    net = ts.MLP([784, 64, 10], seed=0)
    (record,) = train(net, data, TrainConfig(epochs=1, batch_size=128, seed=0))
    assert record.test_accuracy is not None
    assert record.test_accuracy > 0.95
    assert (net.predict(data.test_images) == data.test_labels).mean() == pytest.approx(record.test_accuracy)


# --- held-out samples, early stopping --------------------------------------------------------------------------


@pytest.mark.parametrize(("val_size", "held"), [(10, 10), (0.3, 15)])
def test_held_out_samples_take_no_part(val_size: float, held: int) -> None:
    data = blobs(n=50)
    rest, val_images, val_labels = data.split(val_size, seed=3)
    assert (len(val_images), len(val_labels), len(rest.train_images)) == (held, held, 50 - held)
    rows = {row.tobytes() for row in rest.train_images}
    assert not rows & {row.tobytes() for row in val_images}
    assert rows | {row.tobytes() for row in val_images} == {row.tobytes() for row in data.train_images}
    net, without = ts.MLP([6, 4, 3], seed=1), ts.MLP([6, 4, 3], seed=1)
    for record in train(net, data, TrainConfig(epochs=2, batch_size=8, seed=3, val_size=val_size)):
        loss, accuracy, *_ = evaluate(net, val_images, val_labels)
        assert record.val_loss == pytest.approx(loss)
        assert record.val_accuracy == pytest.approx(accuracy)
    list(train(without, rest, TrainConfig(epochs=2, batch_size=8, seed=3)))
    assert np.array_equal(net.parameters, without.parameters)


def noise(n: int = 40) -> ts.Dataset:
    """Random labels: what is learnt by heart makes the validation loss rise."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (n, 6), dtype=np.uint8), rng.integers(0, 3, n)
    return ts.Dataset.from_arrays(images, labels, images, labels, n_classes=3)


OVERFITS: Final = TrainConfig(epochs=10, batch_size=5, schedule="constant", optimizer="adam", lr=0.05, val_size=15)


@pytest.mark.parametrize(("epochs", "patience"), [(60, 3), (60, 1), (7, 6), (7, 0)])
def test_the_best_parameters_are_kept(backend: Backend, epochs: int, patience: int) -> None:
    """With patience, and to the last epoch with keep."""
    net = ts.MLP([6, 24, 3], seed=1)
    config = OVERFITS.replace(epochs=epochs, patience=patience, keep="last" if patience else "best")
    losses, snapshots = [], []
    for record in train(net, noise(), config, backend=backend):
        assert record.val_loss is not None
        losses.append(record.val_loss)
        snapshots.append(backend.to_host(net.parameters).copy())
    best = int(np.argmin(losses))
    assert best < len(losses) - 1, "the data must overfit for this test to say anything"
    assert np.array_equal(backend.to_host(net.parameters), snapshots[best])
    # It stops at the first run of `patience` epochs without a new minimum, not before and not after.
    since, lowest, expected = 0, math.inf, epochs
    for number, loss in enumerate(losses, start=1):
        since, lowest = (0, loss) if loss < lowest else (since + 1, lowest)
        if patience and since == patience:
            expected = number
            break
    assert len(losses) == expected


def test_without_patience_the_last_parameters_stay() -> None:
    net = ts.MLP([6, 24, 3], seed=1)
    last = net.parameters
    for _ in train(net, noise(), OVERFITS):
        last = net.parameters.copy()
    assert np.array_equal(net.parameters, last)


def test_the_last_parameters_are_there_beside_the_best() -> None:
    last = ts.MLP([6, 24, 3], seed=1)
    losses = [record.val_loss or 0.0 for record in train(last, noise(), OVERFITS)]
    run = TrainingRun(ts.MLP([6, 24, 3], seed=1), noise(), OVERFITS.replace(keep="best"))
    while not run.done:
        run.advance()
    assert run.best is not None
    assert np.array_equal(run.best, last.parameters)
    assert run.kept_epoch == 1 + losses.index(min(losses)) < run.epoch


# --- divergence --------------------------------------------------------------------------------------------------


def diverging(config: TrainConfig, net: ts.MLP, data: ts.Dataset) -> tuple[list[EpochRecord], DivergenceError]:
    """What was yielded, and the error. NumPy's own overflow warnings would be errors here: there are none."""
    records: list[EpochRecord] = []
    with pytest.raises(DivergenceError) as caught:
        records.extend(train(net, data, config))  # extend keeps what came before the error
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert "Lower" in str(caught.value)
    for record in records:
        assert math.isfinite(record.train_loss)
        assert record.test_loss is not None
        assert math.isfinite(record.test_loss)
    return records, caught.value


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize(("loss", "output"), [("cross-entropy", "softmax"), ("quadratic", "identity")])
@pytest.mark.parametrize("lr", [1e6, 1e15])
def test_divergence_is_an_error_and_no_record(optimizer: str, loss: str, output: str, lr: float) -> None:
    config = TrainConfig(epochs=5, batch_size=8, lr=lr, optimizer=optimizer, schedule="constant")
    _, error = diverging(config, ts.MLP([6, 8, 8, 3], "relu", loss, output=output), blobs())
    assert re.search(r"training diverged: epoch \d(, step \d+|, last step)?: found ", str(error))


def test_divergence_names_the_step_and_the_loss_before() -> None:
    data, net = blobs(), ts.MLP([6, 8, 8, 3], seed=1)
    first = epoch_order(50, 0, 0)[:5]
    before = evaluate(net, data.train_images[first], data.train_labels[first]).loss
    config = TrainConfig(epochs=2, batch_size=5, lr=1e20, optimizer="sgd", schedule="constant")
    records, error = diverging(config, net, data)
    assert records == []
    assert "epoch 1, step 2: found a loss that is not finite" in str(error)
    assert f": {before:.3g})" in str(error)


def test_divergence_in_a_later_epoch_names_it() -> None:
    net = ts.MLP([6, 8, 3], seed=1)
    records = train(net, blobs(), TrainConfig(epochs=3, batch_size=10, lr=0.1))
    assert math.isfinite(next(records).train_loss)
    net.parameters[:] = np.inf
    with pytest.raises(DivergenceError, match=r"epoch 2, step 1: "):
        next(records)


def test_a_loss_that_exploded_is_divergence_before_it_overflows() -> None:
    net = ts.MLP([6, 3], seed=1)
    records = train(net, blobs(), TrainConfig(epochs=3, batch_size=10, lr=0.1))
    next(records)
    net.parameters[:] = np.resize([1e6, -1e6, 3e6, 2e6], 21)
    with pytest.raises(DivergenceError, match=r"epoch 2: found a mean loss of .*e\+0\d after one of"):
        next(records)


def test_a_rise_of_the_loss_alone_is_not_divergence() -> None:
    """A high rate at first, then it settles: that is what one-cycle schedules do."""
    config = TrainConfig(epochs=6, batch_size=5, lr=8.0, optimizer="sgd")
    records = list(train(ts.MLP([6, 16, 3], seed=1), blobs(), config))
    assert len(records) == 6


@DOUBTED
def test_weights_ruined_by_the_last_step_are_found() -> None:
    images = np.full((4, 2), 1e4, np.float32)
    data = ts.Dataset.from_arrays(images, [0, 1, 1, 1], images, [0, 1, 1, 1])
    config = TrainConfig(epochs=1, batch_size="full", lr=1e38, optimizer="sgd", schedule="constant")
    records, error = diverging(config, ts.MLP([2, 2]), data)
    assert records == []
    assert "epoch 1, last step: found weights that are not finite" in str(error)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(("epochs", value, "an integer >= 1") for value in (-1, 0, 1.5, True, "4", None, math.nan, 10**9 + 1)),
        *(("lr", value, "a finite number > 0") for value in (math.nan, math.inf, -math.inf, 0, 0.0, -1)),
        *(("batch_size", value, "an integer >= 1, or full") for value in (0, -3, "half", 1.5, None)),
        *(("momentum", value, "a number >= 0 and < 1") for value in (1, 1.5, -0.1, math.nan)),
        *(("dropout", value, "a number >= 0 and < 1") for value in (1, 1.5, -0.1, math.nan)),
        *(("l2", value, "a finite number >= 0") for value in (-1, math.nan, math.inf)),
        *(("warmup", value, "a fraction > 0 and < 1") for value in (0, 1, -0.5, 2, math.nan)),
        *(("seed", value, "an integer >= 0") for value in (-1, 0.5, "x", True)),
        *(("patience", value, "an integer >= 0") for value in (-1, 2.5)),
        ("patience", 3, "a validation part to watch"),
        ("keep", "best", "a validation part to watch"),
        *(("keep", value, "last or best") for value in ("first", None, 1)),
        *(
            ("val_size", value, "a fraction >= 0 and < 1, or a whole number of samples")
            for value in (-1, math.nan, math.inf)
        ),
        ("optimizer", "lbfgs", " or ".join(OPTIMIZERS)),
        ("optimizer", "os.system", " or ".join(OPTIMIZERS)),
        ("schedule", "warm", " or ".join(SCHEDULES)),
    ],
)
def test_a_bad_setting_names_itself_its_value_and_its_range(name: str, value: Any, allowed: str) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**settings)
    shown = repr(value) if name in ("optimizer", "schedule", "keep") else str(value)
    assert f": {name}: " in str(caught.value)
    if value is not None:  # None is shown as nothing found
        assert f"found {shown}, expected {allowed}" in str(caught.value)
    assert allowed in str(caught.value)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError):
        TrainConfig().replace(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", True),
        ("lr", "0.1"),
        ("momentum", "x"),
        ("l2", "x"),
        ("warmup", None),
        ("val_size", "x"),
        ("optimizer", ["sgd"]),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused(name: str, value: Any) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError):
        TrainConfig(**settings)


def test_numpy_s_numbers_are_numbers() -> None:
    config = TrainConfig(batch_size=np.int64(64), lr=np.float32(0.5), val_size=np.float64(0.25), evaluate_test=np.True_)
    assert config == TrainConfig(batch_size=64, lr=0.5, val_size=0.25)
    assert [type(value) for value in (config.batch_size, config.lr, config.evaluate_test)] == [int, float, bool]
    with pytest.raises(ConfigError, match="bad batch size: batch_size: found 0, expected an integer >= 1, or full"):
        TrainConfig(batch_size=np.int64(0))


def test_a_checker_knows_the_names() -> None:
    """The literals of the signatures are the names that are known."""
    hints = get_type_hints(TrainConfig) | get_type_hints(ts.MLP.__init__)
    known: dict[str, Any] = {
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "activation": ACTIVATIONS,
        "dtype": DTYPES,
        "task": TASKS,
    }
    for name, names in known.items():
        literal = next((each for each in get_args(hints[name]) if get_args(each)), hints[name])  # beside one's own kind
        assert set(get_args(literal)) == set(names), name
    outputs = {output for of_loss in LOSSES.values() for output in of_loss}
    assert set(get_args(get_args(hints["output"])[0])) == outputs
    assert set(get_args(get_args(hints["loss"])[0])) == set(LOSSES)
    assert set(get_args(get_args(hints["init"])[0])) == set(INITIALIZERS)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            {"config": {"epochs": 1}},
            "not a TrainConfig: config: found dict, expected a TrainConfig. Use TrainConfig(**config).",
        ),
        ({"data": np.zeros((3, 2))}, "not a Dataset: data: found ndarray, expected a Dataset"),
        ({"net": [2, 3]}, "not an MLP: net: found list, expected an MLP"),
        (
            {"backend": "cpu"},
            "not a backend: backend: found 'cpu', expected a Backend. Use backend=select_backend('cpu').",
        ),
    ],
)  # fmt: skip
def test_what_is_no_network_data_or_config_is_one_line(wrong: dict[str, Any], line: str) -> None:
    arguments: dict[str, Any] = {"net": ts.MLP([6, 3]), "data": blobs(), "config": TrainConfig(batch_size=9), **wrong}
    with pytest.raises(ConfigError) as caught:
        ts.train(**arguments)
    assert str(caught.value) == line


def test_fit_is_train_to_the_end() -> None:
    config = TrainConfig(epochs=3, batch_size=10)
    records = ts.fit(ts.MLP([6, 3]), blobs(), config)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert dataclasses.replace(records[-1], **dict.fromkeys(TIMES, 0)) == dataclasses.replace(
        list(ts.train(ts.MLP([6, 3]), blobs(), config))[-1], **dict.fromkeys(TIMES, 0)
    )


def test_the_edges_of_the_ranges_are_allowed() -> None:
    TrainConfig(epochs=1, batch_size=1, seed=0, lr=1e-30, momentum=0, l2=0, warmup=0.999, val_size=0.5, patience=1)
    config = TrainConfig()
    assert config.replace(lr=0.125, epochs=9) == TrainConfig(lr=0.125, epochs=9)
    assert config == TrainConfig()


def test_the_learning_rate_is_the_optimizer_s_unless_given() -> None:
    assert set(DEFAULT_LEARNING_RATE) == set(OPTIMIZERS)
    for optimizer, lr in DEFAULT_LEARNING_RATE.items():
        assert TrainConfig(optimizer=optimizer).learning_rate == lr
        assert TrainConfig(optimizer=optimizer, lr=0.7).learning_rate == 0.7


@pytest.mark.parametrize("layers", [[5, 3], [7, 4, 3], [6, 2]])
def test_a_network_that_does_not_fit_the_data_is_refused_at_once(layers: list[int]) -> None:
    with pytest.raises(ConfigError, match="6 inputs and 3 outputs for blobs") as caught:
        train(ts.MLP(layers), blobs())
    assert f"layers: found {','.join(map(str, layers))}" in str(caught.value)


def test_more_outputs_than_classes_are_allowed() -> None:
    assert len(list(train(ts.MLP([6, 5]), blobs(n=200), TrainConfig(epochs=1)))) == 1


@pytest.mark.parametrize(
    "val_size",
    [
        50,
        60,
        0.999,
        1e-9,
        1.5,
    ],
)
def test_a_split_that_leaves_a_side_empty_is_refused_at_once(val_size: float) -> None:
    with pytest.raises(ConfigError, match="val_size"):
        train(ts.MLP([6, 3]), blobs(n=50), TrainConfig(val_size=val_size, batch_size=8))


def put(array: Any, index: Any, value: Any) -> Any:
    array = np.array(array, np.float64)
    array[index] = value
    return array


IMAGE_FAULTS = {
    "nan": (lambda x: put(x, (3, 2), math.nan), "NaN or infinite"),
    "infinite": (lambda x: put(x, (3, 2), math.inf), "NaN or infinite"),
    "huge": (lambda x: put(x, (3, 2), 1e300), "beyond float32"),
    "objects": (lambda x: x.astype(object), "dtype object"),
    "complex": (lambda x: x.astype(complex), "dtype complex128"),
    "empty": (lambda x: x[:0], "0 samples"),
}
LABEL_FAULTS = {
    "negative": (lambda y: put(y, 4, -1), "value -1.0 at index 4"),
    "too large": (lambda y: put(y, 4, 3), "value 3.0 at index 4"),
    "fraction": (lambda y: put(y, 4, 1.5), "value 1.5 at index 4"),
    "one-hot": (lambda y: np.eye(3)[y], "not 1-D"),
    "strings": (lambda y: y.astype(str), "dtype"),
    "bool": (lambda y: y > 0, "dtype bool"),
    "too few": (lambda y: y[:-1], "differ in number"),
    "too many": (lambda y: np.resize(y, len(y) + 1), "differ in number"),
}
FAULTS = [
    *(("images", name, *fault) for name, fault in IMAGE_FAULTS.items()),
    *(("labels", name, *fault) for name, fault in LABEL_FAULTS.items()),
]


@pytest.mark.parametrize(("kind", "name", "spoil", "reason"), FAULTS)
def test_faulty_training_data_never_reach_the_network(kind: str, name: str, spoil: Any, reason: str) -> None:
    data, net = blobs(), ts.MLP([6, 3])
    before = net.parameters.tobytes()
    changes: dict[str, Any] = {f"train_{kind}": spoil(getattr(data, f"train_{kind}"))}
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        train(net, dataclasses.replace(data, **changes))  # the constructor checks nothing
    assert caught.value.exit_code == 4
    assert f"train_{kind}" in str(caught.value)
    assert net.parameters.tobytes() == before


@pytest.mark.parametrize(("kind", "name", "spoil", "reason"), FAULTS)
def test_faulty_data_are_refused_by_evaluate(kind: str, name: str, spoil: Any, reason: str) -> None:
    data = blobs()
    arrays = {"images": data.test_images, "labels": data.test_labels}
    arrays[kind] = spoil(arrays[kind])
    with pytest.raises(DataError, match=re.escape(reason)):
        evaluate(ts.MLP([6, 3]), **arrays)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [("images", IMAGE_FAULTS["nan"][0]), ("labels", lambda y: y + 3), ("labels", lambda y: y[:-1])],
)
def test_faulty_test_data_are_refused_before_training(kind: str, spoil: Any) -> None:
    data = blobs()
    changes: dict[str, Any] = {f"test_{kind}": spoil(getattr(data, f"test_{kind}"))}
    with pytest.raises(DataError):
        train(ts.MLP([6, 3]), dataclasses.replace(data, **changes))


def test_faulty_training_data_are_refused_with_a_split_too() -> None:
    data = blobs()
    broken = dataclasses.replace(data, train_labels=np.resize(data.train_labels, 60))
    with pytest.raises(DataError):
        train(ts.MLP([6, 3]), broken, TrainConfig(val_size=0.2))


# --- odd but sound data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "n_classes"),
    [
        (np.zeros((9, 4), np.uint8), [0, 1, 2] * 3, 3),
        (np.full((9, 4), 255, np.uint8), [0, 1, 2] * 3, 3),
        (np.arange(36, dtype=np.uint8).reshape(9, 4), [2] * 9, 3),
        (np.arange(36, dtype=np.uint8).reshape(9, 4), [0] * 9, 1),
        (np.array([[1, 2, 3, 4]], np.uint8), [1], 2),
        (np.array([[1, 2, 3, 4]], np.uint8), [299], 300),
    ],
    ids=["all black", "all white", "one class of three", "one class", "one sample", "300 classes"],
)
@DOUBTED
def test_odd_data_train(backend: Backend, images: Any, labels: list[int], n_classes: int) -> None:
    data = ts.Dataset.from_arrays(images, labels, images, labels, n_classes=n_classes)
    net = ts.MLP([4, 5, n_classes])
    config = TrainConfig(epochs=3, batch_size=min(4, len(labels)), optimizer="sgd", lr=0.5)
    records = list(train(net, data, config, backend=backend))
    assert len(records) == 3
    assert all(math.isfinite(record.train_loss) for record in records)
    if len(set(labels)) == 1:
        assert records[-1].test_accuracy == 1.0


# --- evaluate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "loss", "output"),
    [
        ("relu", "cross-entropy", "softmax"),
        ("tanh", "cross-entropy", "sigmoid"),
        ("sigmoid", "quadratic", "sigmoid"),
        ("relu", "quadratic", "identity"),
        ("tanh", "quadratic", "softmax"),
        ("identity", "quadratic", "tanh"),
        ("relu", "quadratic", "relu"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_evaluate_equals_a_forward_written_here(
    backend: Backend, activation: str, loss: str, output: str, dtype: str
) -> None:
    n = MOST_ROWS + 77  # two passes, the second short
    data = blobs(n=n)
    net = ts.MLP([6, 7, 3], activation, loss, seed=3, dtype=dtype, output=output, backend=backend)
    reference = Reference(net)
    outputs = reference.forward(data.train_images / 255.0)[-1]
    expected = reference.losses(outputs, np.eye(3)[data.train_labels]).mean()
    hits = outputs.argmax(axis=1) == data.train_labels
    found = evaluate(net, data.train_images, data.train_labels)
    assert found.loss == pytest.approx(expected, rel=1e-12 if dtype == "float64" else 1e-5)
    assert found.accuracy == pytest.approx(hits.mean(), abs=1e-12 if dtype == "float64" else 2 / n)
    assert isinstance(found.loss, float)
    assert isinstance(found.accuracy, float)
    again = evaluate(net, data.train_images, data.train_labels)
    assert again == found  # it changes nothing


def test_a_saturated_network_has_a_finite_loss() -> None:
    net = ts.MLP([1, 2], dtype="float32")
    net.parameters[:] = [1e4, -1e4, 0, 0]
    found = evaluate(net, np.array([[1.0], [1.0]], np.float32), [0, 1])
    assert found.loss == pytest.approx(1e4)  # (0 + 20,000) / 2
    assert found.accuracy == 0.5


# --- schedules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("constant", {0.0: 1.0, 0.3: 1.0, 0.99: 1.0}),
        ("one-cycle", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.4: 0.75, 0.6: 0.5, 0.8: 0.25, 1.0: 0.0}),
        ("step", {0.0: 1.0, 0.33: 1.0, 0.34: 0.1, 0.66: 0.1, 0.67: 0.01, 0.99: 0.01}),
        ("cosine", {0.0: 1.0, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1.0: 0.0}),
    ],
)
def test_schedules_by_hand(name: str, points: dict[float, float]) -> None:
    schedule = make_schedule(name)
    for progress, factor in points.items():
        assert schedule(progress) == pytest.approx(factor, abs=1e-12)


def test_the_warm_up_moves_the_peak() -> None:
    schedule = make_schedule("one-cycle", 0.5)
    assert [schedule(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.5, 1.0, 0.5, 0.0]
    with pytest.raises(ConfigError, match="schedule: found 'nope'"):
        make_schedule("nope")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Four epochs of one step: the rate in the middle of each, at 1/8, 3/8, 5/8, 7/8.
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("one-cycle", [0.125 / 0.2, 0.625 / 0.8, 0.375 / 0.8, 0.125 / 0.8]),
        ("step", [1.0, 0.1, 0.1, 0.01]),
        ("cosine", [(1 + math.cos(math.pi * p)) / 2 for p in (0.125, 0.375, 0.625, 0.875)]),
    ],
)
def test_records_hold_the_rate_of_their_last_step(schedule: str, expected: list[float]) -> None:
    config = TrainConfig(epochs=4, batch_size="full", lr=0.5, schedule=schedule)
    rates = [record.learning_rate for record in train(ts.MLP([6, 3]), blobs(), config)]
    assert rates == pytest.approx([0.5 * factor for factor in expected])


def test_one_cycle_peaks_at_the_warm_up_and_ends_near_zero() -> None:
    config = TrainConfig(epochs=40, batch_size="full", lr=1.0, warmup=0.25)
    rates = [record.learning_rate for record in train(ts.MLP([6, 3]), blobs(), config)]
    peak = int(np.argmax(rates))
    assert peak in (9, 10)
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.02


def test_a_run_says_how_far_its_epoch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever thread asks: the batch is noted while the epoch runs."""
    run = TrainingRun(ts.MLP([6, 3]), blobs(n=200), TrainConfig(epochs=1, batch_size=1))
    seen, steps = [], run._steps._captured.run

    def watched(first: int, stop: int) -> None:
        seen.append((run.epoch, run.batch, first))
        steps(first, stop)

    monkeypatch.setattr(run._steps._captured, "run", watched)
    assert run.advance() is not None
    assert [batch for _, batch, _ in seen] == [first for *_, first in seen]
    assert len(seen) > 1
    assert (run.epoch, run.batch) == (1, 0)
