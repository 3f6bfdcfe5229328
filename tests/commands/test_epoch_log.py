"""``train --log-csv``: a row for every epoch, readable while the run goes on, and whole after a kill."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from twostroke.cli import main
from twostroke.engine.training import EpochRecord
from twostroke.errors import ConfigError
from twostroke.runs.epoch_log import COLUMNS, EpochLog, log_path
from twostroke.runs.record import read_record

TIMES = ("train_seconds", "samples_per_second")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(ts.__file__).parents[1])}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three classes in 6 features."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "small.npz"
    y = np.arange(90) % 3
    X = (rng.normal(size=(90, 6)) + 2 * np.eye(3, 6)[y]).astype(np.float32)
    np.savez(path, x_train=X[:60], y_train=y[:60], x_test=X[60:], y_test=y[60:])
    return str(path)


def words(data: str, out: Path, *more: object) -> list[str]:
    fixed = ["train", data, "--device", "cpu", "--threads", "1", "--layers", "6,5,3", "--batch-size", "20", "-q"]
    return [*fixed, "--out", str(out), *map(str, more)]


def rows(path: Path) -> list[dict[str, Any]]:
    """The file's rows, as the record of a classifier has them: without the errors of a regression, which are empty."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    errors = [name for name in COLUMNS if name.endswith(("_rmse", "_r2"))]
    assert all(row.pop(name) == "" for row in found for name in errors)
    return [{name: float(cell) if cell else None for name, cell in row.items()} for row in found]


def without_times(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in epochs]


def test_the_rows_are_the_record_s_epochs_to_the_bit(data: str, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "epochs.csv"
    assert main(words(data, tmp_path / "run", "--epochs", 5, "--log-csv", log)) == 0
    assert log.read_text().splitlines()[0] == (
        "epoch,epochs,steps,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy,test_loss,test_accuracy,"
        "train_seconds,samples_per_second,train_rmse,train_r2,val_rmse,val_r2,test_rmse,test_r2"
    )
    assert rows(log) == read_record(tmp_path / "run" / "record.json")["history"]
    assert rows(log)[0]["val_loss"] is None
    # The next run of that name begins it anew; the key of a configuration file does the same.
    (tmp_path / "run.toml").write_text(f"log_csv = '{log}'\nepochs = 2\nval_size = 20\n")
    assert main(words(data, tmp_path / "run", "--config", tmp_path / "run.toml")) == 0
    assert rows(log) == read_record(tmp_path / "run" / "record.json")["history"]
    assert len(rows(log)) == 2
    assert rows(log)[0]["val_loss"] is not None


def test_pandas_reads_it(data: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert main(words(data, tmp_path, "--epochs", 3, "--log-csv", tmp_path / "log.csv")) == 0
    table = pandas.read_csv(tmp_path / "log.csv")
    assert tuple(table.columns) == COLUMNS
    history = read_record(tmp_path / "record.json")["history"]
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["train_loss"].tolist() == pytest.approx([epoch["train_loss"] for epoch in history], rel=1e-14)
    assert table["val_loss"].isna().all()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_and_resumed_has_every_epoch_once(
    number: signal.Signals, data: str, tmp_path: Path
) -> None:
    log, whole = tmp_path / "log.csv", tmp_path / "whole.csv"
    options = ["--epochs", 300, "--checkpoint-every", 7]  # three steps an epoch: most checkpoints are within one
    begun = [sys.executable, "-m", "twostroke", *words(data, tmp_path / "run", *options, "--log-csv", log)]
    with subprocess.Popen(begun, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while not (log.exists() and log.read_bytes().count(b"\n") > 20):  # it grows while the run goes on
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
    at_the_end = log.read_bytes().splitlines()
    assert 20 < len(at_the_end) < 301
    assert [int(line.split(b",")[0]) for line in at_the_end[1:]] == list(range(1, len(at_the_end)))
    assert main(words(data, tmp_path / "run", *options, "--log-csv", log, "--resume")) == 0
    assert main(words(data, tmp_path / "other", *options, "--log-csv", whole)) == 0
    assert without_times(rows(log)) == without_times(rows(whole))
    assert rows(log) == read_record(tmp_path / "run" / "record.json")["history"]


def test_rows_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    def epoch(number: int) -> EpochRecord:
        return EpochRecord(number, 9, 3 * number, 0.1, 1.5, 0.5, None, None, 1.25, 0.75, 0.001, 1e4)

    path = tmp_path / "log.csv"
    log = EpochLog(path, "--log-csv", [])
    for number in range(1, 6):
        log.append(epoch(number))
    assert [row["epoch"] for row in rows(path)] == [1, 2, 3, 4, 5]
    EpochLog(path, "--log-csv", [epoch(1), epoch(2)]).append(epoch(3))
    assert rows(path) == [epoch(number).values for number in (1, 2, 3)]


@pytest.mark.parametrize("content", [b"epoch,loss\n1,2\n", b"x" * 5000, b"\x00\xff", b"epoch,epochs"])
def test_another_file_is_refused_before_training(
    content: bytes, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.csv"
    file.write_bytes(content)
    for more in ([], ["--dry-run"]):
        assert main(words(data, tmp_path / "run", "--log-csv", file, *more)) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: not a log to write over: --log-csv {file}: found another file, which begins ")
        assert err.count("\n") == 1
    assert file.read_bytes() == content
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_what_is_no_place_for_a_log_is_refused(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    places = {"run/record.json": "a file that the run itself writes", "run": "a folder, pipe", "file/x": "--log-csv"}
    for place, found in places.items():
        assert main(words(data, tmp_path / "run", "--log-csv", tmp_path / place)) == 2
        err = capsys.readouterr().err
        assert found in err
        assert err.count("\n") == 1
    assert main(words(data, tmp_path / "run", "--log-csv", tmp_path / "file", "--epochs", 1)) == 0  # it was empty
    assert len(rows(tmp_path / "file")) == 1


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    EpochLog(log_path(str(tmp_path / "link.csv"), "--log-csv", tmp_path), "--log-csv", [])
    assert (tmp_path / "link.csv").is_symlink()
    assert rows(tmp_path / "real.csv") == []


def test_a_log_that_cannot_be_written_any_more_is_one_line(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "log.csv", "--log-csv", [])
    (tmp_path / "log.csv").unlink()
    with pytest.raises(ConfigError, match=r"^cannot write the log: --log-csv .*log\.csv: found No such file"):
        log.append(EpochRecord(1, 9, 3, 0.1, 1.5, 0.5, None, None, 1.25, 0.75, 0.001, 1e4))


def test_a_dry_run_names_it_and_writes_nothing(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word for word in words(data, tmp_path / "run", "--log-csv", tmp_path / "a.csv") if word != "-q"]
    assert main([*arguments, "--dry-run"]) == 0
    assert str(tmp_path / "a.csv") in capsys.readouterr().out
    assert os.listdir(tmp_path) == []
