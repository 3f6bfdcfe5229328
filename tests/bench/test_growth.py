"""``bench/growth.py``, small: the curves, the lines beside them, the files. No test asserts a time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import growth
from twostroke.measure.limits import Limits


def test_four_curves_in_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture")
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    words = ["--samples", "1000", "40000", "--widths", "4", "8", "--depths", "1", "2", "--no-save"]
    assert growth.main([*words, "--json", str(file), "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert json.loads(said.splitlines()[-1]) == document
    assert list(document["curves"]) == ["samples", "width", "depth", "memory"]
    for curve in document["curves"].values():
        assert len(curve["x"]) == len(curve["y"]) == len(curve["theory"]) == 2
        assert all(y > 0 for y in curve["theory"])
    rows = document["points"]["samples"]
    assert [row["rows"] for row in rows] == [1000, 40000]
    # 40,000 rows of 20 numbers, and a label each, are part of the data and of what the run holds.
    assert rows[1]["bytes_of_data"] >= 40000 * (4 * growth.FEATURES + 1)
    assert rows[1]["bytes_of_run"] >= rows[1]["bytes_of_data"]
    assert rows[1]["bytes"] >= 40000 * 4 * growth.FEATURES
    assert 0 < picture.stat().st_size < 100_000
    assert "| memory | 1,000: " in said


def test_theory_by_hand() -> None:
    """100 GFLOP/s: a step of 4-2 at batch 128 has 2 * 128 * (3 * 8 - 8) operations, 41 ns; its weights take longer."""
    assert growth.theory(Limits((4, 2), 100.0, 1e-9)) == pytest.approx(2 * 128 * 16 / 1e11)
    assert growth.theory(Limits((4, 2), 100.0, 1e-6)) == 1e-6


def test_the_exponent_is_that_of_the_last_two_points() -> None:
    assert growth.slope([1, 10, 20], [5.0, 3.0, 12.0]) == pytest.approx(2.0)
    assert growth.slope([1], [1.0]) is None
    assert growth.slope([1, 2], [0.0, 3.0]) is None


def test_rows_say_how_far_from_theory() -> None:
    curve = {
        "x": [10, 100],
        "y": [2e-3, 4.0],
        "theory": [1e-3, 1.0],
        "exponent": math.log10(2000),
        "theory_exponent": 3,
    }
    rows = growth.rows_of({"curves": {"samples": curve}})
    assert rows[2] == "| samples | 10: 2 ms, 2 x theory | 100: 4 s, 4 x theory | 3.30, 3.00 |"


def test_a_count_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "CHILD_S", 0.05)
    with pytest.raises(SystemExit, match="1,000 rows: timed out"):
        growth.over_samples([1000], 1)


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        growth.parse(["--widths", "0"])
    assert "--widths" in capsys.readouterr().err
