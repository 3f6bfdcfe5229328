"""record.json read back, and the command that repeats a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.small_runs import train_run
from twostroke.cli import main
from twostroke.errors import ModelError
from twostroke.models.model_file import load_model
from twostroke.runs.record import read_record, repeat_words
from twostroke.runs.settings import SETTINGS

OPTIONS = [
    [],
    ["--optimizer", "sgd", "--schedule", "step", "--l2", "0.001", "--activation", "tanh", "--dtype", "float64"],
    ["--loss", "quadratic", "--output", "sigmoid", "--init", "scaled-normal", "--seed", "5", "--momentum", "0.7"],
    ["--val-size", "0.25", "--patience", "1", "--epochs", "30", "--lr", "0.5"],  # stops early: the schedule remembers
    ["--preset", "seed", "--batch-size", "full", "--epochs", "3"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_the_command_that_repeats_a_run_ends_in_the_same_bits(options: list[str], tmp_path: Path) -> None:
    run = train_run("pictures", tmp_path, *options)
    words = repeat_words(read_record(run / "record.json"))
    assert words[0] == "twostroke"
    assert main([*words[1:], "--out", str(tmp_path / "again"), "-q"]) == 0
    first, again = (load_model(folder / "model.safetensors") for folder in (run, tmp_path / "again"))
    assert first.parameters.tobytes() == again.parameters.tobytes()
    both = [read_record(folder / "record.json") for folder in (run, tmp_path / "again")]
    assert both[0]["test_loss"] == both[1]["test_loss"]
    assert len(both[0]["history"]) == len(both[1]["history"])


def test_threads_that_were_chosen_by_themselves_are_not_repeated(tmp_path: Path) -> None:
    run = train_run("features", tmp_path, "--threads", "auto")
    assert "--threads" not in repeat_words(read_record(run / "record.json"))


@pytest.mark.parametrize("newer", ["dropout", "warmup", "seed", "dtype"])
def test_a_record_that_lacks_a_setting_is_repeated_with_its_default(newer: str, tmp_path: Path) -> None:
    found = read_record(train_run("features", tmp_path) / "record.json")
    words = repeat_words(found)
    del found[newer]
    assert repeat_words(found) == words
    assert words[words.index(f"--{newer}") + 1] == str(SETTINGS[newer].default)


@pytest.mark.parametrize("lost", ["source", "learning_rate", "layers"])
def test_a_record_that_lacks_what_has_no_default_tells_no_command(lost: str, tmp_path: Path) -> None:
    found = read_record(train_run("features", tmp_path) / "record.json")
    del found[lost]
    assert repeat_words(found) == []


HOSTILE: dict[str, Any] = {"source": "mnist", "machine": [], "history": [7], "threads": {}, "layers": 3}


def test_a_hostile_record_is_words_and_no_fault() -> None:
    words = repeat_words({name: ["$(x)", None] for name in (*SETTINGS, "learning_rate")} | HOSTILE)
    assert words[:3] == ["twostroke", "train", "mnist"]
    assert all(isinstance(word, str) for word in words)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 300 + b'"', b"NaN"]
)
def test_a_file_that_is_no_record_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not the record of a run: .*record.json: found .*a JSON object") as caught:
        read_record(path)
    assert len(str(caught.value)) < 500


def test_a_record_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with open(path, "wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(ModelError, match="more than"):
        read_record(path)


def test_a_missing_record_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no record of a run: .*No such file.*twostroke train"):
        read_record(tmp_path / "record.json")
