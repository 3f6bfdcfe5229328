"""``bench/tables.py``: a page's rows from the raw files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import tables


def row(batch: int, noise: bool, status: str, ratio: float | None, **more: Any) -> dict[str, Any]:
    interval = None if ratio is None else [ratio - 0.1, ratio + 0.1]
    found = {"layers": [784, 30, 10], "batch_size": batch, "noise": noise, "status": status, "ratio": ratio}
    return found | {"interval": interval, "limit": {}} | more


def test_rows_from_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near = {"limit": {"text": "91% product!"}}
    documents = [
        [row(1, False, "ok", 2.0), row(1, True, "noisy", 0.9, **near), row(16, False, "failed", None)],
        [row(1, True, "ok", 1.0)],
    ]
    files = []
    for index, rows in enumerate(documents):
        file = tmp_path / f"{index}.json"
        file.write_text(json.dumps({"rows": rows}))
        files.append(str(file))
    assert tables.main(files) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| 784-30-10, 1 | 2.00 [1.90, 2.10] | ~0.90 [0.80, 1.00] | - | 1.00 [0.90, 1.10] | 91% product! |",
        "| 784-30-10, 16 | - | - | - | - | - |",
    ]


def test_no_file_is_said() -> None:
    with pytest.raises(SystemExit, match="found no file"):
        tables.main([])
