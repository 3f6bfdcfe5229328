"""The spike without a GPU: what it would run, its arithmetic over a fake CuPy, its kernel compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import capture_spike
from tests.backend.test_gpu_faults import ARCHITECTURES, compiled, double_arithmetic
from tests.support.fake_graphs import plant_fake_graphs
from twostroke.backend.cuda.probe import Probe

ROOT = Path(__file__).parents[3]


def test_a_dry_run_lists_every_way() -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu" / "capture_spike.py"), "--dry-run"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert [(row["way"], row["failed"]) for row in document["rows"]] == [
        (way, "skipped: --dry-run") for way in capture_spike.WAYS
    ]


@pytest.mark.parametrize("way", ["call-by-call", "own-handle"])
def test_a_way_is_checked_and_timed(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    plant_fake_graphs(monkeypatch)
    monkeypatch.setenv("TWOSTROKE_CAPTURE", "auto")
    monkeypatch.setattr(capture_spike, "LONG", 2)
    (row,) = capture_spike.measure(way, [(6, 5, 3)], [4], 0.01)
    assert row.get("failed") is None
    assert row["right"]
    assert row["bits"]
    assert row["us"] >= row["host_us"] > 0
    assert ("in_one_launch" in row) == (way == "own-handle")
    assert way in capture_spike.line(row)


def test_a_way_that_is_missing_leaves_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_fake_graphs(monkeypatch, own_handle=False)
    with pytest.raises(RuntimeError, match="no libcublas"):
        capture_spike.measure("own-handle", [(6, 5, 3)], [4], 0.01)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (row,) = capture_spike.run_way("nvmath", 0.1)
    assert row == {"way": "nvmath", "failed": "exit code 1: no output"}
    assert "exit code 1" in capture_spike.line(row)


def test_the_document_is_kept_after_every_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def run_way(way: str, seconds: float) -> list[dict[str, Any]]:
        file = tmp_path / "capture-spike.json"
        seen.append(len(json.loads(file.read_text())["rows"]) if file.exists() else 0)
        return [{"way": way, "failed": "for this test"}]

    monkeypatch.setattr("twostroke.backend.cuda.probe.probe_cuda", lambda: Probe(True, "A GPU (none)"))
    monkeypatch.setattr(capture_spike, "run_way", run_way)
    assert capture_spike.main(["--out", str(tmp_path)]) == 0
    assert seen == [*range(len(capture_spike.WAYS))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_its_product_compiles(architecture: str) -> None:
    ptx, code = compiled(capture_spike.PRODUCT, architecture)
    assert not double_arithmetic(ptx)
    assert code.startswith(b"\x7fELF")
