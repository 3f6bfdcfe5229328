"""The numbers of a page: mistakes, pairs and weights worked out by hand, and invalid histories."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from tests.support.small_runs import echo_network, findings_of, samples, train_run
from twostroke.backend import Backend, select_backend
from twostroke.data.dataset import Dataset
from twostroke.engine.evaluation import evaluate
from twostroke.engine.mlp import MLP
from twostroke.show import findings
from twostroke.show.findings import class_counts, confusion, examine, heat, numbers


def test_the_mistakes_are_the_worst_first() -> None:
    outputs = np.array(
        [[0.9, 0.1, 0.0], [0.6, 0.5, 0.0], [0.0, 3.0, 1.0], [0.2, 0.8, 0.0], [0.0, 2.0, 0.5]], np.float32
    )
    labels = np.array([0, 1, 2, 0, 2])
    found = examine({}, echo_network(3), Dataset.from_arrays(outputs, labels, outputs, labels))
    assert [one.index for one in found.mistakes] == [2, 4, 3, 1]  # margins 2, 1.5, 0.6, 0.1
    worst = found.mistakes[0]
    assert (worst.label, worst.prediction, worst.output, worst.truth_output) == (2, 1, 3.0, 1.0)
    assert (found.errors, found.result.accuracy) == (4, 0.2)
    assert found.matrix is not None
    assert found.matrix.tolist() == [[1, 1, 0], [1, 0, 0], [0, 2, 0]]
    assert [(pair.label, pair.prediction, pair.count, pair.share) for pair in found.pairs] == [
        (2, 1, 2, 1.0),
        (0, 1, 1, 0.5),
        (1, 0, 1, 1.0),
    ]
    assert heat(found.matrix).tolist() == [[0, 0.5, 0], [1, 0, 0], [0, 1, 0]]
    assert not found.pictures
    assert found.units == []


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_test_part_is_computed_once_and_to_the_bit(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.random((5000, 6), np.float32), rng.integers(0, 3, 5000)
    data, net = Dataset.from_arrays(images[:9], labels[:9], images, labels), MLP([6, 5, 3], output=output, seed=0)
    outputs, result = net.predict_proba(images), evaluate(net, images, labels)
    monkeypatch.setattr(MLP, "infer", lambda *_: pytest.fail("a second forward pass"))
    found = examine({}, net, data)
    assert found.result == result
    assert found.errors == (outputs.argmax(axis=1) != labels).sum()
    worst = found.mistakes[0]
    assert (worst.output, worst.truth_output) == (outputs[worst.index].max(), outputs[worst.index, worst.label])


def test_there_are_no_more_mistakes_than_can_be_looked_at() -> None:
    outputs = np.tile(np.array([[1.0, 0.0]], np.float32), (100, 1)) * np.arange(1, 101, dtype=np.float32)[:, None]
    labels = np.ones(100, int)
    found = examine({}, echo_network(2), Dataset.from_arrays(outputs, labels, outputs, labels))
    assert [one.index for one in found.mistakes] == list(range(99, 99 - findings.MISTAKES, -1))
    assert found.errors == 100


def test_classes_without_samples_and_a_matrix_without_errors() -> None:
    assert heat(np.array([[0, 0], [0, 4]])).tolist() == [[0, 0], [0, 0]]


def test_beyond_what_can_be_read_there_is_no_matrix() -> None:
    width = findings.MATRIX_CLASSES + 1
    outputs = np.roll(np.eye(width, dtype=np.float32), 1, axis=1)
    labels = np.arange(width)
    found = examine({}, echo_network(width), Dataset.from_arrays(outputs, labels, outputs, labels))
    assert found.matrix is None
    assert len(found.pairs) == findings.PAIRS
    assert (found.pairs[0].label, found.pairs[0].prediction, found.pairs[0].count) == (0, 1, 1)


def test_the_strongest_units_without_pixels_that_never_vary() -> None:
    images = np.zeros((4, 2, 2), np.uint8)
    images[:2, 0, 0] = images[1:3, 0, 1] = images[:, 1, 1] = 9  # [1, 1] is always 9, [1, 0] always 0
    data = Dataset.from_arrays(images, [0, 1, 0, 1], images, [0, 1, 0, 1])
    net = MLP([4, 3, 2])
    net.weights[0][...] = np.array([[1.0, -2.0, 0.0], [0.5, 4.0, 0.0], [99.0, 0.0, 0.0], [0.0, 99.0, 0.0]])
    found = examine({}, net, data)
    assert [unit.number for unit in found.units] == [1, 0, 2]
    assert found.units[0].weights.shape == (2, 2)
    np.testing.assert_allclose(found.units[0].weights, [[-0.5, 1.0], [np.nan, np.nan]])
    np.testing.assert_allclose(found.units[1].weights, [[1.0, 0.5], [np.nan, np.nan]])
    np.testing.assert_allclose(found.units[2].weights, [[0.0, 0.0], [np.nan, np.nan]])


def test_without_a_hidden_layer_the_units_are_the_classes_in_order() -> None:
    data = samples("many classes")
    found = examine({}, MLP([64, 26]), data)
    assert [unit.number for unit in found.units] == list(range(26))


BAD_HISTORIES: list[Any] = [None, 3, "x", {}, [], [3, None, "x", []], [{}], [{"epoch": None}], [{"epoch": "1"}]]


@pytest.mark.parametrize("history", BAD_HISTORIES, ids=repr)
def test_a_history_that_is_none(history: Any) -> None:
    assert numbers(history) == []


def test_what_is_no_number_in_an_epoch_is_none() -> None:
    row: dict[str, Any] = {"epoch": 1, "train_loss": "<b>", "val_loss": True, "test_loss": float("nan")}
    row |= {"steps": 10**400, "unheard_of": 1, "train_accuracy": 0.5}
    (found,) = numbers([row])
    assert {name: value for name, value in found.items() if value is not None} == {"epoch": 1, "train_accuracy": 0.5}
    assert "unheard_of" not in found


def test_every_device_finds_the_same(backend: Backend) -> None:
    """Device arrays are downloaded explicitly."""
    data = samples("pictures")
    expected, found = (examine({}, MLP([108, 9, 4], backend=one), data) for one in (select_backend("cpu"), backend))
    assert found.result.loss == pytest.approx(expected.result.loss, rel=1e-5)
    assert [one.number for one in found.units] == [one.number for one in expected.units]
    for one, other in zip(found.units, expected.units, strict=True):
        np.testing.assert_array_equal(one.weights, other.weights)


def test_a_run_s_own_figures(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = findings_of(train_run("pictures", tmp_path_factory.mktemp("run")))
    assert found.result.accuracy == found.record["test_accuracy"]
    assert found.matrix is not None
    assert found.matrix.sum() == 200
    assert found.matrix.sum() - np.trace(found.matrix) == found.errors > 0
    assert [row["epoch"] for row in found.history] == [1, 2, 3, 4, 5, 6]
    assert found.pictures


@pytest.mark.parametrize(("samples", "classes"), [(1, 1), (1, 3), (50, 2), (400, 5), (40, 30)])
def test_class_counts_are_those_of_the_confusion_matrix(rng: np.random.Generator, samples: int, classes: int) -> None:
    for _ in range(20):
        labels, predictions = rng.integers(0, classes, (2, samples))
        for row, counts in zip(
            class_counts(labels.astype(np.uint8), predictions, classes),
            confusion(labels, predictions, classes),
            strict=True,
        ):
            wrong = counts * (np.arange(classes) != row["class"])
            expected = {"samples": counts.sum(), "errors": wrong.sum()}
            expected |= {"class": row["class"], "most_taken_for": wrong.argmax() if wrong.any() else None}
            assert row == expected


def test_many_classes_need_no_table_of_their_square() -> None:
    """The confusion matrix of 40,000 classes takes 12 GiB."""
    labels = np.arange(40_000, dtype=np.int32)
    tracemalloc.start()
    try:
        rows = class_counts(labels, (labels + 1) % 40_000, 40_000)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert rows[-1] == {"class": 39_999, "samples": 1, "errors": 1, "most_taken_for": 0}
