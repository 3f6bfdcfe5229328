"""A model to its file (written atomically, flushed to the disk) and back (everything checked)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.conftest import Annotate
from bench.timing import OPTIONS, synchronized_time
from twostroke import MLP, load_model, save_model
from twostroke.backend import Backend

pytestmark = pytest.mark.benchmark(timer=synchronized_time, **OPTIONS)
NETS = {"784-128-10": (784, 128, 10), "784-512-512-10": (784, 512, 512, 10)}


@pytest.mark.parametrize("net", NETS)
def test_save(benchmark: Any, annotate: Annotate, active_backend: Backend, tmp_path: Path, net: str) -> None:
    benchmark.group = f"save {net}"
    path = benchmark(save_model, MLP(NETS[net], backend=active_backend), tmp_path / "net.safetensors")
    annotate()
    benchmark.extra_info["bytes"] = path.stat().st_size


@pytest.mark.parametrize("net", NETS)
def test_load(benchmark: Any, annotate: Annotate, active_backend: Backend, tmp_path: Path, net: str) -> None:
    benchmark.group = f"load {net}"
    path = save_model(MLP(NETS[net]), tmp_path / "net.safetensors")
    assert benchmark(load_model, path, backend=active_backend).layers == NETS[net]
    annotate()
    benchmark.extra_info["bytes"] = path.stat().st_size
