"""What ``train --device auto`` says of the device that it did not take."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.strict_device import StrictBackend
from twostroke import MLP, Dataset, TrainConfig
from twostroke.backend import Backend, select_backend
from twostroke.cli import main
from twostroke.engine.training import TrainingRun
from twostroke.measure import quicker
from twostroke.measure.crossover import Fit

# Measured, 784-128-10: an H200, and the 16 cores beside it.
GPU, CPU = Fit(59e-6, 40e6, 0.0, 8), Fit(22e-6, 851e3, 0.0, 8)
LINE = r"the CPU would be quicker here: [\d,]+ us a step, {} [\d,]+ us; --device cpu"


@pytest.mark.parametrize(("batch_size", "cpu", "gpu"), [(1, 23, 59), (8, 31, 59), (24, 50, 60)])
def test_a_small_batch_is_the_cpu_s(batch_size: int, cpu: int, gpu: int) -> None:
    line = quicker.compare(GPU.t0 + batch_size / GPU.rate, CPU.t0 + batch_size / CPU.rate, "cuda:0")
    assert line == f"the CPU would be quicker here: {cpu} us a step, cuda:0 {gpu} us; --device cpu"


@pytest.mark.parametrize("batch_size", [30, 64, 192, 4096])
def test_nothing_is_said_where_the_gpu_is_ahead_or_level(batch_size: int) -> None:
    assert quicker.compare(GPU.t0 + batch_size / GPU.rate, CPU.t0 + batch_size / CPU.rate, "cuda:0") is None


@pytest.fixture
def data(rng: np.random.Generator) -> Dataset:
    images = rng.integers(0, 256, (500, 12), dtype=np.uint8)
    return Dataset.from_arrays(images[:450], np.arange(450) % 3, images[450:], np.arange(50) % 3)


def make_run(data: Dataset, backend: Backend, **config: object) -> TrainingRun:
    return TrainingRun(MLP([12, 8, 3]), data, TrainConfig(batch_size=4).replace(**config), backend)


def test_steps_are_measured_and_the_run_stays_as_it_is(data: Dataset) -> None:
    """The strict device is Python from end to end: slower than the CPU on any machine."""
    run = make_run(data, StrictBackend(), lr=1e30, val_size=9, patience=2, dropout=0.2, optimizer="adam")
    before = run.net.parameters.get().tobytes()
    line = quicker.advice(run, data, 1)
    assert line
    assert re.fullmatch(LINE.format("strict:0"), line)
    assert run.net.parameters.get().tobytes() == before
    assert (run.steps, run.history) == (0, [])


def test_without_a_gpu_nothing_is_measured(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(data, select_backend("cpu", 1))
    monkeypatch.setattr(quicker, "TrainingRun", lambda *_: pytest.fail("steps were measured"))
    assert quicker.advice(run, data, 1) is None
    large = make_run(data, StrictBackend(), batch_size="full")
    monkeypatch.setattr(quicker, "MOST_FLOPS", 1e5)
    assert quicker.advice(large, data, 1) is None


def test_the_command_says_it_of_a_gpu(
    cuda: Backend, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of 4 in a network of 12-8-3: a GPU's launches alone take longer than a CPU's step."""
    path, keys = tmp_path / "d.npz", {"x_train": "train_images", "y_train": "train_labels"}
    keys |= {"x_test": "test_images", "y_test": "test_labels"}
    np.savez(path, **{key: getattr(data, name) for key, name in keys.items()})
    words = ["train", str(path), "--preset", "fast", "--layers", "12,8,3", "--batch-size", "4", "--epochs", "1"]
    words += ["--out", str(tmp_path)]
    assert main([*words, "-q"]) == 0
    out, err = capsys.readouterr()
    assert re.match(f"note: {LINE.format(cuda.device)}\n", err)  # these labels are random: a second note says so
    assert f" on {cuda.device}" in out  # the device is not changed
    assert main([*words, "--device", "cuda", "-q"]) == 0
    assert "quicker" not in capsys.readouterr().err
