"""``bench/gpu_session.py`` without a GPU: its plan, its parts in their processes, and what they do over a fake CuPy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import gpu_quick, gpu_right, gpu_session, time_to_accuracy
from tests.support.fake_graphs import FakeGraph, FakeGraphs, plant_fake_graphs
from tests.support.strict_device import plant_fake_cupy
from twostroke import Dataset, TrainConfig
from twostroke.backend import Backend

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "bench" / "gpu_session.py")
LAYERS = (6, 5, 3)


@pytest.fixture
def data() -> Dataset:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (11, 6), dtype=np.uint8), np.arange(11, dtype=np.uint8) % 3
    return Dataset.from_arrays(images, labels, images, labels)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """A GPU that captures; the environment asks for it, as a user's may."""
    fake, graphs = plant_fake_graphs(monkeypatch)
    monkeypatch.setenv("TWOSTROKE_CAPTURE", "auto")
    fake.cuda.MemoryHook = MemoryHook
    MemoryHook.asked = 0
    return graphs


class MemoryHook:
    """CuPy's, of a pool that is asked ``asked`` times in each block."""

    asked = 0

    def __enter__(self) -> MemoryHook:
        for _ in range(self.asked):
            self.malloc_preprocess(size=1)  # type: ignore[attr-defined]
        return self

    def __exit__(self, *_: object) -> None:
        pass


# --- the plan -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, *gpu_session.GROUPS])
def test_the_session_runs_dry_and_names_what_it_skips(group: str | None, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--dry-run", "--out", str(tmp_path), *(["--group", group] if group else [])]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.iterdir()
    assert file.name == ("gpu-session.json" if group is None else f"gpu-session-{group}.json")
    record = json.loads(file.read_text())
    assert list(record["parts"]) == [part.name for part in gpu_session.PARTS if group in (None, part.group)]
    for name, result in record["parts"].items():
        assert (result["outcome"], bool(result.get("reason"))) == (
            ("ok", False) if name == "doctor" else ("SKIPPED", True)
        )


@pytest.mark.parametrize("group", gpu_session.GROUPS)
def test_a_group_fits_into_nine_minutes_whatever_its_parts_take(group: str) -> None:
    parts = [part for part in gpu_session.PARTS if part.group == group]
    assert sum(part.seconds for part in parts) <= gpu_session.BUDGET_S < 540
    if group == "right":
        assert [part.name for part in parts[:2]] == ["doctor", "tests"]


def test_every_part_is_there() -> None:
    for part in gpu_session.PARTS:
        if part.argv is None:
            assert callable(getattr(gpu_right, part.name, None) or getattr(gpu_quick, part.name))
    assert len({part.name for part in gpu_session.PARTS}) == len(gpu_session.PARTS)


def test_what_is_measured_is_kept(tmp_path: Path) -> None:
    """The curves, fits and pictures of the crossover lie beside the session's own file."""
    (part,) = (part for part in gpu_session.PARTS if part.name == "crossover")
    small = ["--devices", "cpu", "--layers", "6,5,3", "--batch-sizes", "1,4", "--seconds", "0.02", "--threads", "1"]
    result = gpu_session.run_part(part._replace(argv=[*(part.argv or []), *small]), 100, tmp_path)
    assert result["outcome"] == "ok", result
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {"fits", "crossovers"} <= found.keys()


# --- parts in their processes ---------------------------------------------------------------------------------


def part(code: str, **expected: Any) -> gpu_session.Part:
    return gpu_session.Part("x", "right", 1, "", ["-c", code], **expected)


def test_a_part_that_fails_or_hangs_costs_only_itself(tmp_path: Path) -> None:
    late = tmp_path / "late"
    child = f"import time; time.sleep(3.5); open({str(late)!r}, 'w')"
    codes = {
        "fails": "raise SystemExit('no')",
        "hangs": f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)",
        "bad": "print('{\"ok\": false}')",
    }
    outcomes, started = {}, time.perf_counter()
    for name, code in codes.items():
        result = gpu_session.run_part(part(code), 1.5 if name == "hangs" else 20)
        outcomes[name] = result["outcome"]
        assert isinstance(gpu_session.headline(name, result), str)
    assert outcomes == {"fails": "FAILED", "hangs": "TIMED OUT", "bad": "FAILED"}
    assert time.perf_counter() - started < 30
    time.sleep(4)
    assert not late.exists(), "what a part started ends with it"


SAYS = "import sys; print('error: no GPU', file=sys.stderr); {}sys.exit({})"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (SAYS.format("", 3), "ok"),
        (SAYS.format("", 0), "FAILED"),
        (SAYS.format("print('more', file=sys.stderr); ", 3), "FAILED"),
        (SAYS.format("open(sys.argv[1] + '/m.safetensors', 'w'); ", 3), "FAILED"),
        ("import sys; print('error: else', file=sys.stderr); sys.exit(3)", "FAILED"),
    ],
)
def test_a_fault_is_one_line_its_code_and_nothing_written(code: str, outcome: str) -> None:
    fault = part(code, exit=3, says="no GPU")
    assert fault.argv is not None
    assert gpu_session.run_part(fault._replace(argv=[*fault.argv, "{tmp}"]), 20)["outcome"] == outcome


@pytest.mark.parametrize("name", ["no_such_gpu", "no_gpu"])
def test_the_planted_faults_end_as_they_must(name: str) -> None:
    """Here there is no GPU at all, which is said in other words; everything else of the part is as it must be."""
    (fault,) = (part for part in gpu_session.PARTS if part.name == name)
    result = gpu_session.run_part(fault._replace(says="the GPU cannot be used: "), 60)
    assert result["outcome"] == "ok", result


def test_the_results_are_written_after_every_part(tmp_path: Path) -> None:
    """A session that is told to end, in its second part, leaves the first one's result, and no process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from bench import gpu_session as s\n"
        "from twostroke.backend.cuda import probe; probe.probe_cuda = lambda: probe.Probe(True, 'A GPU (none)')\n"
        'slow = \'import os, time; print(os.getpid(), file=open(os.environ["OUT"] + "/pid", "w"), flush=True);\'\n'
        "s.PARTS[:] = [s.Part('one', 'right', 9, '', ['-c', 'print(1)']),\n"
        "              s.Part('two', 'right', 60, '', ['-c', slow + 'time.sleep(60)'])]\n"
        "sys.exit(s.main(['--out', sys.argv[2]]))"
    )
    session = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        pid = tmp_path / "pid"
        for _ in range(600):
            if pid.exists() and pid.read_text().endswith("\n"):
                break
            time.sleep(0.05)
        record = json.loads((tmp_path / "gpu-session.json").read_text())
        assert {name: result["outcome"] for name, result in record["parts"].items()} == {"one": "ok"}
        session.send_signal(signal.SIGTERM)
        assert session.wait(30) == 143
    finally:
        session.kill()
        session.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


# --- every part, small, over the fakes ------------------------------------------------------------------------


@pytest.mark.parametrize("part", [part for part in gpu_session.PARTS if part.argv is None], ids=lambda part: part.name)
def test_a_part_runs_to_its_end(
    part: gpu_session.Part, gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch, fresh_probe: None
) -> None:
    """What it finds is JSON and has a headline. This GPU knows no TF32 and never fills up; its speed means nothing."""
    fake: Any = sys.modules["cupy"]
    fake.get_default_memory_pool = lambda: SimpleNamespace(
        used_bytes=lambda: 0, free_all_blocks=lambda: None, get_limit=lambda: 0
    )
    monkeypatch.setattr("twostroke.backend.cuda.probe.cupy_wheels", lambda: ["cupy-cuda12x 14.2.0"])
    for name, layers in (
        ("gpu_right.SMALL", (784, 5, 3)),
        ("gpu_quick.SMALL", (784, 5, 3)),
        ("gpu_quick.LARGE", (7, 5, 3)),
    ):
        monkeypatch.setattr(f"bench.{name}", layers)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (1100, 784), dtype=np.uint8), np.arange(1100, dtype=np.uint8) % 3
    data = Dataset.from_arrays(images, labels, images[:50], labels[:50])
    monkeypatch.setattr("twostroke.load_dataset", lambda _: data)
    for variable, value in (part.environment or {}).items():
        monkeypatch.setenv(variable, value)
    function = getattr(gpu_right, part.name, None) or getattr(gpu_quick, part.name)
    found = json.loads(json.dumps(function()))
    if part.name != "large":
        assert found["ok"] is (part.name not in ("tf32_fails_parity", "memory")), found
    assert gpu_session.headline(part.name, {"found": found}) != "unreadable: see the JSON"


# --- bits -----------------------------------------------------------------------------------------------------


def test_captured_runs_are_held_against_the_same_handle_call_by_call(gpu: FakeGraphs, data: Dataset) -> None:
    found = gpu_right.same_bits(data, LAYERS, 4)
    assert found["ok"]
    assert found["used"]
    assert set(found["same_bits"].values()) == set(found["shared_handle_same_bits"].values()) == {True}
    assert os.environ["TWOSTROKE_CAPTURE"] == "auto"


def test_a_shared_handle_with_other_bits_is_told_and_not_required(gpu: FakeGraphs, data: Dataset) -> None:
    from cupy_backends.cuda.libs import cublas

    cublas.error = 1e-3  # cuBLAS takes another kernel there
    found = gpu_right.same_bits(data, LAYERS, 4)
    assert (found["ok"], set(found["shared_handle_same_bits"].values())) == (True, {False})
    assert gpu_session.HEADLINES["captured"](found) == "the same bits; on CuPy's handle the same for 0 of 5 optimisers"


def test_a_replay_with_other_bits_fails(gpu: FakeGraphs, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(self: FakeGraph) -> None:
        for call in self.calls if len(self.calls) < 5 else self.calls[:-1]:
            call()

    monkeypatch.setattr(FakeGraph, "launch", launch)
    found = gpu_right.same_bits(data, LAYERS, 4)
    assert (found["ok"], found["used"]) == (False, True)
    assert not any(found["same_bits"].values())


def test_a_handle_that_is_not_captured_runs_call_by_call(gpu: FakeGraphs, data: Dataset) -> None:
    backend = gpu_right.make_backend("auto", recorded=False)
    before = gpu.graph_launches
    gpu_right.trained(backend, data, LAYERS, TrainConfig(epochs=2, batch_size=4, evaluate_test=False))
    assert gpu.graph_launches == before
    assert gpu.library.products is not None  # type: ignore[attr-defined]
    assert type(backend._handle).__name__ == "OwnHandle"
    assert type(gpu_right.make_backend("0")._handle).__name__ == "SharedHandle"


# --- times ----------------------------------------------------------------------------------------------------


def test_the_waterfall_measures_every_way_and_the_floors(gpu: FakeGraphs, data: Dataset) -> None:
    found = gpu_quick.waterfall_of(data, LAYERS, 4, 3)
    assert found["us_per_step"].keys() == found["raw"].keys()
    floors = ["products alone", "empty kernels, a launch a step", "empty kernels, 64 steps a launch"]
    assert list(found["us_per_step"])[-4:] == ["a launch an epoch", *floors]
    assert all(us > 0 for us in found["us_per_step"].values())
    used = {name: graphs["used"] for name, graphs in found["graphs"].items()}
    assert [name for name in used if used[name]] == ["call by call, own handle", *gpu_quick.LAUNCHED]
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
    step = gpu_quick.training_step(backend, LAYERS, 4, "momentum")
    take = fake.take
    counts: Counter[str] = Counter()
    before = library.calls
    with gpu_quick.counted(backend, counts):
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
    assert gpu_quick.kinds(EVENTS) == {
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
    found = gpu_quick.judged(counts, 469)
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

    monkeypatch.setattr(gpu_quick, "profiled", profiled)
    MemoryHook.asked = asked
    found = gpu_quick.traced(data, LAYERS, TrainConfig(epochs=3, batch_size=4, evaluate_test=False))
    assert found["ok"] is ok
    assert epochs == [3, 3, 3]
    assert [entry["steps"] for entry in found["ways"].values()] == [3, 3, 3]
    assert isinstance(gpu_session.HEADLINES["trace"](found), str)


def test_the_profiler_that_is_here_is_asked() -> None:
    found = gpu_quick.profiled(lambda: None)
    try:
        import torch
    except ImportError:
        assert str(found).startswith("no profiler: No module named")
    else:
        assert isinstance(found, Counter) if torch.cuda.is_available() else "finds no GPU" in str(found)


# --- seeds in the graphs of the first one -------------------------------------------------------------------------


def test_a_run_that_is_put_back_ends_as_a_new_one(backend: Backend, data: Dataset) -> None:
    config = TrainConfig(
        epochs=2, batch_size=4, optimizer="momentum", lr=0.1, schedule="one-cycle", evaluate_test=False
    )
    again = time_to_accuracy.Again(data, backend, [5], config)
    for seed in (0, 3, 0):
        found = again.run_once(config.replace(seed=seed))
        expected = time_to_accuracy.run_once(data, backend, [5], config.replace(seed=seed))
        assert found["steps"] == expected["steps"] == 6
        after, new = (backend.to_host(run["net"].parameters) for run in (found, expected))
        assert np.array_equal(after, new), seed
        assert found["resident_seconds"] > 0


def test_a_second_seed_captures_nothing(gpu: FakeGraphs, data: Dataset) -> None:
    config = TrainConfig(epochs=2, batch_size=4, optimizer="momentum", evaluate_test=False)
    backend = gpu_right.make_backend("epoch")
    again = time_to_accuracy.Again(data, backend, [5], config)
    again.run_once(config)
    graphs, seconds = len(gpu.graphs), time_to_accuracy.capture_seconds(backend)
    assert seconds > 0
    launches = gpu.graph_launches
    again.run_once(config.replace(seed=1))
    assert (len(gpu.graphs), time_to_accuracy.capture_seconds(backend)) == (graphs, seconds)
    assert gpu.graph_launches == launches + config.epochs
    time_to_accuracy.run_once(data, backend, [5], config)
    assert time_to_accuracy.capture_seconds(backend) > seconds
