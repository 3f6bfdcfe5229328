"""The parts of the GPU session (``bench/gpu/right.py``, ``quick.py``), small, over a fake CuPy."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.gpu import quick, right, session
from tests.bench.conftest import MemoryHook
from tests.support.fake_graphs import FakeGraphs
from twostroke import Dataset, TrainConfig

LAYERS = (6, 5, 3)


# Those that compile need a GPU, or the emulated one.
COMPILED = ("captured", "waterfall", "first_run", "sanitizer")
PARTS = [part for part in session.PARTS if part.argv is None and part.name not in COMPILED]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_runs_to_its_end(
    part: session.Part, gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch, fresh_probe: None
) -> None:
    """What it finds is JSON and has a headline. This GPU knows no TF32 and never fills up; its speed means nothing."""
    fake: Any = sys.modules["cupy"]
    fake.get_default_memory_pool = lambda: SimpleNamespace(
        used_bytes=lambda: 0, free_all_blocks=lambda: None, get_limit=lambda: 0
    )
    monkeypatch.setattr("twostroke.backend.cuda.probe.cupy_wheels", lambda: ["cupy-cuda12x 14.2.0"])
    for name, layers in (
        ("right.SMALL", (784, 5, 3)),
        ("quick.SMALL", (784, 5, 3)),
        ("quick.LARGE", (7, 5, 3)),
    ):
        monkeypatch.setattr(f"bench.gpu.{name}", layers)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (1100, 784), dtype=np.uint8), np.arange(1100, dtype=np.uint8) % 3
    data = Dataset.from_arrays(images, labels, images[:50], labels[:50])
    monkeypatch.setattr("twostroke.load_dataset", lambda _: data)
    for variable, value in (part.environment or {}).items():
        monkeypatch.setenv(variable, value)
    function = getattr(right, part.name, None) or getattr(quick, part.name)
    found = json.loads(json.dumps(function()))
    if part.name != "large":
        assert found["ok"] is (part.name not in ("tf32_fails_parity", "memory")), found
    assert session.headline(part.name, {"found": found}) != "unreadable: see the JSON"


# --- traces ---------------------------------------------------------------------------------------------------

EVENTS = [
    *[{"cat": "kernel", "name": "add"}] * 30,
    {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pageable -> Device)"},
    *[{"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)"}] * 2,
    {"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)"},
    {"cat": "gpu_memcpy", "name": "Memcpy PtoP"},
    {"cat": "gpu_memset", "name": "Memset (Device)"},
    {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
    {"cat": "cuda_driver", "name": "cuLaunchKernel"},
    {"cat": "cuda_runtime", "name": "cudaGraphLaunch"},
    {"cat": "cuda_runtime", "name": "cudaStreamSynchronize"},
    {"cat": "cuda_runtime", "name": "cudaEventRecord"},
    {"cat": "cpu_op", "name": "aten::add"},
    {"name": "process_name"},
]


def test_a_trace_is_counted_by_what_it_is_to_the_device() -> None:
    assert quick.kinds(EVENTS) == {
        "kernels": 30, "copies up": 1, "copies down": 2, "copies on the device": 1, "other copies": 1, "memsets": 1,
        "kernel launches": 2, "graph launches": 1, "waits": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (True, True)),
        ({"copies up": 469}, (True, False)),
        ({"copies down": 469}, (True, False)),
        ({"waits": 469}, (True, False)),
        ({"copies on the device": 9999}, (True, True)),
        ({"kernels": 3}, (False, True)),
    ],
)
def test_an_epoch_may_hold_a_few_copies_and_waits(changed: dict[str, int], expected: tuple[bool, bool]) -> None:
    counts = Counter({"kernels": 25 * 469, "copies up": 2, "copies down": 3, "waits": 4} | changed)
    found = quick.judged(counts, 469)
    assert (found["seen"], found["ok"]) == expected
    assert found["seen"] or found["reason"] == "3 kernels in 469 steps"


@pytest.mark.parametrize(
    ("asked", "seen", "ok"),
    [(0, "no profiler", True), (1, "no profiler", False), (0, Counter(kernels=99, waits=99), False)],
)
def test_every_way_is_traced(
    gpu: FakeGraphs, data: Dataset, monkeypatch: pytest.MonkeyPatch, asked: int, seen: Any, ok: bool
) -> None:
    """A step that asks the pool for memory fails it, also where no profiler is."""
    epochs = []

    def profiled(work: Callable[[], Any]) -> Any:
        epochs.append(work().epoch)
        return seen

    monkeypatch.setattr(quick, "profiled", profiled)
    MemoryHook.asked = asked
    found = quick.traced(data, LAYERS, TrainConfig(epochs=3, batch_size=4, evaluate_test=False))
    assert found["ok"] is ok
    assert epochs == [3, 3, 3]
    assert [entry["steps"] for entry in found["ways"].values()] == [3, 3, 3]
    assert isinstance(session.HEADLINES["trace"](found), str)


def test_the_profiler_that_is_here_is_asked() -> None:
    found = quick.profiled(lambda: None)
    try:
        import torch
    except ImportError:
        assert str(found).startswith("no profiler: No module named")
    else:
        assert isinstance(found, Counter) if torch.cuda.is_available() else "finds no GPU" in str(found)
