"""``bench/first_second.py``: runs are fresh processes, what it says adds up. No test asserts a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import first_second


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    images, labels = np.random.default_rng(0).integers(0, 256, (30, 6), dtype=np.uint8), np.arange(30) % 3
    np.savez(tmp_path / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(tmp_path / "tiny.npz")


def test_two_checkouts_in_turns(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    words = ["--pairs", "2", "--base", str(first_second.HERE), "--words", f"{tiny} --epochs 1", "--no-save"]
    assert first_second.main([*words, "--json", str(file)]) == 0
    said = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert json.loads(said.splitlines()[-1]) == document
    assert len(document["runs"]) == 2
    for row in document["runs"]:
        assert len(row) == 2
        for one in row:
            assert 0 < one["training"] < one["total"]
            assert one["rest"] == one["total"] - one["training"]
    assert list(document["stages"]) == list(first_second.STAGES)
    assert "other / this, rest: " in said


def test_the_order_is_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def once(root: Path, words: Any) -> dict[str, float]:
        seen.append(str(root))
        return {"total": 2.0 if str(root) == "a" else 3.0, "training": 1.0, "rest": 1.0, "accuracy": 0.98}

    monkeypatch.setattr(first_second, "train_once", once)
    rows = first_second.paired([Path("a"), Path("b")], 3, [])
    assert "".join(seen) == "ab" + "abbaab"
    found = first_second.summary(rows)
    assert (found["total_ratio"], found["this"]["total"], found["other"]["total"]) == (1.5, [2.0] * 3, [3.0] * 3)


def test_a_run_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such data set"):
        first_second.train_once(first_second.HERE, ["nowhere.npz"])


@pytest.mark.parametrize("words", [["--pairs", "0"], ["--base", "nowhere"]])
def test_bad_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        first_second.parse(words)
    assert words[0] in capsys.readouterr().err
