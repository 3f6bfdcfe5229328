"""Regression: numbers as targets, their scaling, errors and gradients; checkpoints, ranks and files."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support.thread_ranks import ThreadRank, on_ranks
from twostroke.backend import Backend
from twostroke.engine.targets import target_errors
from twostroke.engine.training import TrainingRun
from twostroke.errors import ConfigError, DataError, ModelError
from twostroke.models.checkpoint import restore, save_checkpoint
from twostroke.ranks.data_parallel import DistributedRun

LAYERS = [4, 8, 2]
SGD = ts.TrainConfig(epochs=4, batch_size="full", optimizer="sgd", lr=0.2, schedule="constant")


def numbers(n: int = 60, **options: Any) -> ts.Dataset:
    """Two targets of very different size, which are functions of the values, and noise."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(n + 20, 4))
    y = np.column_stack([2e5 + 3e4 * X[:, 0] * X[:, 1], X[:, 2] - 0.5 * X[:, 3] + rng.normal(0, 0.1, n + 20)])
    return ts.Dataset.from_arrays(X[:n], y[:n], X[n:], y[n:], task="regression", **options)


def network(data: ts.Dataset, **options: Any) -> ts.MLP:
    settings: dict[str, Any] = {"seed": 1, "dtype": "float64", "task": "regression"} | options
    if "target_scaling" not in settings:
        settings["target_scaling"] = ts.Scaling.of(data.train_labels)
    return ts.MLP(LAYERS, **settings)


def test_a_data_set_of_numbers() -> None:
    data = numbers(classes=("price", "rent"))
    assert (data.regression, data.n_outputs, data.n_classes, data.train_labels.shape) == (True, 2, 0, (60, 2))
    one = ts.Dataset.from_arrays(data.train_images, [1, 2] * 30, data.test_images, [1.5] * 20, task="regression")
    assert one.train_labels.shape == (60, 1)
    assert one.train_labels.dtype == np.float64  # whole numbers are numbers too


def test_an_epoch_of_sgd_against_a_loop_written_here(backend: Backend) -> None:
    data = numbers()
    net = network(data, backend=backend)
    W1, b1, W2, b2 = (np.array(backend.to_host(part)) for layer in net.views for part in layer)
    mean, deviation = data.train_labels.mean(axis=0), data.train_labels.std(axis=0)
    T, X, n = (data.train_labels - mean) / deviation, data.train_images, 60
    hidden = np.maximum(X @ W1 + b1, 0)
    out = hidden @ W2 + b2
    (record,) = ts.fit(net, data, SGD.replace(epochs=1))
    assert record.train_loss == pytest.approx(0.5 * np.mean(np.sum((out - T) ** 2, axis=1)))
    rmse = np.sqrt(np.mean((out - T) ** 2, axis=0)) * deviation
    assert record.train_rmse == pytest.approx(rmse.mean())
    assert record.train_r2 == pytest.approx(np.mean(1 - np.mean((out - T) ** 2, axis=0)))
    dZ = (out - T) / n
    W2_new = W2 - 0.2 * hidden.T @ dZ
    dH = (dZ @ W2.T) * (hidden > 0)
    np.testing.assert_allclose(backend.to_host(net.weights[1]), W2_new, rtol=1e-9)
    np.testing.assert_allclose(backend.to_host(net.weights[0]), W1 - 0.2 * X.T @ dH, rtol=1e-9, atol=1e-12)
    # What it predicts, and how far that is away, is in the units of the targets.
    predicted = net.predict(data.test_images)
    assert predicted.shape == (20, 2)
    found = ts.evaluate(net, data.test_images, data.test_labels)
    errors = predicted - data.test_labels
    assert found.rmse == pytest.approx(np.sqrt(np.mean(errors**2, axis=0)).mean()) == pytest.approx(record.test_rmse)
    assert found.mae == pytest.approx(np.abs(errors).mean())
    assert found.r2 == pytest.approx(record.test_r2)
    assert math.isnan(found.accuracy)
    assert (record.train_accuracy, record.test_accuracy, record.val_rmse) == (None, None, None)


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_it_learns_on_every_device(backend: Backend, optimizer: Any, batch_size: int) -> None:
    data = numbers(n=60)
    net = network(data, dtype="float32", backend=backend)
    config = ts.TrainConfig(epochs=20 + batch_size, batch_size=batch_size, optimizer=optimizer, lr=0.01)
    records = ts.fit(net, data, config)
    assert records[-1].train_r2 is not None
    assert records[-1].train_r2 > 0.4
    assert records[-1].train_rmse is not None
    assert records[-1].train_rmse < 0.8 * (records[0].train_rmse or 0)


def test_errors_as_scikit_learn_counts_them() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    targets, predictions = rng.normal(3, 2, (50, 3)), rng.normal(3, 2, (50, 3))
    targets[:, 2] = 0.5  # constant
    found = target_errors(ts.select_backend("cpu", 1), predictions, targets)
    for k in range(3):
        assert found.r2[k] == pytest.approx(metrics.r2_score(targets[:, k], predictions[:, k]))
        assert found.mae[k] == pytest.approx(metrics.mean_absolute_error(targets[:, k], predictions[:, k]))
        assert found.rmse[k] ** 2 == pytest.approx(metrics.mean_squared_error(targets[:, k], predictions[:, k]))
    result = found.mean(0.0)
    assert result.r2 == pytest.approx(metrics.r2_score(targets, predictions))
    exact = target_errors(ts.select_backend("cpu", 1), targets, targets)
    assert exact.r2.tolist() == [1.0, 1.0, metrics.r2_score(targets[:, 2], targets[:, 2])]


def test_as_scikit_learn() -> None:
    """Full-batch SGD from the same weights, with weights of samples: scikit-learn's network."""
    neural_network = pytest.importorskip("sklearn.neural_network")
    weights = np.linspace(0, 2, 60)
    data = numbers(sample_weight=weights)
    T = ts.Scaling.of(data.train_labels)(data.train_labels, "float64")
    settings: dict[str, Any] = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "batch_size": 60, "random_state": 0}
    settings |= {"hidden_layer_sizes": (8,), "max_iter": 5, "tol": 0.0}

    def theirs(rate: float) -> Any:
        model = neural_network.MLPRegressor(learning_rate_init=rate, **settings)
        with pytest.warns(Warning, match="Maximum iterations"):
            return model.fit(data.train_images, T, weights)

    start, end = theirs(1e-300), theirs(0.1)
    flat = [part.ravel() for pair in zip(start.coefs_, start.intercepts_, strict=True) for part in pair]
    net = network(data, parameters=np.concatenate(flat))
    records = ts.fit(net, data, SGD.replace(epochs=5, lr=0.1))
    for mine, other in zip(net.weights, end.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-10)
    # Its loss is a mean over the targets, ours the sum of them.
    np.testing.assert_allclose([record.train_loss / 2 for record in records], end.loss_curve_, rtol=1e-9)


def test_counts_by_the_poisson_loss() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4))
    y = rng.poisson(np.exp(1 + 0.5 * X[:, 0]))
    data = ts.Dataset.from_arrays(X[:300], y[:300], X[300:], y[300:], task="regression")
    net = ts.MLP([4, 8, 1], task="regression", loss="poisson", seed=1)
    assert net.output == "exp"
    records = ts.fit(net, data, ts.TrainConfig(epochs=30, batch_size=20, lr=0.02))
    assert records[-1].test_r2 is not None
    assert records[-1].test_r2 > 0.2
    assert (net.predict(X) > 0).all()
    with pytest.raises(DataError, match="negative targets: train_labels: found -1"):
        ts.fit(net, replace(data, train_labels=data.train_labels - 1 - data.train_labels.min()))


def test_a_run_resumes_to_the_bit(tmp_path: Path) -> None:
    data = numbers()
    config = ts.TrainConfig(epochs=3, batch_size=16, optimizer="adam", val_size=10, patience=2)

    def start() -> TrainingRun:
        return TrainingRun(network(data, dtype="float32"), data, config)

    whole, first, second = start(), start(), start()
    while not whole.done:
        whole.advance()
    first.advance()
    first.advance(2)
    save_checkpoint(first, data, tmp_path / "c.safetensors")
    restore(second, data, tmp_path / "c.safetensors")
    while not second.done:
        second.advance()
    assert second.net.parameters.tobytes() == whole.net.parameters.tobytes()
    clock = {"train_seconds": 0.0, "samples_per_second": 0.0}
    assert [replace(r, **clock) for r in second.history] == [replace(r, **clock) for r in whole.history]
    other = TrainingRun(ts.MLP([4, 8, 2], dtype="float32", seed=1), classes_of(data), config)
    with pytest.raises(ConfigError, match="task regression there and classification here"):
        restore(other, data, tmp_path / "c.safetensors")


def classes_of(data: ts.Dataset) -> ts.Dataset:
    labels = [(part[:, 0] > 2e5).astype(int) for part in (data.train_labels, data.test_labels)]
    return ts.Dataset.from_arrays(data.train_images, labels[0], data.test_images, labels[1])


def test_ranks_compute_what_one_process_does() -> None:
    data = numbers()
    config = ts.TrainConfig(epochs=2, batch_size=16, val_size=9)

    def finished(run: TrainingRun) -> TrainingRun:
        while not run.done:
            run.advance()
        return run

    alone = finished(TrainingRun(network(data), data, config))

    def work(ranks: ThreadRank) -> TrainingRun:
        backend = ts.select_backend("cpu", 1)
        return finished(DistributedRun(network(data), data, config, backend, communicator=ranks))

    for run in on_ranks(3, work):
        np.testing.assert_allclose(run.net.parameters, alone.net.parameters, rtol=1e-9, atol=1e-12)
        for one, other in zip(run.history, alone.history, strict=True):
            for name in ("train_rmse", "train_r2", "val_rmse", "test_r2", "val_loss"):
                assert getattr(one, name) == pytest.approx(getattr(other, name)), name


@pytest.mark.parametrize("scaled", [True, False])
def test_files_and_copies_keep_the_scaling_of_the_targets(scaled: bool, tmp_path: Path) -> None:
    data = numbers()
    net = network(data, classes=("price", "rent"), scaling=ts.Scaling.of(data.train_images))
    if not scaled:
        net.target_scaling = None
    expected = net.predict(data.test_images)
    ts.save_model(net, tmp_path / "m.safetensors")
    for other in (ts.load_model(tmp_path / "m.safetensors"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other.predict(data.test_images), expected)
        assert (other.task, other.classes) == ("regression", ("price", "rent"))
    net.target_scaling = ts.Scaling(np.zeros(2), np.array([1.0, 0.0]))
    ts.save_model(net, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="a deviation that is not above 0"):
        ts.load_model(tmp_path / "bad.safetensors")
    net.task = "classification"
    ts.save_model(net, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="a scaling of targets, of classification with output identity"):
        ts.load_model(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnx_gives_the_values(scaled: bool, dtype: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    data = numbers()
    net = network(data, dtype=dtype, scaling=ts.Scaling.of(data.train_images))
    if not scaled:
        net.target_scaling = None
    written = ts.export_onnx(net, tmp_path / "m.onnx", inputs="scaled")
    assert [*written["outputs"]] == ["values"]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (values,) = session.run(None, {"input": data.test_images.astype(dtype)})
    expected = net.predict(data.test_images.astype(dtype))
    np.testing.assert_allclose(values, expected, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"] * 30, "targets of the wrong type: train_labels: .*Leave task='regression'"),
        (np.full(60, np.nan), "NaN or infinite targets: train_labels: found value nan at index"),
        (np.full(60, 1e39), "at most 3.403e"),
        (np.ones((60, 2, 2)), r"not the targets of samples: train_labels: found shape \(60, 2, 2\)"),
        (np.ones((59, 2)), "differ in number"),
    ],
)
def test_bad_targets(labels: Any, message: str) -> None:
    X = np.zeros((60, 4))
    with pytest.raises(DataError, match=message):
        ts.Dataset.from_arrays(X, labels, X[:2], np.ones((2, 2)), task="regression")


def test_a_classifier_given_numbers_is_told_of_the_option() -> None:
    data = numbers()
    for labels in (data.train_labels, data.train_labels[:, 1]):
        with pytest.raises(DataError, match=r"Numbers to be predicted\? Use task='regression' \(--task regression\)"):
            ts.Dataset.from_arrays(data.train_images, labels, data.train_images, labels)
    with pytest.raises(ConfigError, match="does not fit the data: task: found classification, expected regression"):
        ts.fit(ts.MLP(LAYERS), data)
    with pytest.raises(ConfigError, match="does not fit the data: task: found regression, expected classification"):
        ts.fit(network(data), classes_of(data))
    with pytest.raises(ConfigError, match=r"the network does not fit the data: layers: .* 4 inputs and 2 outputs"):
        ts.fit(ts.MLP([4, 3], task="regression"), data)  # no output is left over, as it may be of classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ranking"}, "unknown task: task: found 'ranking', expected classification or regression"),
        ({"task": "regression", "loss": "cross-entropy"}, "a loss of classes: loss: found cross-entropy"),
        ({"task": "regression", "output": "softmax"}, "an output of classes: output: found softmax"),
        ({"target_scaling": ts.Scaling(np.zeros(2), np.ones(2))}, "no targets to standardise: target_scaling"),
        (
            {"task": "regression", "output": "relu", "target_scaling": ts.Scaling(np.zeros(2), np.ones(2))},
            "no targets to standardise: target_scaling: found task regression, output relu",
        ),
        (
            {"task": "regression", "target_scaling": ts.Scaling(np.zeros(3), np.ones(3))},
            r"bad scaling: target_scaling.mean: found shape \(3,\), expected \(2,\)",
        ),
    ],
)
def test_what_makes_no_regression(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ts.MLP(LAYERS, **options)


def test_numbers_have_no_probabilities_and_no_classes() -> None:
    data = numbers()
    with pytest.raises(ConfigError, match=r"numbers have no probabilities.*Use predict\(X\)"):
        network(data).predict_proba(data.test_images)
    with pytest.raises(ConfigError, match="a regression has no classes: class_weight"):
        ts.fit(network(data), data, SGD.replace(class_weight="balanced"))
    with pytest.raises(ConfigError, match="unknown task: task: found 'ranking'"):
        ts.Dataset.from_arrays([[1.0]], [1], [[1.0]], [1], task="ranking")


def test_a_target_that_never_changes_is_doubted() -> None:
    data = numbers(classes=("price", "rent"))
    constant = replace(data, train_labels=data.train_labels * [1, 0])
    with pytest.warns(UserWarning, match="the target rent is the same in all training samples"):
        records = ts.fit(network(constant), constant, SGD)
    assert np.isfinite(records[-1].train_loss)


def test_a_quadratic_loss_alone_still_trains_a_classifier() -> None:
    data = classes_of(numbers())
    net = ts.MLP(LAYERS, loss="quadratic", output="identity", seed=1)
    (record,) = ts.fit(net, data, SGD.replace(epochs=1))
    assert record.train_accuracy is not None
    assert record.train_rmse is None
    assert net.predict(data.test_images).dtype == np.int64
