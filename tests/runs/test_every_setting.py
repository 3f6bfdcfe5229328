"""Every setting, from its flag to what it changes: none can be accepted and then ignored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from twostroke.cli import main
from twostroke.engine.config import TRAINING_DEFAULTS
from twostroke.engine.mlp import SETTINGS as NETWORK_SETTINGS
from twostroke.engine.training import TrainingRun
from twostroke.models.checkpoint import identity
from twostroke.runs.config_file import to_toml
from twostroke.runs.record import read_record, repeat_words
from twostroke.runs.settings import LIBRARY_ONLY, SETTINGS, as_word

SMALL = {"preset": "fast", "epochs": "3", "batch_size": "20", "lr": "0.1"}
# A value of each setting that changes the parameters or the history of a run, and the settings that it needs beside it.
CHANGES: dict[str, tuple[str, dict[str, str]]] = {
    "layers": ("6,4,3", {}),
    "activation": ("tanh", {}),
    "task": ("regression", {"lr": "0.01"}),
    "loss": ("quadratic", {}),
    "output": ("sigmoid", {}),
    "init": ("normal", {}),
    "dtype": ("float64", {}),
    "optimizer": ("adam", {}),
    "lr": ("0.01", {}),
    "momentum": ("0.5", {}),
    "schedule": ("cosine", {}),
    "warmup": ("0.5", {}),
    "l2": ("0.1", {}),
    "dropout": ("0.5", {}),
    "batch_size": ("7", {}),
    "epochs": ("4", {}),
    "class_weight": ("0=3.0,2=0.5", {}),
    "val_size": ("0.25", {}),
    "patience": ("1", {"val_size": "20", "epochs": "9", "lr": "3"}),
    "keep": ("best", {"val_size": "20", "epochs": "9", "lr": "3"}),
    "seed": ("5", {}),
}
ALL = sorted((TRAINING_DEFAULTS.keys() | set(NETWORK_SETTINGS)) - LIBRARY_ONLY)


def samples() -> ts.Dataset:
    """Three classes that overlap, in 6 features."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = (rng.normal(size=(90, 6)) + 2 * np.eye(3, 6)[y]).astype(np.float32)
    return ts.Dataset.from_arrays(X[:60], y[:60], X[60:], y[60:], name="small")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    one, path = samples(), tmp_path_factory.mktemp("data") / "small.npz"
    X, y = one.train_images, one.train_labels
    np.savez(path, x_train=X, y_train=y, x_test=one.test_images, y_test=one.test_labels)
    return str(path)


def train(data: str, out: Path, settings: dict[str, str], *words: str) -> int:
    """The exit code of ``twostroke train`` with these settings as flags."""
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    return main(["train", data, "--device", "cpu", "--threads", "1", "--out", str(out), *flags, *words])


def outcome(out: Path) -> Any:
    """What a run has learnt: parameters and history, without the time that it took."""
    history = [
        {key: value for key, value in epoch.items() if key not in ("train_seconds", "samples_per_second")}
        for epoch in read_record(out / "record.json")["history"]
    ]
    return ts.load_model(out / "model.safetensors").parameters.tobytes(), history


def test_the_table_and_this_test_know_every_setting() -> None:
    missing = [name for name in ALL if name not in SETTINGS]
    assert not missing, (
        f"runs/settings.py: add to SETTINGS an entry for each of {missing}: without it there is no option"
    )
    missing = [name for name in ALL if name not in CHANGES]
    assert not missing, f"add to CHANGES in {__file__} for each of {missing} a value that changes a run"
    assert TRAINING_DEFAULTS.keys() - SETTINGS.keys() >= LIBRARY_ONLY
    missing = [name for name in TRAINING_DEFAULTS if f"``{name}``" not in (ts.TrainConfig.__doc__ or "")]
    assert not missing, f"engine/config.py: say in the docstring of TrainConfig what {missing} does"


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() & CHANGES.keys()))
def test_a_setting_goes_all_the_way(name: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (value, beside), one = CHANGES[name], SETTINGS[name]
    base, flagged, filed, again = (tmp_path / each for each in ("base", "flagged", "filed", "again"))
    without = SMALL | beside
    with_it = without | {name: value}
    # A flag changes the run, and the lines that say what it is.
    capsys.readouterr()
    assert train(data, base, without) == 0
    before = capsys.readouterr().out.splitlines()
    assert train(data, flagged, with_it, "--checkpoint-every", "1000") == 0
    after = capsys.readouterr().out.splitlines()
    assert outcome(flagged) != outcome(base), f"{one.flag} {value} is ignored"
    assert before[2:4] != after[2:4], f"{before[2:4]} do not say {name}"
    # --show-config shows it, and it means the same in a file.
    assert train(data, flagged, with_it, "--show-config", "--json") == 0
    shown = json.loads(capsys.readouterr().out)[name]
    assert value == as_word(shown)
    (tmp_path / "run.toml").write_text("\n".join(to_toml({name: shown})))
    del with_it[name]
    assert train(data, filed, with_it, "--config", str(tmp_path / "run.toml")) == 0
    assert outcome(filed) == outcome(flagged)
    # The record keeps it, and the run can be repeated.
    record = read_record(flagged / "record.json")
    assert record[one.record_key] == shown
    command = repeat_words(record)
    assert command[command.index(one.flag) + 1] == value
    assert main([*command[1:], "--out", str(again), "-q"]) == 0
    assert outcome(again) == outcome(flagged)
    # The checkpoint is not resumed without it.
    assert train(data, flagged, without, "--resume") == 2
    error = capsys.readouterr().err
    assert "a checkpoint of another run" in error
    assert f"{name} " in error


@pytest.mark.parametrize("name", sorted(LIBRARY_ONLY))
def test_what_only_python_has_changes_a_run_too(name: str) -> None:
    """``evaluate_test``, and any other switch."""
    data = samples()
    runs = []
    for value in (True, False):
        config = ts.TrainConfig(epochs=1, batch_size=20).replace(**{name: value})
        run = TrainingRun(ts.MLP([6, 5, 3]), data, config)
        run.advance()
        assert identity(run, data)[name] is value
        runs.append([replace(record, train_seconds=0.0, samples_per_second=0.0) for record in run.history])
    assert runs[0] != runs[1]
