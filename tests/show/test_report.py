"""Text and records: the right words and numbers, strict JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from twostroke.backend import select_backend
from twostroke.data.dataset import Dataset
from twostroke.engine.config import TrainConfig
from twostroke.engine.mlp import MLP
from twostroke.engine.targets import Result
from twostroke.engine.training import EpochRecord
from twostroke.provenance import to_json
from twostroke.runs import record
from twostroke.show import text as report
from twostroke.show.findings import class_counts


@pytest.fixture
def data() -> Dataset:
    images, labels = np.zeros((4, 2, 3), np.uint8), np.array([0, 1, 2, 2])
    return Dataset.from_arrays(images, labels, images, labels, name="tiny")


def epoch(**changes: float | None) -> EpochRecord:
    values = {
        "epoch": 1,
        "epochs": 10,
        "steps": 3,
        "learning_rate": 0.1,
        "train_loss": 0.25,
        "train_accuracy": 0.5,
        "val_loss": None,
        "val_accuracy": None,
        "test_loss": 0.125,
        "test_accuracy": 1.0,
        "train_seconds": 2.0,
        "samples_per_second": 1000.0,
    }
    return EpochRecord(**(values | changes))


def test_json_holds_no_nan_and_no_numpy() -> None:
    text = to_json(
        {"a": float("nan"), "b": [np.float32("inf"), np.int64(3)], "c": Path("x"), "d": np.arange(2), "e": True}
    )
    assert json.loads(text) == {"a": None, "b": [None, 3], "c": "x", "d": [0, 1], "e": True}
    assert "\n" not in text


def test_the_first_lines_name_every_setting(data: Dataset) -> None:
    backend = select_backend("cpu", 1)
    assert report.device_line(backend) == "device:   cpu, 1 thread: cpu was asked for"
    assert report.data_lines(data) == ["data:     tiny, 4 training and 4 test samples, 2 x 3 uint8, 3 classes"]
    net = MLP([6, 4, 3], seed=7)
    line = report.network_line(net)
    for word in (
        "6-4-3",
        "43 parameters",
        "relu",
        "softmax output",
        "cross-entropy loss",
        "he weights",
        "float32",
        "seed 7",
    ):
        assert word in line
    line = report.settings_line(TrainConfig(epochs=1, optimizer="adam"), "fast")
    for word in ("preset fast", "adam", "learning rate 0.002", "one-cycle (20% warm-up)", "batch size 128", "1 epoch,"):
        assert word in line
    assert "momentum" not in line
    assert "momentum 0.9" in report.settings_line(TrainConfig(optimizer="nesterov"), "fast")


@pytest.mark.parametrize(
    ("ranks", "hosts", "cores", "share", "expected"),
    [
        (2, 1, 8, 0.5, "50% of the training time; 4 ranks would be 1.33 times as fast at most"),
        (2, 1, 8, 0.72, "4 ranks would be 1.16 times as fast at most: more ranks do not pay, a larger batch might"),
        (2, 1, 3, 0.25, "; 3 ranks would be 1.33 times as fast at most"),
        (2, 1, 2, 0.1, "10% of the training time; there are as many ranks as cores (2)"),
        (3, 1, 2, 0.9, "90% of the training time; 3 ranks share 2 cores: fewer are faster"),
        (2, 2, 1, 0.5, "; 4 ranks would be 1.33 times as fast at most"),  # another host may bring more cores
    ],
)
def test_more_ranks_are_never_recommended_than_a_host_has_cores(
    ranks: int, hosts: int, cores: int, share: float, expected: str
) -> None:
    told = {"ranks": ranks, "hosts": hosts, "cores_of_host": cores, "step_seconds": 8.0, "summing_seconds": 8 * share}
    line = report.summing_line(told)
    assert line.startswith("communication: ")
    assert line.endswith(expected)


def test_sharing_cores_is_said_in_one_line() -> None:
    assert report.crowded_line(3, 2) == "3 ranks share 2 cores and wait for each other: 2 would be faster"
    assert "2 ranks share 1 core and" in report.crowded_line(2, 1)


def test_epochs_are_a_table() -> None:
    assert report.epoch_head(["train", "test"], 10) == "  epoch train loss, acc  test loss, acc  seconds left"
    assert report.epoch_line(epoch()) == "   1/10  0.2500  50.00%  0.1250 100.00%     2.00  18s"
    line = report.epoch_line(epoch(val_loss=3e26, val_accuracy=0.1, test_loss=None, test_accuracy=None))
    assert line == "   1/10  0.2500  50.00%   3e+26  10.00%     2.00  18s"


@pytest.mark.parametrize(("seconds", "left"), [(0.01, "10s"), (0.12, "120s"), (0.5, "8m"), (20.0, "6h"), (700.0, "8d")])
def test_the_table_fits_60_columns_and_says_what_remains(seconds: float, left: str) -> None:
    row = epoch(epoch=1, epochs=999, val_loss=99.99996, val_accuracy=1.0, train_seconds=seconds)
    lines = [report.epoch_head(["train", "val", "test"], 999), report.epoch_line(row)]
    assert [len(line) for line in lines] == [60, 60]
    assert lines[0] == "  epoch train loss, acc   val loss, acc  test loss, acc left"
    assert lines[1].split() == ["1/999", "0.2500", "50.00%", "100", "100.00%", "0.1250", "100.00%", left]


def test_a_run_s_record_has_the_contract_s_keys(data: Dataset) -> None:
    net, config = MLP([6, 4, 3]), TrainConfig(epochs=5, batch_size=2)
    history = [epoch(), epoch(train_seconds=6.0, samples_per_second=500.0)]
    found = record.run_record(net, data, config, "fast", history, Result(0.5, 0.75), Path("m"))
    contract = (
        "test_accuracy test_loss train_seconds samples_per_second epochs backend device reason threads seed layers"
    )
    contract += " batch_size dtype model versions learning_rate optimizer schedule loss activation history"
    assert set(contract.split()) <= set(found)
    assert (found["test_accuracy"], found["test_loss"], found["epochs"]) == (0.75, 0.5, 2)
    assert (found["train_seconds"], found["samples_per_second"]) == (8.0, 5000 / 8)
    assert found["learning_rate"] == 0.3
    assert found["history"] == [one.values for one in history]
    assert {"twostroke", "python", "numpy"} <= set(found["versions"])
    assert json.loads(to_json(found))["layers"] == [6, 4, 3]
    assert report.result_line(found) == (
        "test accuracy 75.00%, test loss 0.5000 after 2 epochs, 8.00 s of training, 625 samples/s on cpu, 1 thread"
    )


def test_errors_are_counted_by_class() -> None:
    rows = class_counts(np.array([0, 0, 1, 1, 1], np.uint8), np.array([0, 1, 1, 2, 2]), 3)
    assert rows == [
        {"class": 0, "samples": 2, "errors": 1, "most_taken_for": 1},
        {"class": 1, "samples": 3, "errors": 2, "most_taken_for": 2},
        {"class": 2, "samples": 0, "errors": 0, "most_taken_for": None},
    ]
    table = report.class_table(rows)
    assert table[2].split() == ["1", "3", "2", "66.67%", "2"]
    assert table[3].split() == ["2", "0", "0", "-", "-"]
    assert len({len(line) for line in table}) == 1


def test_a_picture_is_half_blocks_of_the_text_s_own_colour() -> None:
    pixels = np.array([[0, 255, 0, 255], [0, 0, 255, 255], [255, 0, 0, 0]], np.uint8)
    assert report.picture(pixels) == [" ▀▄█", "▀   "]
    assert report.picture(pixels, plain=True) == [" '.#", "'   "]


def test_a_prediction_is_shown_with_sorted_bars() -> None:
    found = record.prediction_record("x.png", np.array([0.25, 0.75, 0.0], np.float32), 1)
    assert (found["prediction"], found["label"]) == (1, 1)
    lines = report.prediction_lines(found, np.zeros(3), plain=True)
    assert lines == [
        "x.png: 1 (labelled 1: right)",
        f"  1   75.00% {'#' * 21}",
        f"  0   25.00% {'#' * 7}",
        "  2    0.00%",
    ]
    assert "wrong" in report.prediction_lines(found | {"label": 2}, np.zeros(3))[0]
    assert report.prediction_lines(found | {"label": None}, np.zeros(3))[0] == "x.png: 1"
