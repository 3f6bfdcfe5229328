"""``bench/inference.py``: both sides give the same probabilities, or nothing is claimed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import inference
from twostroke import MLP, export_onnx

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra test-all)")
WORDS = ["--images", "1", "5", "--blocks", "4", "--no-save"]


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "BLOCK_S", 1e-3)
    monkeypatch.setattr(inference, "bind", lambda threads: [])


def test_every_kind_and_size_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert inference.main(WORDS) == 0
    found = rows(capsys)
    assert [(row["peer_mode"], row["batch_size"]) for row in found] == [
        (kind, n) for kind in inference.KINDS for n in (1, 5)
    ]
    assert all(row["status"] in ("ok", "noisy") and row["ratio"] > 0 for row in found)


def test_another_network_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(inference, "export_onnx", lambda net, *args, **options: export_onnx(
        MLP(net.layers, seed=1), *args, **options))  # fmt: skip
    assert inference.main(WORDS) == 1
    assert {row["status"] for row in rows(capsys)} == {"disagrees"}
