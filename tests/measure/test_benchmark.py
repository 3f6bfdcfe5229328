"""The benchmark's arithmetic and behaviour: fits, crossovers, blocks, records, files. No test asserts a time."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import plant_fake_cupy
from twostroke.backend import Backend, select_backend
from twostroke.backend.cuda.probe import Probe
from twostroke.cli import main
from twostroke.engine.mlp import MLP
from twostroke.engine.optimizers import SGD
from twostroke.engine.step import TrainingStep
from twostroke.errors import ConfigError, DeviceError
from twostroke.measure import crossover
from twostroke.measure import throughput as benchmark
from twostroke.measure.crossover import Fit, find_crossover, fit_line, summarise
from twostroke.measure.throughput import BenchConfig, Cell, Timed, find_devices, measure
from twostroke.provenance import to_json
from twostroke.show import chart

SIZES = [1, 4, 16, 64, 256, 1024]
NEEDS_MATPLOTLIB = pytest.mark.skipif(
    util.find_spec("matplotlib") is None, reason="matplotlib is not installed: pip install matplotlib"
)
TINY = BenchConfig(layers=(6, 5, 3), batch_sizes=(1, 4), devices="cpu", threads=1, seconds=0.01)
CONTRACT = {"layers", "batch_size", "device", "samples_per_second", "gflops", "roofline_fraction", "threads"}
SPREAD = {"step_seconds", "step_seconds_quartiles", "blocks", "steps_per_block", "roofline_gflops", "roofline_suspect"}
ORIGIN = {"backend", "reason", "machine", "versions", "dtype"}


def line(t0: float, rate: float) -> dict[int, float]:
    return {size: t0 + size / rate for size in SIZES}


def fit(curve: dict[int, float]) -> Fit:
    found = fit_line(list(curve), list(curve.values()))
    assert found is not None
    return found


def crossing(base: dict[int, float], other: dict[int, float]) -> crossover.Crossover:
    return find_crossover("cuda:0", base, other, fit(base), fit(other))


# --- fits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t0", "rate"), [(20e-6, 300e3), (180e-6, 30e6), (1e-3, 10.0), (0.0, 1e4)])
def test_a_fit_recovers_what_made_the_points(t0: float, rate: float) -> None:
    found = fit(line(t0, rate))
    assert found.t0 == pytest.approx(t0, rel=1e-6, abs=1e-12)
    assert found.rate == pytest.approx(rate, rel=1e-6)
    assert found.residual < 1e-6
    assert found.points == len(SIZES)


def test_a_fit_weighs_every_batch_size_alike(rng: np.random.Generator) -> None:
    """Noise of 5 % everywhere: t0 comes out although the largest step is 150 times longer than the smallest."""
    sizes = SIZES * 20
    seconds = [(20e-6 + size / 300e3) * noise for size, noise in zip(sizes, rng.normal(1, 0.05, 120), strict=True)]
    found = fit_line(sizes, seconds)
    assert found is not None
    assert found.t0 == pytest.approx(20e-6, rel=0.1)
    assert found.rate == pytest.approx(300e3, rel=0.05)
    assert 0.03 < found.residual < 0.07


@pytest.mark.parametrize("size", [1, 16, 1024])
def test_one_disturbed_point_does_not_move_a_fit_and_shows_in_its_residual(size: int) -> None:
    curve = line(20e-6, 300e3)
    curve[size] *= 5
    found = fit(curve)
    assert found.t0 == pytest.approx(20e-6, rel=0.35)
    assert found.rate == pytest.approx(300e3, rel=0.35)
    assert found.residual > 0.2


def test_a_fit_is_never_negative() -> None:
    steep = fit({1: 1e-6, 10: 100e-6, 100: 10_000e-6})  # a line through these starts below zero
    assert steep.t0 == 0.0
    assert steep.rate > 0
    falling = fit({1: 5e-6, 10: 4e-6, 100: 3e-6})
    assert falling.rate == math.inf
    assert falling.t0 == pytest.approx(4e-6, rel=0.1)


def test_two_points_are_met_exactly_and_one_has_no_fit() -> None:
    found = fit({1: 11e-6, 100: 110e-6})
    assert (found.t0, found.rate) == pytest.approx((10e-6, 1e6))
    assert found.residual < 1e-9
    assert fit_line([128], [1e-3]) is None


# --- crossovers ------------------------------------------------------------------------------------------


def test_the_crossover_lies_where_the_curves_meet() -> None:
    """20 us + B / 300,000 = 180 us + B / 30,000,000 at B = 160e-6 / (1/300e3 - 1/30e6) = 48.48."""
    found = crossing(line(20e-6, 300e3), line(180e-6, 30e6))
    assert found.fit_batch_size == pytest.approx(160e-6 / (1 / 300e3 - 1 / 30e6))
    assert found.batch_size == pytest.approx(48.5, rel=0.2)
    assert "cuda:0 wins from batch" in found.verdict
    assert "(between 16 and 64)" in found.verdict
    assert "the fits agree: from 48.5" in found.verdict


def test_a_crossing_on_logarithmic_axes_is_exact_for_power_laws() -> None:
    base = {size: 1e-6 * size for size in SIZES}
    found = find_crossover("cuda:0", base, dict.fromkeys(SIZES, 32e-6), None, None)
    assert found.batch_size == pytest.approx(32)
    assert "no fit" in found.verdict


def test_one_device_ahead_everywhere() -> None:
    slow, fast = line(100e-6, 1e5), line(10e-6, 1e7)
    found = crossing(slow, fast)
    assert (found.batch_size, found.fit_batch_size) == (None, 0.0)
    assert found.verdict == "cuda:0 wins everywhere measured (batch 1 to 1024); the fits agree: from batch 1"
    found = crossing(fast, slow)
    assert (found.batch_size, found.fit_batch_size) == (None, None)
    assert found.verdict == "the CPU wins everywhere measured (batch 1 to 1024); the fits agree: it never does"


def test_a_crossing_beyond_what_was_measured_is_the_fits_alone() -> None:
    found = crossing(line(20e-6, 300e3), line(20e-3, 30e6))
    assert found.batch_size is None
    assert found.fit_batch_size == pytest.approx(6054, rel=0.01)
    assert "the CPU wins everywhere measured" in found.verdict
    assert "the fits agree: from 6.05e+03" in found.verdict


def test_a_device_that_wins_at_small_batches_only() -> None:
    found = crossing(line(100e-6, 1e6), line(10e-6, 1e5))
    assert found.batch_size is None
    assert "no crossover: cuda:0 wins at batch 1, 4 but the CPU at the largest, 1024" in found.verdict


def test_curves_that_cross_again_and_again_are_called_so() -> None:
    base = dict.fromkeys(SIZES, 1e-3)
    other = dict(zip(SIZES, [2e-3, 5e-4, 2e-3, 5e-4, 2e-3, 5e-4], strict=True))
    found = crossing(base, other)
    assert found.batch_size == pytest.approx(512)
    assert "the curves cross 5 times" in found.verdict


def test_fits_that_tell_another_story_are_said_to_disagree() -> None:
    base, other = line(20e-6, 300e3), line(180e-6, 30e6)
    found = find_crossover("cuda:0", base, other, Fit(20e-6, 300e3, 0, 6), Fit(20e-3, 30e6, 0, 6))
    assert "the fits disagree" in found.verdict


# --- which devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probes", "found", "missing"),
    [
        ([], ["cpu"], {"cuda": "no driver. Install it."}),
        ([True], ["cpu", "cuda:0"], {}),
        ([True, True], ["cpu", "cuda:0", "cuda:1"], {}),
        ([True, "failed", True], ["cpu", "cuda:0", "cuda:2"], {"cuda:1": "failed. Install it."}),
        (["failed", True], ["cpu", "cuda:1"], {"cuda:0": "failed. Install it."}),
        ([True, "failed", "failed"], ["cpu", "cuda:0"], {"cuda:1 and above": "failed. Install it."}),
    ],
)
def test_auto_is_the_cpu_and_every_gpu_and_names_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, probes: list[Any], found: list[str], missing: dict[str, str]
) -> None:
    def probe(index: int) -> Probe:
        if index < len(probes):
            return Probe(True, "works") if probes[index] is True else Probe(False, probes[index], "Install it.")
        return Probe(False, f"there is no cuda:{index}, this machine has ..." if probes else "no driver", "Install it.")

    monkeypatch.setattr(benchmark, "probe_cuda", probe)
    assert find_devices(BenchConfig.parse()) == (found, missing)


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_devices(BenchConfig.parse(devices="cpu, cpu")) == (["cpu"], {})
    with pytest.raises(DeviceError, match="the GPU cannot be used"):
        find_devices(BenchConfig.parse(devices="cpu,cuda:4096"))
    for devices in ("tpu", "cpu,", "", "auto,cpu"):
        with pytest.raises(ConfigError):
            find_devices(BenchConfig.parse(devices=devices))


def test_the_defaults() -> None:
    config = BenchConfig.parse()
    assert (config.layers, config.devices, config.threads, config.seconds) == ((784, 128, 10), "auto", "auto", 10.0)
    assert config.batch_sizes == (1, 4, 16, 64, 128, 256, 1024, 4096)
    assert BenchConfig.parse(batch_sizes="16,1,16").batch_sizes == (1, 16)


# --- blocks ----------------------------------------------------------------------------------------------


class Machine:
    """A clock that only work moves, and a diary."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds, self.diary = 0.0, seconds, ""
        monkeypatch.setattr(time, "perf_counter", self.read)

    def read(self) -> float:
        self.diary += "t"
        return self.now

    def work(self, times: int) -> None:
        self.diary += "w" * times
        self.now += self.seconds * times

    def synchronize(self) -> None:
        self.diary += "s"

    def active(self) -> Any:
        return nullcontext()


def test_a_block_is_warmed_up_synchronised_at_both_ends_and_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1e-3)
    timed = Timed(machine, machine.work, 8e-3)  # type: ignore[arg-type]
    assert timed.calls >= 8
    machine.diary = ""
    timed.block()
    warm = math.ceil(benchmark.WARM_PART * timed.calls)
    assert machine.diary == "w" * warm + "st" + "w" * timed.calls + "st"
    assert timed.seconds == [pytest.approx(1e-3)]


def test_a_block_that_turns_out_too_short_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated while a neighbour was busy: the work is a hundred times faster now."""
    machine = Machine(monkeypatch, 1e-3)
    timed = Timed(machine, machine.work, 8e-3)  # type: ignore[arg-type]
    machine.seconds = 1e-5
    timed.block()
    assert timed.calls * machine.seconds >= 2e-3
    assert timed.seconds == [pytest.approx(1e-5)]


def test_devices_and_batch_sizes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int]] = []

    class Turn:
        def __init__(self, backend: Any, batch_size: int, **_: Any) -> None:
            self.batch_size = batch_size
            self.step = SimpleNamespace(block=lambda: turns.append((backend.device, batch_size)))
            self.products = SimpleNamespace(block=lambda: None)
            self.record = lambda: {"device": backend.device, "batch_size": batch_size}

    names = iter(["cpu", "cpu", "cpu", "gpu", "gpu", "gpu"])  # for each device: its data, then its two cells

    def select(*_: object) -> Any:
        return SimpleNamespace(device=next(names), active=nullcontext, asarray=np.asarray)

    monkeypatch.setattr(benchmark, "Cell", Turn)
    monkeypatch.setattr(benchmark, "select_backend", select)
    monkeypatch.setattr(benchmark, "MLP", lambda *_, **__: None)
    monkeypatch.setattr(benchmark, "upload", lambda *_: (None, None))
    monkeypatch.setattr(benchmark, "_samples", lambda *_: (None, None, None))
    records = measure(BenchConfig((6, 5, 3), (1, 4), seconds=1e-9), ["cpu", "gpu"])
    there = [("cpu", 1), ("gpu", 1), ("cpu", 4), ("gpu", 4)]
    assert turns[:8] == there + there[::-1]
    assert len(turns) == 4 * benchmark.MIN_ROUNDS
    assert [tuple(record.values()) for record in records] == [("cpu", 1), ("cpu", 4), ("gpu", 1), ("gpu", 4)]


# --- a small run -----------------------------------------------------------------------------------------


def check_record(record: dict[str, Any], device: str, batch_size: int) -> None:
    assert record.keys() == CONTRACT | SPREAD | ORIGIN
    assert (record["layers"], record["device"], record["batch_size"]) == ([6, 5, 3], device, batch_size)
    assert record["samples_per_second"] == pytest.approx(batch_size / record["step_seconds"])
    assert record["gflops"] == pytest.approx(2e-9 * batch_size * (3 * 45 - 30) / record["step_seconds"])
    assert record["gflops"] == pytest.approx(record["roofline_gflops"] * record["roofline_fraction"])
    assert record["roofline_suspect"] == (record["roofline_fraction"] > 1)
    low, high = record["step_seconds_quartiles"]
    assert 0 < low <= record["step_seconds"] <= high
    assert record["blocks"] >= 1
    assert record["steps_per_block"] >= 1
    assert record["reason"]
    assert {"twostroke", "numpy", "python"} <= record["versions"].keys()


def test_a_small_run_on_the_cpu() -> None:
    records = measure(TINY, ["cpu"], block_seconds=2e-4)
    for record, batch_size in zip(records, TINY.batch_sizes, strict=True):
        check_record(record, "cpu", batch_size)
        assert record["threads"] == 1
        assert record["machine"]["processor"]
    assert json.loads(to_json(records)) == records


def test_a_cell_on_every_device(backend: Backend) -> None:
    """The step and the bare products on arrays of the device alone; the strict device refuses any other."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (11, 6), np.uint8), rng.integers(0, 3, 11).astype(np.uint8)
    data = (backend.asarray(images), backend.asarray(labels), np.arange(11))
    cell = Cell(backend, (6, 5, 3), 4, data, 1e-4)
    before = backend.to_host(cell.net.parameters).copy()
    for _ in range(3):
        cell.step.block()
        cell.products.block()
    check_record(cell.record(), backend.device, 4)
    after = backend.to_host(cell.net.parameters)
    assert np.isfinite(after).all()
    assert (after != before).any()


def test_the_bare_products_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape by shape what ``forward`` and ``backward`` multiply, but for the row of ones that sums the biases."""
    backend = select_backend("cpu", 1)
    shapes: list[tuple[int, ...]] = []
    gemm = backend.gemm

    def spy(a: Any, b: Any, out: Any, alpha: float = 1.0, beta: float = 0.0) -> None:
        shapes.append((*a.shape, *b.shape, a.flags.c_contiguous, b.flags.c_contiguous, out.flags.c_contiguous))
        gemm(a, b, out, alpha, beta)

    layers, n = (7, 6, 5, 3), 4
    monkeypatch.setattr(backend, "gemm", spy)
    benchmark.bare_products(backend, layers, n)()
    bare, shapes[:] = sorted(shapes), []
    images, labels = np.ones((n, 7), np.uint8), np.zeros(n, np.uint8)
    net = MLP(layers, backend=backend)
    step = TrainingStep(net, images, labels, SGD(net), n)
    step.learn_batch(step.workspace.rows(n), n)
    assert bare == sorted(shape for shape in shapes if shape[0] != 1)
    assert sum(2 * m * k * n for m, k, _, n, *_ in bare) == benchmark.step_flops(layers, n)


def test_samples_are_pixels_labels_and_a_permutation() -> None:
    images, labels, order = benchmark._samples((5, 4, 3), 100)
    assert images.dtype == np.uint8
    assert images.shape == (benchmark.ROWS, 5)
    assert images.min() == 0
    assert images.max() == 255
    assert sorted(set(labels.tolist())) == [0, 1, 2]
    assert (np.sort(order) == np.arange(benchmark.ROWS)).all()


@pytest.fixture
def fake_gpus(monkeypatch: pytest.MonkeyPatch, fresh_probe: None) -> None:
    """Two GPUs that compute on the host."""
    found = [SimpleNamespace(name=name, version="14.2.0") for name in ("numpy", "cupy-cuda12x")]
    monkeypatch.setattr(metadata, "distributions", lambda: iter(found))
    plant_fake_cupy(monkeypatch, count=2)


def test_cpu_and_gpus_in_one_run(fake_gpus: None) -> None:
    devices, missing = find_devices(BenchConfig.parse())
    assert (devices, missing) == (["cpu", "cuda:0", "cuda:1"], {})
    result = summarise(measure(TINY, devices, block_seconds=2e-4), missing)
    for record, (device, size) in zip(result["records"], [(d, n) for d in devices for n in (1, 4)], strict=True):
        check_record(record, device, size)
    assert [crossing["device"] for crossing in result["crossovers"]] == ["cuda:0", "cuda:1"]
    assert result["fits"].keys() == set(devices)
    assert result["records"][-1]["machine"]["gpu"] == "Fake GPU"
    assert result["records"][-1]["threads"] is None


def test_cpu_and_gpu(cuda: Backend) -> None:
    result = summarise(measure(TINY, ["cpu", cuda.device], block_seconds=2e-4), {})
    for record, (device, size) in zip(
        result["records"], [(d, n) for d in ("cpu", cuda.device) for n in (1, 4)], strict=True
    ):
        check_record(record, device, size)


# --- the result ------------------------------------------------------------------------------------------


def synthetic(curves: dict[str, dict[int, float]]) -> list[dict[str, Any]]:
    """Records as ``measure`` makes them."""
    return [
        {
            "layers": [784, 128, 10],
            "batch_size": size,
            "device": device,
            "samples_per_second": size / seconds,
            "gflops": 20.0,
            "roofline_gflops": 40.0,
            "roofline_fraction": 0.5,
            "roofline_suspect": False,
            "threads": 2 if device == "cpu" else None,
            "step_seconds": seconds,
            "step_seconds_quartiles": [0.9 * seconds, 1.2 * seconds],
            "blocks": 12,
            "steps_per_block": 100,
            "dtype": "float32",
            "backend": "numpy",
            "machine": {"processor": "A processor"} if device == "cpu" else {"gpu": "A GPU"},
        }
        for device, curve in curves.items()
        for size, seconds in curve.items()
    ]


CPU, GPU = line(20e-6, 300e3), line(180e-6, 30e6)
RESULTS = {
    "crossover": summarise(synthetic({"cpu": CPU, "cuda:0": GPU, "cuda:1": line(300e-6, 5e6)}), {}),
    "no GPU": summarise(synthetic({"cpu": CPU}), {"cuda": "CuPy is not installed"}),
    "no CPU": summarise(synthetic({"cuda:0": GPU}), {}),
    "one batch size": summarise(synthetic({"cpu": {128: 1e-3}, "cuda:0": {128: 1e-4}}), {}),
    "flat": summarise(synthetic({"cpu": {1: 3e-6, 2: 2e-6}}), {}),
}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("crossover", "cuda:0 wins from batch"),
        ("no GPU", "no GPU was measured: no crossover"),
        ("no CPU", "the CPU was not measured: no crossover"),
        ("one batch size", "cuda:0 wins everywhere measured (batch 128); one batch size has no fit to check with"),
        ("flat", "no GPU was measured"),
    ],
)
def test_the_verdict_is_in_words_and_the_result_is_strict_json(name: str, verdict: str) -> None:
    result = RESULTS[name]
    assert verdict in result["verdict"]
    parsed = json.loads(to_json(result), parse_constant=pytest.fail)
    assert parsed["records"] == result["records"]
    assert parsed["kind"] == "twostroke-bench"


def test_what_was_not_measured_is_in_the_result() -> None:
    assert RESULTS["no GPU"]["not_measured"] == {"cuda": "CuPy is not installed"}
    assert json.loads(to_json(RESULTS["flat"]))["fits"]["cpu"]["rate"] is None  # infinite


def test_the_table_has_a_line_for_each_record_and_fit() -> None:
    lines = chart.table(RESULTS["crossover"])
    assert len(lines) == 1 + 18 + 3
    assert lines[1].split()[:3] == ["cpu", "1", "2"]
    assert lines[7].split()[:3] == ["cuda:0", "1", "-"]
    assert lines[-3].startswith("fit cpu: t(B) = 20.0 us + B / (300,000 samples/s), residual 0%")
    assert not any(text.startswith("fit") for text in chart.table(RESULTS["one batch size"]))


def test_a_rate_above_its_roofline_is_called_noise() -> None:
    records = synthetic({"cpu": {1: 1e-3}})
    records[0]["roofline_suspect"] = True
    assert "noise" in chart.table(summarise(records, {}))[1]


@NEEDS_MATPLOTLIB
@pytest.mark.parametrize("name", RESULTS)
def test_the_picture(name: str) -> None:
    content = chart.png(RESULTS[name])
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    assert (width, height) == (1200, 750)


# --- the command -----------------------------------------------------------------------------------------

QUICK = [
    "bench",
    "--layers",
    "6,5,3",
    "--batch-sizes",
    "4,1",
    "--devices",
    "cpu",
    "--seconds",
    "0.01",
    "--threads",
    "1",
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run(words...) -> (exit code, stdout, stderr)`` in an empty folder, with short blocks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "LEAST_BLOCK_S", 2e-4)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        return code, *capsys.readouterr()

    return run


def test_the_command_prints_a_table_and_writes_a_file(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*QUICK)
    assert code == 0
    assert "samples/s" in out
    assert "fit cpu: t(B) = " in out
    assert "no GPU was measured: no crossover" in out
    result = json.loads((tmp_path / "runs/bench/bench.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [record["batch_size"] for record in result["records"]] == [1, 4]


def test_the_last_line_of_json_is_the_list_of_records(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*QUICK, "--out", str(tmp_path / "o"), "--json")
    assert code == 0
    records = json.loads(out, parse_constant=pytest.fail)
    assert out.count("\n") == 1
    for record, size in zip(records, (1, 4), strict=True):
        check_record(record, "cpu", size)
    assert json.loads((tmp_path / "o/bench.json").read_text(encoding="utf-8"))["records"] == records


def test_a_gpu_that_is_not_there_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "probe_cuda", lambda index: Probe(False, "no driver", "Install it."))
    words = ["bench", "--layers", "6,3", "--batch-sizes", "1", "--seconds", "0.01"]
    assert "not measured: cuda: no driver. Install it.\n" in run(*words)[1]
    code, out, err = run(*words, "--json")
    assert (code, out.count("\n")) == (0, 1)
    assert "not measured: cuda: no driver. Install it.\n" in err


def test_without_matplotlib_there_is_a_note_and_no_picture(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(*QUICK, "--out", str(tmp_path))
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("note: bench.png needs matplotlib: found ")
    assert "pip install 'twostroke[plot]'" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json"]


@NEEDS_MATPLOTLIB
def test_the_command_writes_the_picture(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*QUICK, "--out", str(tmp_path))
    assert (code, err) == (0, "")
    assert str(tmp_path / "bench.png") in out
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--layers", "5"], 2, ["--layers", "found 5", "1..1048576"]),
        (["--layers", "5,0"], 2, ["--layers", "found 5,0", "1..1048576"]),
        (["--layers", "a,b"], 2, ["--layers", "'a,b'", "whole numbers"]),
        (["--layers", ""], 2, ["--layers", "''", "whole numbers"]),
        (["--batch-sizes", "0,1"], 2, ["--batch-sizes", "found 0,1", "1..1048576"]),
        (["--batch-sizes", "full"], 2, ["--batch-sizes", "'full'", "whole numbers"]),
        (["--seconds", "0"], 2, ["--seconds", "found 0", "> 0 and <= 3600"]),
        (["--seconds", "nan"], 2, ["--seconds", "found nan", "> 0 and <= 3600"]),
        (["--seconds", "soon"], 2, ["--seconds"]),
        (["--threads", "0"], 2, ["--threads", "found 0", "auto or 1.."]),
        (["--threads", "many"], 2, ["--threads", "found many", "auto or 1.."]),
        (["--devices", "tpu"], 2, ["--devices", "'tpu'", "cpu, cuda or cuda:N"]),
        (["--devices", "cpu,auto"], 2, ["--devices", "'cpu,auto'", "cuda:N joined by commas"]),
        (["--devices", "cuda:4096"], 3, ["the GPU cannot be used"]),
        (["--out", "/dev/null/x"], 2, ["--out /dev/null/x"]),
        (["--rounds", "5"], 2, ["--rounds", "twostroke bench --help"]),
    ],
)
def test_bad_options(run: Run, words: list[str], code: int, expected: list[str], tmp_path: Path) -> None:
    found, out, err = run("bench", *words)
    assert (found, out) == (code, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for text in expected:
        assert text in err
    assert not any(tmp_path.iterdir())


# --- time to accuracy ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accuracy() -> Any:
    """``bench/time_to_accuracy.py``, where the checkout has it."""
    root = Path(__file__).parents[2]
    if not (root / "bench/time_to_accuracy.py").exists():
        pytest.skip("bench/ is not part of this installation")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        return importlib.import_module("bench.time_to_accuracy")


def test_the_summary_of_accuracies(accuracy: Any) -> None:
    found = accuracy.accuracy_summary([0.979, 0.981, 0.982, 0.982], 0.98)
    assert found["mean"] == pytest.approx(0.981)
    assert found["standard_deviation"] == pytest.approx(math.sqrt(2) * 1e-3)
    assert (found["worst"], found["best"], found["fraction_at_target"]) == (0.979, 0.982, 0.75)
    # t = 0.001 / (sqrt(2) * 0.001 / 2) = sqrt(2) with 3 degrees of freedom
    assert found["p_one_sided"] == pytest.approx(0.12610, abs=1e-5)
    assert accuracy.accuracy_summary([0.97, 0.971], 0.98)["p_one_sided"] > 0.9


def test_a_sample_without_spread_has_no_p(accuracy: Any) -> None:
    assert accuracy.accuracy_summary([0.98], 0.98)["p_one_sided"] is None
    assert accuracy.accuracy_summary([0.99, 0.99], 0.98)["p_one_sided"] is None


def test_clocks(accuracy: Any) -> None:
    assert accuracy.clock_summary([3.0, 1.0, 2.0]) == {"runs": 3, "median": 2.0, "best": 1.0, "worst": 3.0}
    assert accuracy.clock_summary([]) is None


def test_the_recipe_is_the_fast_preset_unless_changed(accuracy: Any) -> None:
    fast = accuracy.PRESETS["fast"]
    hidden, config = accuracy.recipe(accuracy.parse([]))
    assert (hidden, config) == (fast.hidden, fast.config.replace(evaluate_test=False))
    hidden, config = accuracy.recipe(accuracy.parse(["--hidden", "30,20", "--epochs", "1", "--lr", "0.1"]))
    assert (hidden, config.epochs, config.lr, config.batch_size) == ((30, 20), 1, 0.1, fast.config.batch_size)


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--hidden", "wide"], ["--threads", "some"], ["--cold", "-1"]])
def test_bad_arguments_of_the_script(accuracy: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        accuracy.parse(words)
    assert words[0] in capsys.readouterr().err
