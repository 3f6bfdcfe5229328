"""Throughput: samples per second by batch size on every device.

A step is that of training: gather from resident pixels, forward, loss, backward, SGD update. In the same rounds, its
matrix products alone are timed: the roofline. Devices and batch sizes are timed in alternating blocks, so that a change
of clocks or other load affects all of them; the result is the median over blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any, Final

import numpy as np

from ..backend import Backend, Steps, probe_cuda, select_backend
from ..engine.arguments import MAX_WIDTH
from ..engine.batches import epoch_order
from ..engine.epoch import Epoch
from ..engine.evaluation import upload
from ..engine.mlp import MLP
from ..engine.optimizers import SGD
from ..engine.step import TrainingStep
from ..engine.workspace import Workspace
from ..errors import ConfigError
from ..provenance import versions
from .crossover import BASELINE, MAX_BATCH
from .limits import Limits, limits_of, step_flops

LAYERS: Final = "784,128,10"
BATCH_SIZES: Final = "1,4,16,64,128,256,1024,4096"
MAX_SECONDS = 3600.0
GPU_EXPECTED: Final = "microseconds and samples/s of its step, such as 59,40e6"
ROWS, BYTES = 60_000, 1 << 26  # samples: as many as MNIST, or as fit into so many bytes
LEARNING_RATE: Final = 1e-4  # for random labels: changes every weight, does not diverge
LEAST_BLOCK_S, BLOCK_S = 5e-3, 20e-3  # long enough to make the two synchronisations negligible
WARM_PART: Final = 0.15  # untimed warm-up before each block, as a fraction of it: caches hold another block's data
MIN_ROUNDS, ROUNDS = 5, 20


@dataclass(frozen=True)
class BenchConfig:
    """The settings of a benchmark. Raises ``ConfigError`` for a value out of range."""

    layers: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    devices: str = "auto"  # or names separated by commas
    threads: int | str = "auto"
    seconds: float = 10.0  # per device
    gpu: tuple[float, float] | None = None  # one to suppose where none is: seconds and samples/s of its step

    def __post_init__(self) -> None:
        if len(self.layers) < 2 or not all(1 <= width <= MAX_WIDTH for width in self.layers):
            expected = f"at least two widths of 1..{MAX_WIDTH}, such as {LAYERS}"
            raise ConfigError("bad layers", where="layers", found=_joined(self.layers), expected=expected)
        if not self.batch_sizes or not all(1 <= size <= MAX_BATCH for size in self.batch_sizes):
            expected = f"numbers of samples of 1..{MAX_BATCH}, such as 1,16,128"
            raise ConfigError(
                "bad batch sizes", where="batch_sizes", found=_joined(self.batch_sizes), expected=expected
            )
        if not 0 < self.seconds <= MAX_SECONDS:
            expected = f"a number > 0 and <= {MAX_SECONDS:g}"
            raise ConfigError("bad seconds", where="seconds", found=self.seconds, expected=expected)
        if self.gpu and not (0 <= self.gpu[0] < math.inf and 0 < self.gpu[1] < math.inf):
            raise ConfigError(
                "bad GPU", where="gpu", found=f"{1e6 * self.gpu[0]:g},{self.gpu[1]:g}", expected=GPU_EXPECTED
            )

    @classmethod
    def parse(
        cls,
        layers: str | None = None,
        batch_sizes: str | None = None,
        devices: str | None = None,
        threads: str | None = None,
        seconds: float | None = None,
        gpu: str | None = None,
    ) -> BenchConfig:
        """The settings from command-line values; None means the default."""
        return cls(
            layers=_integers("layers", LAYERS if layers is None else layers.replace("-", ",")),
            batch_sizes=tuple(
                sorted(set(_integers("batch_sizes", BATCH_SIZES if batch_sizes is None else batch_sizes)))
            ),
            devices="auto" if devices is None else devices,
            threads=int(threads) if threads and threads.isdecimal() else threads or "auto",
            seconds=10.0 if seconds is None else seconds,
            gpu=None if gpu is None else _gpu(gpu),
        )


def _integers(argument: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        what = f"bad {argument.replace('_', ' ')}"
        raise ConfigError(what, where=argument, found=repr(text), expected="whole numbers joined by commas") from error


def _gpu(text: str) -> tuple[float, float]:
    try:
        t0, rate = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError("bad GPU", where="gpu", found=repr(text), expected=GPU_EXPECTED) from error
    return t0 / 1e6, rate


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


# --- which devices ---------------------------------------------------------------------------------------


def find_devices(config: BenchConfig) -> tuple[list[str], dict[str, str]]:
    """The devices to measure; and with "auto" those that cannot be measured, each with the reason.

    Raises ``ConfigError`` for an unknown name, ``DeviceError`` if a named device is not usable.
    """
    names = [name.strip() for name in config.devices.split(",")]
    if names != ["auto"] and ("auto" in names or not all(names)):
        expected = "auto, or cpu and cuda:N joined by commas"
        raise ConfigError("bad devices", where="devices", found=repr(config.devices), expected=expected)
    if names == ["auto"]:
        select_backend(BASELINE, config.threads)  # raises ConfigError for bad threads
        return _all_devices()
    return list(dict.fromkeys(select_backend(name, config.threads).device for name in names)), {}


def _all_devices() -> tuple[list[str], dict[str, str]]:
    found, missing, before = [BASELINE], dict[str, str](), ""
    for index in count():
        probe = probe_cuda(index)
        if probe.usable:
            found.append(f"cuda:{index}")
        elif index and probe.reason.startswith(f"there is no cuda:{index}"):
            break
        elif probe.reason == before:  # the reason concerns the machine, not one GPU
            text = missing.pop(f"cuda:{index - 1}")
            missing["cuda" if index == 1 else f"cuda:{index - 1} and above"] = text
            break
        else:
            missing[f"cuda:{index}"] = f"{probe.reason}. {probe.remedy}".strip()
        before = "" if probe.usable else probe.reason
    return found, missing


# --- timing ----------------------------------------------------------------------------------------------


class Timed:
    """Times blocks of ``calls`` calls: ``work(n)`` makes n. ``seconds`` is the time per call, of each block."""

    def __init__(self, backend: Backend, work: Callable[[int], None], block_seconds: float) -> None:
        self.backend, self.work = backend, work
        self.calls = 1
        self.seconds: list[float] = []
        self._least = min(block_seconds, LEAST_BLOCK_S)
        self._run()  # compiles, captures
        while (spent := self._run()) < block_seconds:
            self.calls = math.ceil(self.calls * min(16.0, max(1.2, 1.1 * block_seconds / spent)))

    def block(self) -> None:
        """Time a block; if it is too short, discard it and repeat with twice the calls."""
        while (spent := self._run()) < self._least:
            self.calls *= 2
        self.seconds.append(spent / self.calls)

    def _run(self) -> float:
        with self.backend.active():
            self.work(math.ceil(WARM_PART * self.calls))
            self.backend.synchronize()
            started = time.perf_counter()
            self.work(self.calls)
            self.backend.synchronize()
            return time.perf_counter() - started


class Cell:
    """One batch size on one device: the step and its bare products. Has its own backend, so its own thread count."""

    def __init__(
        self, backend: Backend, layers: Sequence[int], batch_size: int, data: Sequence[Any], block_seconds: float
    ) -> None:
        self.backend, self.layers, self.batch_size = backend, tuple(layers), batch_size
        images, labels, order = data
        with backend.active():
            self.net = MLP(layers, backend=backend)
            rule = SGD(self.net)
            # Whole batches only: a cell measures one batch size.
            bounds = [(start, start + batch_size) for start in range(0, len(order) - batch_size + 1, batch_size)]
            self._batches = Epoch(TrainingStep(self.net, images, labels, rule, batch_size), bounds)
            self._batches.begin(order[: bounds[-1][1]], [rule.numbers(LEARNING_RATE, 1, rule.l2)] * len(bounds))
            self._products = backend.capture([Steps(bare_products(backend, layers, batch_size))])
        self._next = 0
        self._apart = backend.core_latency_ns()
        self.step = Timed(backend, self._run_steps, block_seconds)
        self.products = Timed(backend, self._run_products, block_seconds)

    def _run_steps(self, count: int) -> None:
        """Run ``count`` steps as training does: as many per call as the device takes."""
        total = len(self._batches.bounds)
        while count:
            stop = min(total, self._next + count)
            self._batches.run(self._next, stop)
            count -= stop - self._next
            self._next = stop % total

    def _run_products(self, count: int) -> None:
        for _ in range(count):
            self._products.run()

    def record(self) -> dict[str, Any]:
        """The cell's results. ``roofline_fraction`` is the median over rounds of time of products / time of step."""
        quarter, median, three_quarters = np.quantile(self.step.seconds, (0.25, 0.5, 0.75)).tolist()
        gflops = step_flops(self.layers, self.batch_size) / median / 1e9
        fraction = float(np.median(np.divide(self.products.seconds, self.step.seconds)))
        return {
            "layers": list(self.layers),
            "batch_size": self.batch_size,
            "device": self.backend.device,
            "samples_per_second": self.batch_size / median,
            "gflops": gflops,
            "roofline_gflops": gflops / fraction,
            "roofline_fraction": fraction,
            "roofline_suspect": fraction > 1.0,  # an error or a noisy machine: do not use the figure
            "threads": self.backend.threads,
            "step_seconds": median,
            "step_seconds_quartiles": [quarter, three_quarters],
            "blocks": len(self.step.seconds),
            "steps_per_block": self.step.calls,
            "dtype": self.net.dtype,
            "backend": self.backend.name,
            "reason": self.backend.reason,
            "core_latency_ns": [self._apart, self.backend.core_latency_ns()],  # before and after
            "limits": {},  # of the machine, measured last
            "machine": self.backend.describe(),
            "versions": versions(),
        }


def bare_products(backend: Backend, layers: Sequence[int], n: int) -> Callable[[], None]:
    """Only the matrix products of one step, in the step's order and memory layout, on separate arrays."""
    random = np.random.default_rng(0)
    buffers = Workspace(backend, layers, "float32", n).rows(n)
    W = [backend.asarray(random.uniform(-0.05, 0.05, shape), "float32") for shape in pairwise(layers)]
    for array in (buffers.A[0], buffers.dA[-1]):
        backend.xp.copyto(array, backend.asarray(random.uniform(-1, 1, array.shape), "float32"))

    def products() -> None:
        for A, weights, Z in zip(buffers.A, W, buffers.A[1:], strict=False):
            backend.gemm(A, weights, Z)
        for index in reversed(range(len(W))):
            if index > 0:
                backend.gemm(buffers.dA[index], W[index].T, buffers.dA[index - 1])
            backend.gemm(buffers.A[index].T, buffers.dA[index], W[index], -1e-9, 1.0)

    return products


def measure(config: BenchConfig, devices: Sequence[str], block_seconds: float | None = None) -> list[dict[str, Any]]:
    """A record of each batch size on each device, ordered by device. Takes about ``config.seconds`` per device."""
    sizes = config.batch_sizes
    if block_seconds is None:
        block_seconds = min(max(config.seconds / (2 * ROUNDS * len(sizes)), LEAST_BLOCK_S), BLOCK_S)
    cells: list[Cell] = []
    images, labels, order = _samples(config.layers, max(sizes))
    for device in devices:
        backend = select_backend(device, config.threads)
        with backend.active():
            net = MLP(config.layers, backend=backend)
            data = (*upload(backend, images, labels, net), order)
        make = partial(Cell, layers=config.layers, data=data, block_seconds=block_seconds)
        cells += [make(select_backend(device, config.threads), batch_size=size) for size in sizes]
    deadline = time.perf_counter() + config.seconds * len(devices)
    # Ordered by batch size, so that the devices to compare are timed one right after another.
    turns = sorted(cells, key=lambda cell: cell.batch_size)
    for round_number in count(1):
        started = time.perf_counter()
        for cell in turns if round_number % 2 else turns[::-1]:
            cell.step.block()
            cell.products.block()
        now = time.perf_counter()
        if round_number >= MIN_ROUNDS and 2 * now - started > deadline:
            break
    records = [cell.record() for cell in cells]
    add_limits(records, config)
    return records


def add_limits(records: Sequence[dict[str, Any]], config: BenchConfig) -> None:
    """Give each record its ``limits``, measured on its device with the number of threads that its steps had."""
    found: dict[tuple[str, int | None], Limits] = {}
    for record in records:
        device, threads = key = (record["device"], record["threads"])
        if key not in found:
            found[key] = limits_of(select_backend(device, threads or config.threads), config.layers)
        record["limits"] = found[key].of_step(record["batch_size"], record["step_seconds"])


def _samples(layers: Sequence[int], largest: int) -> tuple[Any, Any, Any]:
    """Random pixels and labels and a sample order, from a fixed seed; few zeros, and larger than a cache."""
    rows = max(largest, min(ROWS, BYTES // layers[0]))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (rows, layers[0]), dtype=np.uint8)
    return images, random.integers(0, layers[-1], rows), epoch_order(rows, 0, 0)
