"""Settings that are shown and read back: the same run."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twostroke as ts
from twostroke.cli import main
from twostroke.data.dataset import Dataset
from twostroke.runs.config_file import to_toml
from twostroke.runs.presets import PRESETS
from twostroke.runs.settings import SETTINGS, Settings, resolve


@pytest.fixture(scope="module")
def data() -> Dataset:
    X, y = np.random.default_rng(0).random((20, 6), dtype=np.float32), np.arange(20) % 3
    return Dataset.from_arrays(X, y, X, y, name="small")


def shown(settings: Settings, data: Dataset) -> str:
    return "\n".join(to_toml(settings.effective(data, settings.make_network(data))))


FLAGS: list[dict[str, Any]] = [
    *({"preset": name} for name in PRESETS),
    {"optimizer": "adamw", "activation": "tanh", "loss": "quadratic"},
    {"layers": "6,5,4,3", "batch_size": "full", "val_size": 0.25, "patience": 3, "tf32": True, "dtype": "float64"},
    {
        "val_size": 5.0,
        "threads": "1",
        "device": "cpu",
        "seed": 7,
        "l2": 1e-5,
        "lr": 0.1,
        "warmup": 0.5,
        "momentum": 0.0,
    },
    {"out": 'a "b"\\c\nd é 数\x7f', "data": "tab\tbed", "schedule": "cosine", "epochs": 9},
]


@pytest.mark.parametrize("flags", FLAGS)
def test_what_is_shown_gives_the_same_run(flags: dict[str, Any], data: Dataset, tmp_path: Path) -> None:
    before = resolve(flags)
    text = shown(before, data)
    assert text.isascii()
    not_given = {"label", "drop", "weight", "test", "classes", "class_weight", "log_csv", "from_model"}
    assert set(tomllib.loads(text)) == set(SETTINGS) - not_given
    (tmp_path / "run.toml").write_text(text)
    after = resolve({}, tmp_path / "run.toml")
    nets = before.make_network(data), after.make_network(data)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    assert repr(nets[0]) == repr(nets[1])
    assert after.config == replace(before.config, lr=before.config.learning_rate)
    assert after.folder(data) == before.folder(data)
    for name in ("preset", "data", "device", "threads", "tf32"):
        assert getattr(after, name) == getattr(before, name)
    assert shown(after, data) == text


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_toml(text: str) -> None:
    (line,) = to_toml({"out": text})
    assert tomllib.loads(line) == {"out": text}


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(ts.ConfigError, match=r"TOML cannot hold this text: out: found 'a\\udcff'"):
        to_toml({"out": "a\udcff"})


def test_the_flag_prints_a_file_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X, y = np.random.default_rng(0).random((20, 6)), np.arange(20) % 3
    np.savez(tmp_path / "set.npz", x_train=X, y_train=y, x_test=X, y_test=y)
    words = ["train", str(tmp_path / "set.npz"), "--device", "cpu", "--threads", "1", "--epochs", "2"]
    words += ["--batch-size", "10", "--optimizer", "adam", "--layers", "6,4,3"]
    assert main([*words, "--out", str(tmp_path / "one"), "--show-config"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# ")
    assert {path.name for path in tmp_path.iterdir()} == {"set.npz"}
    (tmp_path / "run.toml").write_text(text)
    assert main([*words, "--out", str(tmp_path / "one"), "-q"]) == 0
    assert main(["train", "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "two"), "-q"]) == 0
    one, two = (ts.load_model(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert np.array_equal(one.parameters, two.parameters)
    capsys.readouterr()
    assert main([*words, "--show-config", "--json"]) == 0
    assert '"batch_size": 10' in capsys.readouterr().out
