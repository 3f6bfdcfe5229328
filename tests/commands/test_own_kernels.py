"""``MODULE:NAME`` on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import twostroke as ts
from tests.support import own_kernels as own
from tests.support.small_runs import KINDS, train_run
from twostroke.cli import main
from twostroke.engine.training import TrainingRun
from twostroke.models.checkpoint import save_checkpoint
from twostroke.runs.presets import PRESETS

MINE = """
from tests.support.own_kernels import huber, rmsprop, swish
number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a user's module, which each test imports anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    yield tmp_path
    for name in ("mine", "broken"):
        sys.modules.pop(name, None)


OWN = ["--activation", "mine:swish", "--loss", "mine:huber", "--optimizer", "mine:rmsprop", "--lr", "0.01"]
GIVEN = ["--kernel", "mine:swish", "--kernel", "mine:huber"]


def run(folder: Path, *more: str) -> Path:
    return train_run("features", folder, *OWN, "--threads", "1", "--device", "cpu", *more)


def test_a_run_and_what_is_done_with_its_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(folder)
    model, data = str(out / "model.safetensors"), str(folder / "small.npz")
    record = json.loads((out / "record.json").read_text())
    assert (record["activation"], record["loss"], record["optimizer"]) == ("swish", "huber", "rmsprop")
    capsys.readouterr()
    assert main(["evaluate", model, data, *GIVEN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == record["test_accuracy"]
    assert main(["predict", model, "--index", "0", "--data", data, *GIVEN]) == 0
    capsys.readouterr()
    sys.modules.pop("mine")
    for command in (["evaluate", model, data], ["predict", model, "--index", "0", "--data", data]):
        assert main(command) == 5
        error = capsys.readouterr().err
        assert "the model needs an Activation that is not built in" in error
        assert "--kernel MODULE:NAME" in error
    assert "mine" not in sys.modules


def test_a_run_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = ts.load_model(run(folder) / "model.safetensors", kernels=[own.swish, own.huber])
    data = ts.load_dataset(str(folder / "small.npz"))
    words = ["small.npz", "--preset", "fast", *KINDS["features"][4], "--batch-size", "20", *OWN, "--out", "resumed"]
    config = PRESETS["fast"].config.replace(epochs=3, batch_size=20, optimizer=own.rmsprop, lr=0.01)
    stopped = TrainingRun(ts.MLP([7, 5, 3], activation=own.swish, loss=own.huber), data, config)
    stopped.advance(7)
    (folder / "resumed").mkdir()
    save_checkpoint(stopped, data, folder / "resumed" / "checkpoint.safetensors")
    assert main(["train", *words, "--threads", "1", "--device", "cpu", "--resume"]) == 0
    assert "resumed from resumed/checkpoint.safetensors: epoch 1, step 7" in capsys.readouterr().out
    resumed = ts.load_model(folder / "resumed" / "model.safetensors", kernels=[own.swish, own.huber])
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--activation", "nowhere:swish"], "no such module: --activation: found 'nowhere'. It is looked for in "),
        (["--activation", "mine:nothing"], "no such name in the module mine: --activation: found 'nothing'"),
        (["--activation", "mine:huber"], "not an Activation: --activation: found mine:huber, of type Loss"),
        (["--loss", "mine:number"], "not a Loss: --loss: found mine:number, of type int"),
        (["--optimizer", "mine:swish"], "not an Optimizer: --optimizer: found mine:swish, of type Activation"),
        (["--optimizer", "broken:x"], "the module broken fails when it is imported: --optimizer: found ZeroDivision"),
        (["--loss", "mine.py:huber:x"], "not the name of a kernel: --loss: found 'mine.py:huber:x', expected MODULE"),
        (["--loss", "mine"], "unknown loss: --loss: found 'mine', expected cross-entropy or"),
    ],
)
def test_a_wrong_name_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert f"error: {line}" in error
    assert "Traceback" not in error


def test_a_configuration_file_runs_no_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "c.toml").write_text('activation = "mine:swish"\n')
    assert main(["train", "--config", "c.toml"]) == 2
    assert "a kernel of your own in a file: c.toml: activation: found mine:swish" in capsys.readouterr().err
    assert "mine" not in sys.modules


def test_a_kernel_is_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "grad", "--kernel", "mine:swish", "--device", "cpu"]) == 0
    assert "checks passed on cpu" in capsys.readouterr().out
    assert main(["verify", "grad", "--kernel", "mine:number", "--device", "cpu"]) == 2
    assert "not an Activation, a Loss or an Optimizer: --kernel" in capsys.readouterr().err
