"""Records: the bytes that a run holds, counted once each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import twostroke as ts
from twostroke.backend import Backend
from twostroke.data.dataset import Dataset
from twostroke.engine.training import TrainingRun
from twostroke.errors import ModelError
from twostroke.runs.record import array_bytes, read_record, record_bytes


class Held:
    """Arrays as our objects hold them: plain, viewed, listed, by name."""

    def __init__(self) -> None:
        self.flat = np.zeros(10, "float32")
        self.views = [self.flat[:5], self.flat.reshape(2, 5)]
        self.named = {"x": np.zeros((3, 3), "uint8"), "nothing": None}
        self.itself = self
        self.again = (self.flat, 7, "text")


Held.__module__ = "twostroke.held"


def test_each_array_counts_once() -> None:
    assert array_bytes(Held()) == 40 + 9
    assert array_bytes(np.zeros(10)[2:4]) == 80
    assert array_bytes({}) == 0


def test_a_run_holds_its_samples_parameters_and_work(backend: Backend) -> None:
    images = np.zeros((100, 6), np.uint8)
    data = Dataset.from_arrays(images, np.arange(100) % 3, images[:10], np.arange(10) % 3)
    sizes = {}
    for optimizer in ("sgd", "momentum", "adam"):
        net = ts.MLP([6, 50, 3], seed=0)
        run = TrainingRun(net, data, ts.TrainConfig(batch_size=10, optimizer=optimizer), backend)
        sizes[optimizer] = array_bytes(run)
    parameters = 4 * (6 * 50 + 50 + 50 * 3 + 3)
    assert sizes["sgd"] > parameters + images.nbytes
    assert parameters <= sizes["momentum"] - sizes["sgd"] < 1.2 * parameters
    assert sizes["adam"] - sizes["momentum"] >= parameters


def test_a_record_that_could_not_be_read_again_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(record_bytes({"epochs": 1}, path, path))
    size = path.stat().st_size
    monkeypatch.setattr("twostroke.runs.record.MAX_RECORD_BYTES", size)
    assert read_record(path) == {"epochs": 1}
    with pytest.raises(ModelError, match=rf"{path}: found {size + 1} bytes, expected <= {size}\. It was not written"):
        record_bytes({"epochs": 10}, path, path)
