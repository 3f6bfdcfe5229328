"""How throughput is measured: which devices, blocks, records. No test asserts a time."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from contextlib import nullcontext
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import plant_fake_cupy
from twostroke.backend import Backend, select_backend
from twostroke.backend.cuda.probe import Probe
from twostroke.engine.mlp import MLP
from twostroke.engine.optimizers import SGD
from twostroke.engine.step import TrainingStep
from twostroke.errors import ConfigError, DeviceError
from twostroke.measure import throughput as benchmark
from twostroke.measure.crossover import summarise
from twostroke.measure.limits import step_flops
from twostroke.measure.throughput import BenchConfig, Cell, Timed, find_devices, measure
from twostroke.provenance import to_json, versions
from twostroke.version import __version__

TINY = BenchConfig(layers=(6, 5, 3), batch_sizes=(1, 4), devices="cpu", threads=1, seconds=0.01)
CONTRACT = {"layers", "batch_size", "device", "samples_per_second", "gflops", "roofline_fraction", "threads"}
SPREAD = {"step_seconds", "step_seconds_quartiles", "blocks", "steps_per_block", "roofline_gflops", "roofline_suspect"}
ORIGIN = {"backend", "reason", "machine", "versions", "dtype", "limits", "core_latency_ns"}


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
    timed = Timed(machine, machine.work, 8e-3)
    assert timed.calls >= 8
    machine.diary = ""
    timed.block()
    warm = math.ceil(benchmark.WARM_PART * timed.calls)
    assert machine.diary == "w" * warm + "st" + "w" * timed.calls + "st"
    assert timed.seconds == [pytest.approx(1e-3)]


def test_a_block_that_turns_out_too_short_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated while a neighbour was busy: the work is a hundred times faster now."""
    machine = Machine(monkeypatch, 1e-3)
    timed = Timed(machine, machine.work, 8e-3)
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
    monkeypatch.setattr(benchmark, "add_limits", lambda *_: None)
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
        limits = record["limits"]
        assert limits["best_product_fraction"] == pytest.approx(record["gflops"] / limits["best_product_gflops"])
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
    assert sum(2 * m * k * n for m, k, _, n, *_ in bare) == step_flops(layers, n)


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


def test_versions_are_of_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not loaded had no part in a result; and to read the metadata of all packages takes its time."""
    for name in ("cupy", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(metadata, "distributions", None)
    assert versions() == {"twostroke": __version__, "python": platform.python_version(), "numpy": np.__version__}
    monkeypatch.setitem(sys.modules, "scipy", SimpleNamespace(__version__="9.9"))
    assert versions()["scipy"] == "9.9"


def test_cpu_and_gpus_in_one_run(fake_gpus: None) -> None:
    devices, missing = find_devices(BenchConfig.parse())
    assert (devices, missing) == (["cpu", "cuda:0", "cuda:1"], {})
    result = summarise(measure(TINY, devices, block_seconds=2e-4), missing)
    for record, (device, size) in zip(result["records"], [(d, n) for d in devices for n in (1, 4)], strict=True):
        check_record(record, device, size)
    assert [crossing["device"] for crossing in result["crossovers"]] == ["cuda:0", "cuda:1"]
    assert result["fits"].keys() == set(devices)
    assert result["records"][-1]["machine"]["gpu"] == "Fake GPU"
    assert result["records"][-1]["versions"]["cupy-cuda12x"] == "14.2.0"
    assert result["records"][-1]["threads"] is None


def test_cpu_and_gpu(cuda: Backend) -> None:
    result = summarise(measure(TINY, ["cpu", cuda.device], block_seconds=2e-4), {})
    for record, (device, size) in zip(
        result["records"], [(d, n) for d in ("cpu", cuda.device) for n in (1, 4)], strict=True
    ):
        check_record(record, device, size)
