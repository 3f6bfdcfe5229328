"""Weights of samples and classes: what they mean, against repeated samples and scikit-learn; what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support.thread_ranks import ThreadRank, on_ranks
from twostroke.backend import Backend
from twostroke.engine.training import TrainingRun
from twostroke.engine.weights import class_weights, relative_weights
from twostroke.models.checkpoint import restore, save_checkpoint
from twostroke.ranks.data_parallel import DistributedRun

LAYERS = [5, 6, 3]
SGD = ts.TrainConfig(epochs=4, batch_size="full", optimizer="sgd", lr=0.5, schedule="constant")


def samples(n: int = 40, sample_weight: Any = None, classes: tuple[str, ...] = ()) -> ts.Dataset:
    """Three classes that overlap; the first is the most frequent."""
    rng = np.random.default_rng(4)
    y = np.array([0, 0, 0, 1, 0, 2, 1, 0])[np.arange(n + 12) % 8]
    X = rng.normal(size=(n + 12, 5)) + 1.5 * np.eye(3, 5)[y]
    return ts.Dataset.from_arrays(X[:n], y[:n], X[n:], y[n:], sample_weight=sample_weight, classes=classes)


def trained(data: ts.Dataset, config: ts.TrainConfig, backend: Backend | None = None) -> tuple[Any, list[Any]]:
    """Parameters and records of a run in float64."""
    net = ts.MLP(LAYERS, seed=1, dtype="float64", backend=backend)
    records = ts.fit(net, data, config)
    return np.array(net.backend.to_host(net.parameters)), records


def test_a_weight_is_that_many_equal_samples(backend: Backend) -> None:
    counts = np.arange(40) % 4  # some weigh nothing
    data = samples(sample_weight=counts)
    rows = np.repeat(np.arange(40), counts)
    repeated = replace(
        data, train_images=data.train_images[rows], train_labels=data.train_labels[rows], sample_weight=None
    )
    weighted, records = trained(data, SGD, backend)
    expected, others = trained(repeated, SGD, backend)
    np.testing.assert_allclose(weighted, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(records, others, strict=True):
        assert math.isclose(one.train_loss, other.train_loss, rel_tol=1e-10)
        assert math.isclose(one.test_loss or 0, other.test_loss or 1, rel_tol=1e-10)


def test_balanced_is_that_many_samples_of_each_class() -> None:
    data = samples(n=40)
    counts = np.bincount(data.train_labels)
    assert counts.tolist() == [25, 10, 5]
    weights = class_weights("balanced", counts, ())
    np.testing.assert_allclose(weights, 40 / (3 * counts))
    by_class, _ = trained(data, SGD.replace(class_weight="balanced"))
    by_sample, _ = trained(replace(data, sample_weight=weights[data.train_labels]), SGD)
    np.testing.assert_array_equal(by_class, by_sample)
    assert (by_class != trained(data, SGD)[0]).any()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_class_weights_by_name_and_number_multiply_those_of_the_samples(optimizer: str) -> None:
    named = samples(classes=("ash", "1", "oak"))
    config = SGD.replace(batch_size=7, optimizer=optimizer, lr=0.1, dropout=0.3)
    factors = np.array([0.25, 2.0, 1.0])[named.train_labels]
    expected, _ = trained(replace(named, sample_weight=factors), config)
    for weights in ({"ash": 0.25, "1": 2}, {0: 0.25, np.int64(1): np.float32(2.0)}):
        np.testing.assert_array_equal(trained(named, config.replace(class_weight=weights))[0], expected)
    own = np.linspace(0.5, 3, 40)
    both, _ = trained(replace(named, sample_weight=own), config.replace(class_weight={"ash": 0.25, 1: 2.0}))
    np.testing.assert_array_equal(both, trained(replace(named, sample_weight=own * factors), config)[0])


def test_weights_are_relative_to_their_batch() -> None:
    weights, order = np.array([1.0, 3.0, 0.0, 0.0, 2.0]), np.array([4, 0, 2, 3, 1])
    relative, totals = relative_weights(weights, order, [(0, 2), (2, 4), (4, 5)])
    assert totals.tolist() == [3.0, 0.0, 3.0]
    np.testing.assert_allclose(relative, [2 / 3, 1.0, 0.0, 0.0, 4 / 3])
    assert relative_weights(None, order, [(0, 5)])[0] is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_weights_change_nothing(backend: Backend, dtype: Any) -> None:
    config = ts.TrainConfig(epochs=2, batch_size=16)
    nets = [ts.MLP(LAYERS, seed=1, dtype=dtype, backend=backend) for _ in range(2)]
    for net, weight in zip(nets, (None, np.full(40, 4.0)), strict=True):
        ts.fit(net, samples(sample_weight=weight), config)
    np.testing.assert_array_equal(*(net.backend.to_host(net.parameters) for net in nets))


def test_an_unweighted_run_has_no_weights_in_its_step() -> None:
    for given, expected in ((None, 0), (np.ones(40), 16)):
        run = TrainingRun(ts.MLP(LAYERS), samples(sample_weight=given), ts.TrainConfig(batch_size=16))
        assert len(run._step.workspace.rows(16).weights) == expected


def test_the_validation_loss_is_weighted_as_the_training_loss_is() -> None:
    weights = np.linspace(0.0, 2, 40)
    data = samples(sample_weight=weights)
    net = ts.MLP(LAYERS, seed=1, dtype="float64")
    (record,) = ts.fit(net, data, SGD.replace(epochs=1, val_size=10, class_weight={2: 5.0}))
    _, held = data.split_indices(10, SGD.seed)
    labels = data.train_labels[held]
    w = (weights * np.where(data.train_labels == 2, 5.0, 1.0))[held]
    outputs = net.predict_proba(data.train_images[held])
    losses = -np.log(outputs[np.arange(10), labels])
    assert record.val_loss == pytest.approx(np.average(losses, weights=w))
    assert record.val_accuracy == np.mean(outputs.argmax(axis=1) == labels)  # each counts once
    rest, _, _ = data.split(10, SGD.seed)
    kept = data.split_indices(10, SGD.seed)[0]
    np.testing.assert_array_equal(rest.sample_weight, weights[kept])


def test_a_weighted_run_resumes_to_the_bit(tmp_path: Path) -> None:
    config = ts.TrainConfig(epochs=3, batch_size=8, class_weight={1: 3.0}, val_size=6, optimizer="adam")
    data = samples(sample_weight=np.linspace(0.5, 2, 40))

    def start(data: ts.Dataset = data, config: ts.TrainConfig = config) -> TrainingRun:
        return TrainingRun(ts.MLP(LAYERS, seed=1), data, config)

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
    assert [r.train_loss for r in second.history] == [r.train_loss for r in whole.history]
    for other in (samples(sample_weight=np.linspace(0.5, 2.1, 40)), samples()):
        with pytest.raises(ts.ConfigError, match=r"a checkpoint of another run.*data "):
            restore(start(other), other, tmp_path / "c.safetensors")
    with pytest.raises(ts.ConfigError, match=r"class_weight \{'1': 3.0\} there and None here"):
        restore(start(config=config.replace(class_weight=None)), data, tmp_path / "c.safetensors")


def test_ranks_compute_what_one_process_does() -> None:
    data = samples(sample_weight=np.linspace(0, 2, 40))
    config = ts.TrainConfig(epochs=2, batch_size=16, val_size=9, class_weight="balanced")

    def finished(run: TrainingRun) -> TrainingRun:
        while not run.done:
            run.advance()
        return run

    alone = finished(TrainingRun(ts.MLP(LAYERS, seed=1, dtype="float64"), data, config))

    def work(ranks: ThreadRank) -> TrainingRun:
        net = ts.MLP(LAYERS, seed=1, dtype="float64")
        return finished(DistributedRun(net, data, config, ts.select_backend("cpu", 1), communicator=ranks))

    for run in on_ranks(3, work):
        np.testing.assert_allclose(run.net.parameters, alone.net.parameters, rtol=1e-10, atol=1e-12)
        for one, other in zip(run.history, alone.history, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss)
            assert one.val_loss == pytest.approx(other.val_loss)


def test_ranks_with_other_weights_are_refused() -> None:
    def work(ranks: ThreadRank) -> str:
        data = samples(sample_weight=np.linspace(1, 2 + ranks.rank, 40))
        with pytest.raises(ts.ConfigError) as caught:
            DistributedRun(ts.MLP(LAYERS), data, SGD, ts.select_backend("cpu", 1), communicator=ranks)
        return str(caught.value)

    assert all("sample_weight" in message for message in on_ranks(2, work))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            np.where(np.arange(40) == 7, -1.0, 1.0),
            r"negative, infinite or NaN: sample_weight: found value -1.0 at index 7",
        ),
        (np.where(np.arange(40) == 3, np.nan, 1.0), r"sample_weight: found value nan at index 3 \(1 in all\)"),
        (np.full(40, np.inf), "found value inf at index 0"),
        (np.zeros(40), "all weights are zero: sample_weight: found 40 zeros, expected one weight above 0"),
        (np.ones(39), r"wrong number of weights: sample_weight: found shape \(39,\), expected 40 numbers"),
        (np.ones((40, 1)), r"found shape \(40, 1\)"),
        (["heavy"] * 40, "weights of the wrong type"),
    ],
)
def test_bad_sample_weights(weights: Any, message: str) -> None:
    with pytest.raises(ts.DataError, match=message):
        samples(sample_weight=weights)
    if np.asarray(weights).dtype.kind == "f":  # the constructor checks nothing, a run does
        with pytest.raises(ts.DataError, match=message):
            TrainingRun(ts.MLP(LAYERS), replace(samples(), sample_weight=weights), SGD)


@pytest.mark.parametrize(
    "weights", ["even", {}, {0: -1.0}, {0: math.nan}, {0: math.inf}, {0: 0.0}, {1.5: 1.0}, {0: "1"}, 2]
)
def test_bad_class_weights(weights: Any) -> None:
    with pytest.raises(
        ts.ConfigError, match=r"bad class weight: class_weight: found .* expected balanced, or weights >="
    ):
        ts.TrainConfig(class_weight=weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"elm": 2.0}, r"no such class: class_weight: found 'elm', expected ash, birch, oak, yew"),
        ({3: 2.0}, "class yew has no training sample: class_weight"),
        ("balanced", "class yew has no training sample: class_weight: found balanced"),
        ({"ash": 0, "birch": 0, "oak": 0, 1: 0.0, "yew": 1}, "class yew has no training sample"),
    ],
)
def test_class_weights_that_do_not_suit_the_data(weights: Any, message: str) -> None:
    data = samples(classes=("ash", "birch", "oak", "yew"))
    with pytest.raises(ts.ConfigError, match=message):
        TrainingRun(ts.MLP([5, 6, 4]), data, SGD.replace(class_weight=weights))


def test_weights_that_leave_a_part_without_any() -> None:
    only = np.zeros(40)
    only[0] = 1.0
    with pytest.raises(ts.ConfigError, match=r"all weights of the (training|validation) part are zero: val_size"):
        TrainingRun(ts.MLP(LAYERS), samples(sample_weight=only), SGD.replace(val_size=10))
    only = np.where(samples().train_labels == 0, 1.0, 0.0)
    with pytest.raises(ts.ConfigError, match="all weights are zero: class_weight"):
        TrainingRun(ts.MLP(LAYERS), samples(sample_weight=only), SGD.replace(class_weight={0: 0.0, 1: 1.0}))


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_as_scikit_learn(class_weight: str | None) -> None:
    """Full-batch SGD from the same weights: scikit-learn's loss, curve and network."""
    neural_network = pytest.importorskip("sklearn.neural_network")
    utils = pytest.importorskip("sklearn.utils.class_weight")
    data = samples(sample_weight=np.linspace(0, 2, 40))
    weights = np.linspace(0, 2, 40)
    if class_weight:
        weights = weights * utils.compute_sample_weight(class_weight, data.train_labels)
    settings: dict[str, Any] = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "batch_size": 40, "random_state": 0}
    settings |= {"hidden_layer_sizes": (6,), "max_iter": 5, "tol": 0.0}

    def theirs(rate: float) -> Any:
        model = neural_network.MLPClassifier(learning_rate_init=rate, **settings)
        with pytest.warns(Warning, match="Maximum iterations"):
            return model.fit(data.train_images, data.train_labels, weights)

    start, end = theirs(1e-300), theirs(0.3)
    flat = [part.ravel() for pair in zip(start.coefs_, start.intercepts_, strict=True) for part in pair]
    net = ts.MLP(LAYERS, dtype="float64", parameters=np.concatenate(flat))
    records = ts.fit(net, data, SGD.replace(epochs=5, lr=0.3, class_weight=class_weight))
    for mine, other in zip(net.weights, end.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([record.train_loss for record in records], end.loss_curve_, rtol=1e-9)
