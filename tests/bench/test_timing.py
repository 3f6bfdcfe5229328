"""``bench/timing.py``: where results are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import timing


def test_a_document_is_kept_under_its_machine_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    document = {"machine": "a-processor-2c", "rows": [1.5, None]}
    files = [timing.result_file(document, "duel"), timing.result_file(document, "duel", tmp_path / "else" / "where")]
    for file in files:
        timing.write_result(file, document)
    assert [file.parent for file in files] == [tmp_path / "a-processor-2c", tmp_path / "else" / "where"]
    assert all(re.fullmatch(r"duel-\d{8}-\d{6}\.json", file.name) for file in files)
    assert [json.loads(file.read_text()) for file in files] == [document] * 2
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(files)
