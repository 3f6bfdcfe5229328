"""The parts of the GPU session (``bench/gpu/right.py``, ``quick.py``), small, over a fake CuPy."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.gpu import quick, right, session
from tests.bench.conftest import MemoryHook
from tests.support.fake_graphs import FakeGraph, FakeGraphs
from tests.support.strict_device import plant_fake_cupy
from twostroke import Dataset, TrainConfig

LAYERS = (6, 5, 3)


@pytest.mark.parametrize("part", [part for part in session.PARTS if part.argv is None], ids=lambda part: part.name)
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


# --- bits -----------------------------------------------------------------------------------------------------


def test_captured_runs_are_held_against_the_same_handle_call_by_call(gpu: FakeGraphs, data: Dataset) -> None:
    found = right.same_bits(data, LAYERS, 4)
    assert found["ok"]
    assert found["used"]
    assert set(found["same_bits"].values()) == set(found["shared_handle_same_bits"].values()) == {True}
    assert os.environ["TWOSTROKE_CAPTURE"] == "auto"


def test_a_shared_handle_with_other_bits_is_told_and_not_required(gpu: FakeGraphs, data: Dataset) -> None:
    from cupy_backends.cuda.libs import cublas

    cublas.error = 1e-3  # cuBLAS takes another kernel there
    found = right.same_bits(data, LAYERS, 4)
    assert (found["ok"], set(found["shared_handle_same_bits"].values())) == (True, {False})
    assert session.HEADLINES["captured"](found) == "the same bits; on CuPy's handle the same for 0 of 5 optimisers"


def test_a_replay_with_other_bits_fails(gpu: FakeGraphs, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(self: FakeGraph) -> None:
        for call in self.calls if len(self.calls) < 5 else self.calls[:-1]:
            call()

    monkeypatch.setattr(FakeGraph, "launch", launch)
    found = right.same_bits(data, LAYERS, 4)
    assert (found["ok"], found["used"]) == (False, True)
    assert not any(found["same_bits"].values())


def test_a_handle_that_is_not_captured_runs_call_by_call(gpu: FakeGraphs, data: Dataset) -> None:
    backend = right.make_backend("auto", captured=False)
    before = gpu.graph_launches
    right.trained(backend, data, LAYERS, TrainConfig(epochs=2, batch_size=4, evaluate_test=False))
    assert gpu.graph_launches == before
    assert gpu.library.products is not None  # type: ignore[attr-defined]
    assert type(backend._handle).__name__ == "OwnHandle"
    assert type(right.make_backend("0")._handle).__name__ == "SharedHandle"


# --- times ----------------------------------------------------------------------------------------------------


def test_the_waterfall_measures_every_way_and_the_floors(gpu: FakeGraphs, data: Dataset) -> None:
    found = quick.waterfall_of(data, LAYERS, 4, 3)
    assert found["us_per_step"].keys() == found["raw"].keys()
    names = list(found["us_per_step"])
    assert names[names.index("a launch an epoch") + 1] == "products alone"
    assert names[-2:] == ["empty kernels, a launch a step", "empty kernels, 64 steps a launch"]
    assert {"Z = X W, layer 1", "dX = dZ W^T, layer 2", "dW = X^T dZ, layer 2", "db = 1^T dZ, layer 1"} <= set(names)
    assert all(us > 0 for us in found["us_per_step"].values())
    used = {name: graphs["used"] for name, graphs in found["graphs"].items()}
    assert [name for name in used if used[name]] == ["call by call, own handle", *quick.LAUNCHED]
    # Three steps an epoch: in the first one a launch, then an epoch each.
    assert found["graphs"]["a launch an epoch"]["launches"] == 1 + 1 + 1
    assert found["graphs"]["call by call, own handle"]["launches"] == 0
    assert found["graphs"]["a launch a step"]["capture_seconds"] > 0
    # As many empty kernels as the step reaches the device.
    assert [len(graph.calls) for graph in gpu.graphs[-2:]] == [
        found["kernels_per_step"],
        64 * found["kernels_per_step"],
    ]
    assert os.environ["TWOSTROKE_CAPTURE"] == "auto"


def test_the_step_part_counts_what_reaches_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the fake CuPy: one gather of pixels and labels, the strokes, no way up or down; then all as it was."""
    fake, library = plant_fake_cupy(monkeypatch)
    from twostroke.backend.cuda.backend import CupyBackend

    backend = CupyBackend()
    step = quick.training_step(backend, LAYERS, 4, "momentum")
    take = fake.take
    counts: Counter[str] = Counter()
    before = library.calls
    with quick.counted(backend, counts):
        step()
    assert counts["gemm"] == library.calls - before == 7  # two forward; dX; two of dW; two of db
    assert counts["cupy.take"] == 2
    assert counts["fused kernel"] >= 8
    assert counts["UP"] == counts["DOWN"] == 0
    assert fake.take is take
    assert "gemm" not in vars(backend)


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
