"""The parts of the GPU session (``bench/gpu/right.py``, ``quick.py``), small."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.gpu import quick, right, session
from twostroke import Dataset, TrainConfig
from twostroke.backend import Backend

LAYERS = (6, 5, 3)


# TF32, a memory limit and a second process need more than the emulated GPU in this one.
ELSEWHERE = ("tf32_fails_parity", "memory", "first_run", "sanitizer")
PARTS = [part for part in session.PARTS if part.argv is None and part.name not in ELSEWHERE]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_runs_to_its_end(part: session.Part, cuda: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finds is JSON and has a headline. Speed means nothing here."""
    for name, layers in (("right.SMALL", LAYERS), ("quick.SMALL", LAYERS), ("quick.LARGE", LAYERS)):
        monkeypatch.setattr(f"bench.gpu.{name}", layers)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (1100, 6), dtype=np.uint8), np.arange(1100) % 3
    data = Dataset.from_arrays(images, labels, images[:50], labels[:50])
    monkeypatch.setattr("twostroke.load_dataset", lambda _: data)
    for variable, value in (part.environment or {}).items():
        monkeypatch.setenv(variable, value)
    function = getattr(right, part.name, None) or getattr(quick, part.name)
    found = json.loads(json.dumps(function()))
    if part.name != "large":
        assert found["ok"], found
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


@pytest.mark.parametrize(("seen", "ok"), [("no profiler", True), (Counter(kernels=99, waits=99), False)])
def test_every_way_is_traced(
    cuda: Backend, data: Dataset, monkeypatch: pytest.MonkeyPatch, seen: Any, ok: bool
) -> None:
    epochs = []

    def profiled(work: Callable[[], Any]) -> Any:
        epochs.append(work().epoch)
        return seen

    monkeypatch.setattr(quick, "profiled", profiled)
    found = quick.traced(data, LAYERS, TrainConfig(epochs=3, batch_size=4, evaluate_test=False))
    assert found["ok"] is ok
    assert epochs == [3, 3, 3]
    assert [entry["steps"] for entry in found["ways"].values()] == [3, 3, 3]
    assert isinstance(session.HEADLINES["trace"](found), str)


def test_a_step_that_asks_the_pool_for_memory_is_seen(cuda: Backend) -> None:
    with cuda.active(), quick.allocations() as asked:
        cuda.xp.zeros(3)
    assert asked["pool"] == 1


def test_the_profiler_that_is_here_is_asked() -> None:
    found = quick.profiled(lambda: None)
    try:
        import torch
    except ImportError:
        assert str(found).startswith("no profiler: No module named")
    else:
        assert isinstance(found, Counter) if torch.cuda.is_available() else "finds no GPU" in str(found)
