"""The three kernels without a GPU: run on the CPU against the package's step, broken on purpose, and compiled; and the
spike that drives them over a fake CuPy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import fused_spike, session
from bench.gpu.fused_spike import Fused, Samples, Side, source
from tests.backend.test_gpu_faults import ARCHITECTURES, double_arithmetic, nvrtc
from tests.support.cuda_on_cpu import ORDERS, BrokenRule, RawModule
from tests.support.fake_graphs import FakeGraph, FakeGraphs, plant_fake_graphs
from twostroke.backend import Backend, host_backend
from twostroke.backend.cuda.probe import Probe

ROOT = Path(__file__).parents[3]


def samples_of(layers: Sequence[int], count: int) -> Samples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count + 3, layers[0]), dtype=np.uint8)
    labels = rng.integers(0, layers[-1], count + 3).astype(np.uint8)
    return Samples(images, labels, rng.permutation(count + 3)[:count])


def trained(
    layers: Sequence[int], batch: int, count: int, activation: str = "relu", optimizer: str = "momentum",
    rows: int = 32, blocks: int = 132, order: int = 0, code: str | None = None, weights: float = 1.0,
    gpu: Backend | None = None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:  # fmt: skip
    """What the kernels and the package's step leave behind, and both compared. NaN lies where nobody may read."""
    samples, backends = samples_of(layers, count), (gpu or host_backend(), host_backend())
    sides = [Side(backend, layers, optimizer, count, activation) for backend in backends]
    for side in sides:
        side.net.parameters *= weights
    start, steps = sides[0].found()["weights"], -(-count // batch)
    code = code or source(layers, activation, optimizer, rows)
    module = fused_spike.compiled(code) if gpu else RawModule(code, ("--std=c++17",), order)
    there = Samples(*map(backends[0].asarray, samples))
    fused = Fused(sides[0], there, fused_spike.rates_of(steps), batch, module, rows, blocks)
    fused.restart()
    for _ in range(steps):
        for array in fused.scratch:
            array.fill(np.nan)
        fused.step()
    found, expected = sides[0].found(), fused_spike.stepped(sides[1], samples, batch, steps)
    return found, expected, fused_spike.compared(found, expected, start)


# --- right? ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "batch", "count", "activation", "optimizer", "rows", "blocks", "order"),
    [
        ((784, 30, 10), 37, 9 * 37 + 5, "relu", "momentum", 16, 132, 0),
        ((784, 30, 10), 16, 10 * 16, "sigmoid", "sgd", 8, 528, 1),
        ((784, 128, 10), 70, 9 * 70 + 1, "relu", "sgd", 32, 264, 2),
        ((5, 3, 4), 4, 9 * 4 + 1, "relu", "momentum", 32, 132, 1),
        ((5, 3, 4), 37, 9 * 37 + 36, "sigmoid", "momentum", 8, 1, 2),
        ((70, 35, 32), 33, 10 * 33, "sigmoid", "sgd", 16, 2, 0),
        ((31, 33, 2), 1, 10, "relu", "momentum", 8, 3, 2),
    ],
)
def test_ten_steps_are_those_of_the_package(
    layers: tuple[int, ...], batch: int, count: int, activation: str, optimizer: str, rows: int, blocks: int,
    order: int, figure: Any,
) -> None:  # fmt: skip
    found, expected, result = trained(layers, batch, count, activation, optimizer, rows, blocks, order)
    assert result["right"], result
    assert np.array_equal(found["predictions"], expected["predictions"])
    assert result["relative_l2"]["change"] <= 5e-5, result  # of what the steps changed
    figure("three kernels against the package, weights, relative L2", result["relative_l2"]["weights"])


def test_ten_steps_on_a_gpu(cuda: Backend) -> None:
    with cuda.active():
        for optimizer in fused_spike.OPTIMIZERS:
            ends = [trained((784, 128, 10), 70, 9 * 70 + 1, optimizer=optimizer, rows=16, gpu=cuda) for _ in "12"]
            assert ends[0][2]["right"], ends[0][2]
            assert all(np.array_equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])


def test_the_bits_do_not_depend_on_who_comes_first() -> None:
    ends = [trained((70, 35, 4), 37, 100, order=order)[0] for order in ORDERS]
    for end in ends[1:]:
        assert all(np.array_equal(end[name], ends[0][name]) for name in end)


def test_of_equal_classes_the_first_is_predicted() -> None:
    found, expected, _ = trained((5, 3, 4), 8, 8, weights=0.0)
    assert found["predictions"].tolist() == expected["predictions"].tolist() == [0] * 8


def test_a_pixel_is_scaled_to_the_last_bit() -> None:
    kernel = 'extern "C" __global__ void all(float* out) { out[threadIdx.x] = scaled(threadIdx.x, 0); }'
    out = np.zeros(256, "float32")
    RawModule(source((5, 3, 4), "relu", "sgd", 32) + kernel).get_function("all")((1,), (256,), (out,))
    assert np.array_equal(out, np.arange(256, dtype="float32") / np.float32(255))


# --- would it be seen? ----------------------------------------------------------------------------------------

BROKEN = {
    "no bias of the first layer": ("pixel + i <= INPUTS", "pixel + i < INPUTS"),
    "no bias of the second layer": ("logit = W[HIDDEN * CLASSES + k]", "logit = 0.0f"),
    "no gradient of a bias": ("here && unit == HIDDEN ? 1.0f", "here && unit == HIDDEN ? 0.0f"),
    "biases not updated": ("row <= inputs", "row < inputs"),
    "beyond the parameters": ("places[i] = inside ?", "places[i] = true ?"),
    "no barrier before a stage": ("right.store(y);\n        __syncthreads();", "right.store(y);"),
    "no barrier before the groups' sums": ("    __syncthreads();\n#pragma unroll\n    for", "#pragma unroll\n    for"),
    "no barrier before the logits": ("    __syncthreads();\n\n", ""),
    "one stage's place for both": ("tile.left[stage % 2]", "tile.left[0]"),
    "a barrier for some": ("    __syncthreads();\n\n", "    if (real) __syncthreads();\n\n"),
    "a shuffle of some": ("    if (sample < 0) return;", "    if (sample < 0 || !real) return;"),
    "the last batch is a whole one": ("left < batch ? left : batch", "left < 0 ? left : batch"),
    "samples beyond the last": ("    if (sample < 0) return;\n", ""),
    "the first step's rate": ("rates[step]", "rates[0]"),
    "always the first batch": ("position[0] = step + 1", "position[0] = step"),
    "a part of the depth is left out": ("part < n_parts; part += AT_ONCE", "part < n_parts - 1; part += AT_ONCE"),
    "no slope": ("change * slope(a)", "change"),
    "the last of equal classes": ("its < choice", "its > choice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_seen(name: str) -> None:
    old, new = BROKEN[name]
    code = source((70, 35, 4), "relu", "momentum", 32)
    assert code.count(old) == 1
    code = code.replace(old, new)
    seen = []
    for order in ORDERS:
        try:
            results = [trained((70, 35, 4), 70, 145, blocks=1 << n, order=order, code=code) for n in (0, 6)]
            results.append(trained((70, 35, 4), 70, 145, order=order, code=code, weights=0.0))
            same = all(np.array_equal(found["predictions"], known["predictions"]) for found, known, _ in results)
            seen.append(not (same and all(result["right"] for *_, result in results[:2])))
        except BrokenRule:
            seen.append(True)
    assert any(seen)


RULES = """
extern "C" __global__ void reversed(const float* x, float* y, int n) {
    __shared__ float all[64];
    const int i = threadIdx.x;
    if (i < n) all[i] = x[i];
    __syncthreads();
    const float one = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    if (i < n) y[i] = all[n - 1 - i] * one;
}
"""


def reversed_by(code: str, order: int) -> Any:
    x, y = np.arange(64, dtype="float32"), np.zeros(64, "float32")
    RawModule(code, order=order).get_function("reversed")((1,), (64,), (x, y, np.int32(64)))
    return y


@pytest.mark.parametrize("order", ORDERS)
def test_a_kernel_runs_on_the_cpu(order: int) -> None:
    assert reversed_by(RULES, order).tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("= x[i]", "= x[i + 1]", "reaches beyond argument 0, to byte 256 of 256"),
        ("y[i] =", "y[i - 1] =", "reaches beyond argument 1, to byte -4 of 256|written beside argument 1"),
        ("n - 1 - i", "n - i", "reaches beyond an array of known size"),
        ("    __syncthreads();", "    if (i < 40) __syncthreads();", "thread 0 waits at line "),
        ("    __syncthreads();", "    if (i < 40) __syncthreads();\n    else __syncthreads();", "waits at line "),
        ("const float one = ", "if (i == 7) return;\n    const float one = ", "waits at line "),
        ("0xffffffffu", "0xffffu", "a shuffle of less than a warp, line "),
        ("const float* x", "const double* x", "argument 0 is of another type"),
        ("float* y, int n", "float* y, long long n", "argument 2 is of another type"),
    ],
)
def test_a_rule_that_is_broken_is_named(old: str, new: str, says: str) -> None:
    code = RULES.replace(old, new)
    said = []
    for order in ORDERS:
        try:
            reversed_by(code, order)
        except BrokenRule as error:
            said.append(str(error))
    assert said
    assert any(re.search(says, line) for line in said), said


def test_a_barrier_that_is_missing_is_seen_in_some_order() -> None:
    code = RULES.replace("    __syncthreads();\n", "")
    ends = [reversed_by(code, order).tolist() for order in ORDERS]
    assert any(end != list(range(63, -1, -1)) for end in ends)


# --- machine code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rows", fused_spike.ROWS)
@pytest.mark.parametrize("layers", fused_spike.NETS)
def test_the_kernels_compile_and_spill_nothing(
    layers: tuple[int, ...], rows: int, architecture: str, figure: Any
) -> None:
    compiler = nvrtc()
    for activation, optimizer in (("relu", "momentum"), ("sigmoid", "sgd")):
        program = compiler.createProgram(source(layers, activation, optimizer, rows), "fused_step.cu", (), ())
        compiler.compileProgram(program, ("--std=c++17", f"-arch={architecture}", "--ptxas-options=-v"))
        log, ptx, code = (
            compiler.getProgramLog(program), compiler.getPTX(program), compiler.getCUBIN(program)
        )  # fmt: skip
        compiler.destroyProgram(program)
        assert code.startswith(b"\x7fELF")
        assert not double_arithmetic(ptx.decode() if isinstance(ptx, bytes) else ptx)
        spilt = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
        assert spilt == [("0", "0", "0")] * len(fused_spike.KERNELS), log
        used = re.findall(r"entry function '(\w+)'.*?Used (\d+) registers.*?(\d+) bytes smem", log, re.DOTALL)
        assert {name for name, *_ in used} == set(fused_spike.KERNELS), log
        for name, registers, shared in used:
            figure(f"{name}: registers, most", float(registers))
            figure(f"{name}: bytes of shared memory, most", float(shared))


# --- the spike ------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGraphs]:
    """A GPU that captures, whose raw modules run on the CPU."""
    fake, graphs = plant_fake_graphs(monkeypatch)

    class Module(RawModule):
        def get_function(self, name: str) -> Any:
            return graphs.device(super().get_function(name))

    fake.RawModule = Module
    monkeypatch.setenv("TWOSTROKE_CAPTURE", "auto")
    monkeypatch.setattr(fused_spike, "LONG", 3)
    monkeypatch.setattr(fused_spike, "CHECK_STEPS", 2)
    monkeypatch.setattr(fused_spike, "ROWS", (32, 8))
    fused_spike.compiled.cache_clear()  # its modules are of the CuPy that was there before
    yield graphs
    fused_spike.compiled.cache_clear()


def measured(batches: Sequence[int] = (4,)) -> list[dict[str, Any]]:
    samples = samples_of((6, 5, 3), 40)
    rows = list(fused_spike.measure(samples.images, samples.labels, [(6, 5, 3)], batches))
    return [*map(json.loads, map(json.dumps, rows))]


def test_a_case_is_checked_and_timed(gpu: FakeGraphs) -> None:
    floor, *rows = measured()
    assert floor["floor_us"] > 0
    assert [row["optimizer"] for row in rows] == ["sgd", "momentum"]
    for row in rows:
        assert row.get("failed") is None
        assert row["right"]
        assert [entry["rows"] for entry in row["fused"]] == [32, 8]
        assert row["ratio"] == min(row["captured_us"].values()) / min(row["best"]["us"].values()) > 0
        assert list(row["alone_us"]) == list(fused_spike.KERNELS)
        assert "right" in fused_spike.line(row)
    # Of the last case: a variant's graphs of LONG steps and of one, then each kernel alone. A step is three launches.
    assert [len(graph.calls) for graph in gpu.graphs[-5:]] == [1 + 3 * 3, 3, 1 + 3, 1 + 3, 1 + 3]


def test_a_kernel_that_is_wrong_is_told(gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fused_spike, "ROWS", (32,))
    monkeypatch.setattr(fused_spike, "OPTIMIZERS", ("momentum",))
    file = tmp_path / "fused_step.cu"
    file.write_text(fused_spike.SOURCE.read_text().replace("change * slope(a)", "change"))
    monkeypatch.setattr(fused_spike, "SOURCE", file)
    _, row = measured()
    assert row["right"] is False
    assert "WRONG" in fused_spike.line(row)


def test_a_graph_with_other_bits_is_told(gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(self: FakeGraph) -> None:
        for call in self.calls if len(self.calls) < 5 else self.calls[:-1]:
            call()

    monkeypatch.setattr(FakeGraph, "launch", launch)
    monkeypatch.setattr(fused_spike, "ROWS", (32,))
    monkeypatch.setattr(fused_spike, "OPTIMIZERS", ("sgd",))
    _, row = measured()
    assert [(entry["right"], entry["repeats"]) for entry in row["fused"]] == [(True, False)]
    assert row["right"] is False


def test_a_case_that_fails_leaves_its_reason(gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_spike, "KERNELS", ("layer1", "nothing", "update"))
    rows = measured()[1:]
    assert [row["failed"].partition(":")[0] for row in rows] == ["AttributeError"] * 2
    assert "AttributeError" in fused_spike.line(rows[0])


def test_a_gpu_that_does_not_capture_is_refused(gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_fake_graphs(monkeypatch, own_handle=False)
    with pytest.raises(RuntimeError, match="no libcublas"):
        measured()


def test_every_way_to_share_the_work_is_another() -> None:
    for layers in fused_spike.NETS:
        for batch in fused_spike.BATCHES:
            tried = list(fused_spike.ways(layers, batch, 132))
            side = Side(host_backend(), layers, "sgd", batch)
            module = type("Module", (), {"get_function": lambda self, name: lambda *_: None})()
            parts = [Fused(side, samples_of(layers, batch), [0.1], batch, module, *way).parts for way in tried]
            assert len({*zip(parts, (rows for rows, _ in tried), strict=True)}) == len(tried) >= len(fused_spike.ROWS)


def test_the_session_shows_what_decides() -> None:
    row = {"layers": [784, 128, 10], "batch_size": 128, "optimizer": "momentum", "captured_us": {"a": 50.0, "b": 48.0}}
    rows = [
        {"floor_us": 4.0},
        row | {"best": {"us": {"a": 9.0, "b": 8.04}}},
        row | {"failed": "x"},
        row | {"layers": []},
    ]
    assert session.headline("fused_spike", {"found": {"rows": rows, "ok": True}}) == "momentum 8.0 us of 48"
    assert "NOT RIGHT" in session.headline("fused_spike", {"found": {"rows": rows, "ok": False}})


def test_a_dry_run_lists_every_case() -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu" / "fused_spike.py"), "--dry-run"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert [row["failed"] for row in document["rows"]] == ["skipped: --dry-run"] * 12


def test_the_document_is_kept_after_every_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def measure(*_: Any) -> Iterator[dict[str, Any]]:
        for number in range(3):
            file = tmp_path / "fused-spike.json"
            seen.append(len(json.loads(file.read_text())["rows"]) if file.exists() else 0)
            case = {"layers": [1, 2, 3], "batch_size": 4, "optimizer": "sgd", "failed": "for this test"}
            yield case if number else {"floor_us": 1.0}

    monkeypatch.setattr("twostroke.backend.cuda.probe.probe_cuda", lambda: Probe(True, "A GPU (none)"))
    monkeypatch.setattr(fused_spike, "measure", measure)
    assert fused_spike.main(["--out", str(tmp_path)]) == 0
    assert seen == [0, 1, 2]
    assert not json.loads((tmp_path / "fused-spike.json").read_text()).get("ok")
