"""Throughput on a user's own machine: samples/s over batch sizes on every device, and where a GPU starts to pay.

A step is what training does: gather from resident pixels, forward, loss, backward, SGD update. Beside it, in the same
rounds, run the same matrix products and nothing else: the roofline. Blocks of steps take turns over devices and batch
sizes, so that a change of clocks or a busy neighbour meets all of them; a figure is the median of its blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from .backend import Array, Backend, select_backend
from .backend.probe import probe_cuda
from .batches import epoch_order
from .errors import ConfigError
from .mlp import MAX_WIDTH, MLP
from .optimizers import SGD
from .record import versions
from .settings import as_integer
from .training import TrainingStep, upload
from .workspace import Workspace

BASELINE: Final = "cpu"  # what every other device is compared with
LAYERS: Final = "784,128,10"
BATCH_SIZES: Final = "1,4,16,64,128,256,1024,4096"
MAX_BATCH, MAX_SECONDS = 1 << 20, 3600.0
ROWS, BYTES = 60_000, 1 << 26  # samples to walk over: as many as MNIST, or what fits here
LEARNING_RATE: Final = 1e-4  # labels are random: enough to move every weight, too little to diverge
LEAST_BLOCK_S, BLOCK_S = 5e-3, 20e-3  # the cost of synchronising at both ends must vanish in a block
WARM_PART: Final = 0.15  # of a block, untimed, before each block: another block has used the caches
MIN_ROUNDS, ROUNDS = 5, 20
HUBER: Final = 1.345


@dataclass(frozen=True)
class BenchConfig:
    """What to measure. ``parse`` makes it from text. Raises ``ConfigError`` for a value out of range."""

    layers: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    devices: str = "auto"  # or names joined by commas
    threads: int | str = "auto"
    seconds: float = 10.0  # for each device

    def __post_init__(self) -> None:
        if len(self.layers) < 2 or not all(1 <= width <= MAX_WIDTH for width in self.layers):
            expected = f"at least two widths of 1..{MAX_WIDTH}, such as {LAYERS}"
            raise ConfigError("bad layers", where="layers", found=_joined(self.layers), expected=expected)
        if not self.batch_sizes or not all(1 <= size <= MAX_BATCH for size in self.batch_sizes):
            expected = f"numbers of samples of 1..{MAX_BATCH}, such as 1,16,128"
            raise ConfigError("bad batch sizes", where="batch_sizes", found=_joined(self.batch_sizes), expected=expected)
        if not 0 < self.seconds <= MAX_SECONDS:
            expected = f"a number > 0 and <= {MAX_SECONDS:g}"
            raise ConfigError("bad seconds", where="seconds", found=self.seconds, expected=expected)

    @classmethod
    def parse(
        cls, layers: str | None, batch_sizes: str | None, devices: str | None, threads: str | None, seconds: float | None
    ) -> BenchConfig:
        """The configuration that a command line means; None takes the default."""
        return cls(
            layers=_integers("layers", layers or LAYERS),
            batch_sizes=tuple(sorted(set(_integers("batch_sizes", batch_sizes or BATCH_SIZES)))),
            devices=devices or "auto",
            threads=as_integer(threads or "auto"),
            seconds=10.0 if seconds is None else seconds,
        )


def _integers(argument: str, text: str) -> tuple[int, ...]:
    numbers = [as_integer(part) for part in text.split(",")]
    if not all(type(number) is int for number in numbers):
        what = f"bad {argument.replace('_', ' ')}"
        raise ConfigError(what, where=argument, found=repr(text), expected="whole numbers joined by commas")
    return tuple(numbers)


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


# --- which devices ---------------------------------------------------------------------------------------


def find_devices(devices: str = "auto") -> tuple[list[str], dict[str, str]]:
    """The names of the devices to measure, and for "auto" those that cannot be, each with the reason.

    Raises ``ConfigError`` for an unknown name, ``DeviceError`` for a device that was named and cannot be used.
    """
    if devices == "auto":
        return _all_devices()
    names = [name.strip() for name in devices.split(",")]
    if not all(names) or "auto" in names:
        expected = "auto, or cpu and cuda:N joined by commas"
        raise ConfigError("bad devices", where="devices", found=repr(devices), expected=expected)
    return list(dict.fromkeys(select_backend(name).device for name in names)), {}


def _all_devices() -> tuple[list[str], dict[str, str]]:
    found, missing = [BASELINE], {}
    before = ""
    for index in count():
        probe = probe_cuda(index)
        if probe.usable:
            found.append(f"cuda:{index}")
        elif index and probe.reason.startswith(f"there is no cuda:{index}"):
            break
        elif probe.reason == before:  # of the machine, not of one GPU
            missing[f"cuda:{index - 1} and all above"] = missing.pop(f"cuda:{index - 1}")
            break
        else:
            missing[f"cuda:{index}"] = f"{probe.reason}. {probe.remedy}".strip()
        before = "" if probe.usable else probe.reason
    return found, missing


# --- the clock -------------------------------------------------------------------------------------------


class Timed:
    """Work that is run in blocks of ``calls`` calls; ``seconds`` per call of every block."""

    def __init__(self, backend: Backend, work: Callable[[], None], block_seconds: float) -> None:
        self.backend, self.work = backend, work
        self.calls = 1
        self.seconds: list[float] = []
        self._least = block_seconds / 4
        self._run()  # compiles, records
        while (spent := self._run()) < block_seconds:
            self.calls = math.ceil(self.calls * min(16.0, max(1.2, 1.1 * block_seconds / spent)))

    def block(self) -> None:
        """Time a block; one that turns out too short does not count."""
        while (spent := self._run()) < self._least:
            self.calls *= 2
        self.seconds.append(spent / self.calls)

    def _run(self) -> float:
        with self.backend.active():
            for _ in range(math.ceil(WARM_PART * self.calls)):
                self.work()
            self.backend.synchronize()
            started = time.perf_counter()
            for _ in range(self.calls):
                self.work()
            self.backend.synchronize()
            return time.perf_counter() - started


class Cell:
    """One batch size on one device: the step, and its bare products. ``backend`` is its own, and so its threads are."""

    def __init__(
        self, backend: Backend, layers: Sequence[int], batch_size: int, data: Sequence[Array], block_seconds: float
    ) -> None:
        self.backend, self.layers, self.batch_size = backend, tuple(layers), batch_size
        images, labels, self._order = data
        with backend.active():
            self.net = MLP(layers, backend=backend)
            self._step = TrainingStep(self.net, images, labels, SGD(self.net), batch_size)
            work = backend.record(bare_products(backend, layers, batch_size))
        self._start = 0
        self.step = Timed(backend, self._next_step, block_seconds)
        self.products = Timed(backend, work, block_seconds)

    def _next_step(self) -> None:
        start, n = self._start, self.batch_size
        self._start = start + n if start + 2 * n <= len(self._order) else 0
        self._step.run(self._order, start, start + n, LEARNING_RATE)

    def record(self) -> dict[str, Any]:
        """The cell as a plain dictionary. ``roofline_fraction`` is the median of each round's products / step."""
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
            "roofline_suspect": fraction > 1.0,  # a fault or a noisy machine: claim nothing
            "threads": self.backend.threads,
            "step_seconds": median,
            "step_seconds_quartiles": [quarter, three_quarters],
            "blocks": len(self.step.seconds),
            "steps_per_block": self.step.calls,
            "dtype": self.net.dtype,
            "backend": self.backend.name,
            "reason": self.backend.reason,
            "machine": self.backend.describe(),
            "versions": versions(),
        }


def step_flops(layers: Sequence[int], batch_size: int) -> int:
    """Floating-point operations of the products of one step; the first layer needs no dX."""
    weights = sum(fan_in * fan_out for fan_in, fan_out in pairwise(layers))
    return 2 * batch_size * (3 * weights - layers[0] * layers[1])


def bare_products(backend: Backend, layers: Sequence[int], n: int) -> Callable[[], None]:
    """The matrix products of one step, in the step's order and layout, on arrays of their own. Not its other work."""
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
    """A record of every batch size on every device of ``devices``, in this order. Takes about ``config.seconds`` each."""
    sizes = config.batch_sizes
    if block_seconds is None:
        block_seconds = min(max(config.seconds / (2 * ROUNDS * len(sizes)), LEAST_BLOCK_S), BLOCK_S)
    cells: list[Cell] = []
    images, labels, order = _samples(config.layers, max(sizes))
    for device in devices:
        backend = select_backend(device, config.threads)
        with backend.active():
            net = MLP(config.layers, backend=backend)
            data = (*upload(backend, images, labels, net), backend.asarray(order))
        make = partial(Cell, layers=config.layers, data=data, block_seconds=block_seconds)
        cells += [make(select_backend(device, config.threads), batch_size=size) for size in sizes]
    deadline = time.perf_counter() + config.seconds * len(devices)
    # Batch size by batch size, so that devices which are compared are timed next to each other.
    turns = sorted(cells, key=lambda cell: cell.batch_size)
    for round_number in count(1):
        started = time.perf_counter()
        for cell in turns if round_number % 2 else turns[::-1]:
            cell.step.block()
            cell.products.block()
        now = time.perf_counter()
        if round_number >= MIN_ROUNDS and 2 * now - started > deadline:
            break
    return [cell.record() for cell in cells]


def _samples(layers: Sequence[int], largest: int) -> tuple[Any, Any, Any]:
    """Seeded random pixels, labels and their order: never zeros, and more than a cache holds."""
    rows = max(largest, min(ROWS, BYTES // layers[0]))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (rows, layers[0]), dtype=np.uint8)
    return images, random.integers(0, layers[-1], rows), epoch_order(rows, 0, 0)


# --- what the curves say ---------------------------------------------------------------------------------


class Fit(NamedTuple):
    """t(B) = t0 + B / R: seconds of a step of B samples. ``residual`` is the root mean square of t(B) / t - 1."""

    t0: float
    R: float  # infinite where the step does not grow with the batch
    residual: float
    points: int


def fit_line(batch_sizes: Sequence[int], seconds: Sequence[float]) -> Fit | None:
    """The best t0 >= 0 and 1 / R >= 0 in the relative sense, deviating points counted less (Huber). None for one point.

    Relative, so that a microsecond at batch 1 weighs as much as a millisecond at batch 4096.
    """
    B, t = np.asarray(batch_sizes, np.float64), np.asarray(seconds, np.float64)
    if len(B) < 2:
        return None
    X = np.stack([1 / t, B / t], axis=1)
    weights = np.ones(len(B))
    for _ in range(50):
        t0, slope = _nonnegative(X, weights)
        residuals = np.abs(X @ (t0, slope) - 1)
        scale = max(1.4826 * float(np.median(residuals)), 1e-12)
        weights = np.minimum(1, HUBER * scale / np.maximum(residuals, 1e-300))
    return Fit(t0, 1 / slope if slope else math.inf, float(np.sqrt(np.mean(residuals**2))), len(B))


def _nonnegative(X: Any, weights: Any) -> tuple[float, float]:
    """The weighted least-squares solution p >= 0 of X p = 1."""
    root = np.sqrt(weights)
    t0, slope = np.linalg.lstsq(X * root[:, None], root)[0].tolist()
    if t0 < 0 or slope < 0:
        kept = int(t0 < 0)
        x = X[:, kept]
        alone = float(weights @ x / (weights @ x**2))
        t0, slope = (0.0, alone) if kept else (alone, 0.0)
    return t0, slope


@dataclass(frozen=True)
class Crossover:
    """From which batch size ``device`` is faster than the CPU. None where there is no such point, which ``verdict``
    says in words."""

    device: str
    batch_size: float | None  # between two measured sizes: interpolated on logarithmic axes
    fit_batch_size: float | None  # where the two fits cross; 0: the device is ahead from the start
    verdict: str


def find_crossover(
    device: str, base: Mapping[int, float], other: Mapping[int, float], base_fit: Fit | None, fit: Fit | None
) -> Crossover:
    """Where ``device`` overtakes the CPU, from seconds per step by batch size (the same sizes), checked with the fits."""
    sizes = sorted(base)
    gains = [math.log(base[size] / other[size]) for size in sizes]
    wins = [gain > 0 for gain in gains]
    span = f"batch {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")
    crossings = sum(a != b for a, b in pairwise(wins))
    batch_size = None
    if all(wins):
        verdict = f"{device} wins everywhere measured ({span})"
    elif not any(wins):
        verdict = f"the CPU wins everywhere measured ({span})"
    elif not wins[-1]:
        ahead = _joined([size for size, win in zip(sizes, wins, strict=True) if win])
        verdict = f"no crossover: {device} wins at batch {ahead} but the CPU at the largest, {sizes[-1]}"
    else:
        last = max(index for index, win in enumerate(wins) if not win)
        part = gains[last] / (gains[last] - gains[last + 1])
        batch_size = sizes[last] * (sizes[last + 1] / sizes[last]) ** part
        verdict = f"{device} wins from batch {batch_size:.3g} on (between {sizes[last]} and {sizes[last + 1]})"
        if crossings > 1:
            verdict += f"; the curves cross {crossings} times: repeat with more --seconds"
    crossing = _fits_cross(base_fit, fit)
    return Crossover(device, batch_size, crossing, f"{verdict}; {_check(sizes, wins, batch_size, crossing, fit)}")


def _fits_cross(base: Fit | None, other: Fit | None) -> float | None:
    """B* = (t0' - t0) / (1/R - 1/R'); 0 if the other is ahead from the start, None if it never overtakes."""
    if base is None or other is None:
        return None
    lag, gain = other.t0 - base.t0, 1 / base.R - 1 / other.R
    if gain <= 0:
        return 0.0 if lag <= 0 and gain == 0 else None
    return max(0.0, lag / gain)


def _check(
    sizes: Sequence[int], wins: Sequence[bool], measured: float | None, crossing: float | None, fit: Fit | None
) -> str:
    """Whether the fits tell the same story as the measured points."""
    if fit is None:
        return "one batch size has no fit to check with"
    says = "it never does" if crossing is None else f"from {crossing:.3g}" if crossing > 1 else "from batch 1"
    if measured is not None:
        agree = crossing is not None and measured / 2 <= max(crossing, 1.0) <= 2 * measured
    elif all(wins):
        agree = crossing is not None and crossing <= sizes[0]
    else:
        agree = not any(wins) and (crossing is None or crossing >= sizes[-1])
    return f"the fits agree: {says}" if agree else f"the fits disagree: {says}"


def summarise(records: Sequence[Mapping[str, Any]], missing: Mapping[str, str]) -> dict[str, Any]:
    """The whole result: records, a fit for each device, crossovers against the CPU, what was not measured and why."""
    curves: dict[str, dict[int, float]] = {}
    for record in records:
        curves.setdefault(record["device"], {})[record["batch_size"]] = record["step_seconds"]
    fits = {device: fit_line(list(curve), list(curve.values())) for device, curve in curves.items()}
    base = curves.get(BASELINE)
    others = [device for device in curves if base is not None and device != BASELINE]
    crossovers = [find_crossover(d, curves[BASELINE], curves[d], fits[BASELINE], fits[d]) for d in others]
    if crossovers:
        verdict = "; ".join(crossover.verdict for crossover in crossovers)
    elif base is None:
        verdict = "the CPU was not measured: no crossover"
    else:
        verdict = "no GPU was measured: no crossover"
    return {
        "kind": "twostroke-bench",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "layers": list(records[0]["layers"]),
        "verdict": verdict,
        "crossovers": [asdict(crossover) for crossover in crossovers],
        "fits": {device: fit and fit._asdict() for device, fit in fits.items()},
        "not_measured": dict(missing),
        "records": list(records),
    }
