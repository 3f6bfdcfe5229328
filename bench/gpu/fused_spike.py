"""What does a step of three kernels cost? ``python bench/gpu/fused_spike.py``, on a GPU.

``fused_step.cu`` has a whole training step of a network with one hidden layer in three kernels. Here it trains beside
the package, on MNIST, for each net, batch size and optimiser:

    right     ten steps against the package's, call by call: weights, losses, predictions; as a graph the same bits
    captured  microseconds of the package's step: a launch for each, and all in one launch
    fused     the same of the three kernels, for each way to share the work among blocks; each kernel alone

The rule of decision is in bench/README.md. The last line of stdout is one JSON document, also kept in $OUT or
bench/results/MACHINE.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
SOURCE: Final = ROOT / "bench" / "gpu" / "fused_step.cu"
KERNELS: Final = ("layer1", "output", "update")
NETS: Final = ((784, 30, 10), (784, 128, 10))
BATCHES: Final = (16, 128, 1024)
OPTIMIZERS: Final = ("sgd", "momentum")
CHECK_STEPS, LONG = 10, 50
TOLERANCE: Final = 5e-6  # relative L2 of weights and losses, as in `twostroke verify parity`
OTHERWISE: Final = 1e-3  # of the predictions may differ: two classes within rounding of each other
RATE: Final = 0.1
# Of the source: rows of a tile of the weights; threads of a block, units and samples of a tile, depth of a stage.
ROWS: Final = (32, 16, 8)
THREADS, UNITS, SAMPLES, DEPTH, WARP = 256, 32, 32, 32, 32
SHARES: Final = (1, 2, 4)  # blocks of the first kernel for each multiprocessor
MULTIPROCESSORS: Final = 132  # of an H100 or H200, where CUDA does not say


def ceiling(size: int, of: int) -> int:
    return -(-size // of)


def source(layers: Sequence[int], activation: str, optimizer: str, rows: int) -> str:
    """The kernels for one net."""
    names = ("INPUTS", "HIDDEN", "CLASSES", "ROWS", "SIGMOID", "MOMENTUM")
    values = (*layers, rows, {"relu": 0, "sigmoid": 1}[activation], {"sgd": 0, "momentum": 1}[optimizer])
    defined = "".join(f"#define {name} {value}\n" for name, value in zip(names, values, strict=True))
    return f'{defined}#line 1 "{SOURCE.name}"\n{SOURCE.read_text(encoding="utf-8")}'


@cache
def compiled(code: str) -> Any:
    import cupy

    return cupy.RawModule(code=code, options=("--std=c++17",))


class Samples(NamedTuple):
    """On the device, the same for all sides."""

    images: Any
    labels: Any
    order: Any


class Side:
    """A network, its optimiser and its notes, of the package."""

    def __init__(
        self, backend: Any, layers: Sequence[int], optimizer: str, noted: int, activation: str = "relu"
    ) -> None:
        from twostroke import MLP, TrainConfig
        from twostroke.engine.metrics import Running
        from twostroke.engine.training import make_optimizer

        self.backend, self.net = backend, MLP(layers, activation).to(backend)
        self.rule = make_optimizer(self.net, TrainConfig(optimizer=optimizer))
        self.running = Running(backend, noted, "float32")

    def step(self, samples: Samples, batch: int) -> Any:
        """The package's step on these samples."""
        from twostroke.engine.step import TrainingStep

        return TrainingStep(self.net, samples.images, samples.labels, self.rule, batch, self.running)

    def found(self) -> dict[str, Any]:
        """What steps leave behind, on the host."""
        arrays = {"weights": self.net.parameters, "losses": self.running.losses}
        arrays |= {"predictions": self.running.predictions}
        return {name: np.array(self.backend.to_host(array)) for name, array in arrays.items()}


class Fused:
    """The three kernels on a side's own arrays. The order of the samples and the rates of all steps are tables on the
    device; the last batch may be a smaller one."""

    def __init__(
        self, side: Side, samples: Samples, rates: Sequence[float], batch: int, module: Any, rows: int, blocks: int
    ) -> None:
        net, rule, xp = side.net, side.rule, side.backend.xp
        inputs, hidden, classes = net.layers
        stages, tiles = ceiling(inputs + 1, DEPTH), (ceiling(hidden, UNITS), ceiling(batch, SAMPLES))
        each = ceiling(stages, max(1, blocks // (tiles[0] * tiles[1])))
        self.parts = ceiling(stages, each)
        self.position = xp.zeros(2, "int32")
        count, total, zeros = np.int32(batch), np.int32(len(samples.order)), partial(xp.zeros, dtype="float32")
        parts = zeros((self.parts, batch, hidden))
        units, delta1, delta2 = zeros((batch, hidden)), zeros((batch, hidden)), zeros((batch, classes))
        drawn, rate, table = xp.zeros(batch, "int32"), zeros(1), side.backend.asarray(np.array(rates, "float32"))
        self._copyto, velocity = xp.copyto, rule.state.get("velocity", zeros(1))
        momentum, notes = np.float32(getattr(rule, "momentum", 0.0)), (side.running.losses, side.running.predictions)
        grids = (
            (*tiles, self.parts),
            (batch,),
            (ceiling(inputs + 1, rows) * tiles[0] + ceiling(hidden + 1, rows),),
        )
        blocks_of = (THREADS, ceiling(hidden, WARP) * WARP, THREADS)
        arguments: tuple[tuple[Any, ...], ...] = (
            (
                samples.images, samples.order, table, net.parameters, self.position, drawn, rate, parts, count, total,
                np.int32(each),
            ),
            (
                parts, np.int32(self.parts), net.parameters, samples.labels, drawn, self.position, count, total,
                units, delta1, delta2, *notes,
            ),
            (
                samples.images, drawn, units, delta1, delta2, rate, momentum, self.position, net.parameters, velocity,
                count, total,
            ),
        )  # fmt: skip
        self.kernels = {
            name: partial(module.get_function(name), grid, (threads,), given)
            for name, grid, threads, given in zip(KERNELS, grids, blocks_of, arguments, strict=True)
        }
        self.scratch = (parts, units, delta1, delta2)  # of a step: what is in it before does not matter

    def step(self) -> None:
        for kernel in self.kernels.values():
            kernel()

    def restart(self) -> None:
        """The next step is the first one."""
        self._copyto(self.position, 0)

    def run(self, steps: int) -> None:
        self.restart()
        for _ in range(steps):
            self.step()


# --- right? ---------------------------------------------------------------------------------------------------


def relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def compared(found: dict[str, Any], expected: dict[str, Any], start: Any) -> dict[str, Any]:
    """Two sides after the same steps from the weights ``start``."""
    errors = {name: relative(found[name], expected[name]) for name in ("weights", "losses")}
    errors["change"] = relative(found["weights"] - start, expected["weights"] - start)
    other = float(np.mean(found["predictions"] != expected["predictions"]))
    right = max(errors["weights"], errors["losses"]) <= TOLERANCE and other <= OTHERWISE
    return {"relative_l2": errors, "predictions_otherwise": other, "right": right}


def rates_of(steps: int) -> list[float]:
    """No two neighbours alike, so that a step with another's rate is seen."""
    return [RATE * (1.0 + step % 3) / 3.0 for step in range(steps)]


def stepped(side: Side, samples: Samples, batch: int, steps: int) -> dict[str, Any]:
    """The package's steps, call by call."""
    batches_of(side, samples, batch, steps).run(0, steps)
    return side.found()


def batches_of(side: Side, samples: Samples, batch: int, steps: int) -> Any:
    """So many batches as an epoch of the package, ready to run."""
    from twostroke.engine.epoch import Epoch

    bounds = [(i * batch, min(len(samples.order), (i + 1) * batch)) for i in range(steps)]
    epoch = Epoch(side.step(samples, batch), bounds)
    numbers = [side.rule.numbers(rate, 1 + i, side.rule.l2) for i, rate in enumerate(rates_of(steps))]
    epoch.begin(side.backend.to_host(samples.order)[: bounds[-1][1]], numbers)
    return epoch


# --- quick? ---------------------------------------------------------------------------------------------------


def microseconds(backend: Any, run: Callable[[], object]) -> float:
    """Of one of the LONG steps that ``run`` does: the median of blocks."""
    from bench.gpu.quick import microseconds as of_call

    run()
    return statistics.median(of_call(backend, run, 5, 10)) / LONG


def graph(backend: Any, work: Callable[[], None]) -> Callable[[], None]:
    launch: Callable[[], None] | None = backend._capture.graph(work)
    if launch is None:
        raise RuntimeError(backend.describe()["graphs"]["reason"])
    return launch


def captured(
    backends: dict[str, Any], samples: Samples, layers: Sequence[int], batch: int, rule: str
) -> dict[str, float]:
    """The package's step, without what an epoch uploads."""
    found = {}
    for name, mode in {"a launch a step": "auto", "all in one": "epoch"}.items():
        backend = backends[mode]
        side = Side(backend, layers, rule, LONG * batch)
        epoch = batches_of(side, samples, batch, LONG)
        for _ in range(2):  # call by call, then captured
            epoch.run(0, LONG)
        found[name] = microseconds(backend, partial(epoch.run, 0, LONG))
        if backend.describe()["graphs"]["reason"]:
            raise RuntimeError(backend.describe()["graphs"]["reason"])
    return found


def variant(
    backend: Any, samples: Samples, layers: Sequence[int], batch: int, rule: str, rows: int, blocks: int,
    expected: dict[str, Any],
) -> tuple[dict[str, Any], Fused]:  # fmt: skip
    """One way to share the work: is it right, how long does it take?"""
    module = compiled(source(layers, "relu", rule, rows))

    def made(order: Any, rates: Sequence[float]) -> tuple[Side, Fused]:
        side = Side(backend, layers, rule, len(order))
        return side, Fused(side, samples._replace(order=order), rates, batch, module, rows, blocks)

    ends: list[dict[str, Any]] = []
    for _ in range(2):
        side, fused = made(samples.order[: CHECK_STEPS * batch], rates_of(CHECK_STEPS))
        start, run = side.found()["weights"], partial(fused.run, CHECK_STEPS)
        (graph(backend, run) if ends else run)()  # launch by launch, which loads the kernels, then as one graph
        ends.append(side.found())
    row = {"rows": rows, "parts": fused.parts, **compared(ends[0], expected, start)}
    row["repeats"] = all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
    _, fused = made(samples.order, rates_of(LONG))
    fused.run(1)
    whole, one = graph(backend, partial(fused.run, LONG)), graph(backend, fused.step)

    def launches() -> None:
        fused.restart()
        for _ in range(LONG):
            one()

    row["us"] = {"a launch a step": microseconds(backend, launches), "all in one": microseconds(backend, whole)}
    return row, fused


def ways(layers: Sequence[int], batch: int, multiprocessors: int) -> Iterator[tuple[int, int]]:
    """(rows of a tile, blocks of the first kernel) to try, without those that end in the same parts."""
    stages, tiles = ceiling(layers[0] + 1, DEPTH), ceiling(layers[1], UNITS) * ceiling(batch, SAMPLES)
    shares = {ceiling(stages, max(1, share * multiprocessors // tiles)): share * multiprocessors for share in SHARES}
    yield from product(ROWS, shares.values())


def measure_case(
    backends: dict[str, Any], samples: Samples, layers: Sequence[int], batch: int, rule: str
) -> dict[str, Any]:
    """One net, batch size and optimiser. Raises what CuPy, CUDA and NVRTC raise."""
    import cupy

    samples = samples._replace(order=samples.order[: LONG * batch])
    checked = samples._replace(order=samples.order[: CHECK_STEPS * batch])
    expected = stepped(Side(backends["0"], layers, rule, CHECK_STEPS * batch), checked, batch, CHECK_STEPS)
    row: dict[str, Any] = {"captured_us": captured(backends, samples, layers, batch, rule)}
    backend = backends["auto"]
    multiprocessors = cupy.cuda.runtime.getDeviceProperties(0).get("multiProcessorCount", MULTIPROCESSORS)
    tried = [
        variant(backend, samples, layers, batch, rule, rows, blocks, expected)
        for rows, blocks in ways(layers, batch, multiprocessors)
    ]
    best, fused = min(tried, key=lambda entry: min(entry[0]["us"].values()))

    def alone(kernel: Callable[[], None]) -> None:
        fused.restart()  # the first step, again and again
        for _ in range(LONG):
            kernel()

    row["alone_us"] = {
        name: microseconds(backend, graph(backend, partial(alone, kernel))) for name, kernel in fused.kernels.items()
    }
    row |= {"fused": [entry for entry, _ in tried], "best": best}
    row["right"] = all(entry["right"] and entry["repeats"] for entry, _ in tried)
    row["ratio"] = min(row["captured_us"].values()) / min(best["us"].values())
    return row


def floor(backend: Any) -> float:
    """Microseconds of three kernels that do nothing."""
    import cupy

    empty = cupy.RawKernel('extern "C" __global__ void empty() {}', "empty")

    def nothing() -> None:
        for _ in range(len(KERNELS) * LONG):
            empty((1,), (1,), ())

    nothing()
    return microseconds(backend, graph(backend, nothing))


def measure(
    images: Any, labels: Any, nets: Sequence[Sequence[int]], batches: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """A row for each case, the first of what three empty kernels take."""
    from bench.gpu.right import make_backend

    backends = {mode: make_backend(mode) for mode in ("0", "auto", "epoch")}
    backend = backends["auto"]
    if backend.describe()["graphs"]["reason"]:
        raise RuntimeError(backend.describe()["graphs"]["reason"])
    with backend.active():
        yield {"floor_us": floor(backend)}
        order = np.random.default_rng(0).permutation(len(images))
        samples = Samples(backend.asarray(images), backend.asarray(labels), backend.asarray(order))
        for layers, batch, rule in product(nets, batches, OPTIMIZERS):
            row: dict[str, Any] = {"layers": list(layers), "batch_size": batch, "optimizer": rule}
            started = time.perf_counter()
            try:
                row |= measure_case(backends, samples, layers, batch, rule)
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            yield row | {"seconds": time.perf_counter() - started}


HEADER: Final = f"{'net':11} batch {'rule':9} rel. L2        captured us, fused us, times; rows, parts; kernels alone"


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    if "floor_us" in row:
        return f"three empty kernels: {row['floor_us']:.2f} us"
    case = f"{'-'.join(map(str, row['layers'])):11} {row['batch_size']:5} {row['optimizer']:9}"
    if "failed" in row:
        return f"{case} {row['failed']}"
    best, alone = row["best"], ", ".join(f"{name} {us:.2f}" for name, us in row["alone_us"].items())
    times = f"{min(row['captured_us'].values()):7.2f} {min(best['us'].values()):7.2f} {row['ratio']:5.2f}"
    verdict = "right" if row["right"] else "WRONG"
    return f"{case} {best['relative_l2']['weights']:.1e} {verdict} {times}; {best['rows']}, {best['parts']}; {alone}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="list the cases; needs no GPU")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where fused-spike.json goes")
    options = parser.parse_args(argv)
    from bench.gpu.session import folder_of
    from twostroke import load_dataset
    from twostroke.backend.cuda.probe import probe_cuda

    probe = probe_cuda()
    rows: list[dict[str, Any]] = []
    document = {"kind": "twostroke-fused-spike", "gpu": probe.reason, "tolerance": TOLERANCE, "rows": rows}
    print(HEADER, flush=True)
    if options.dry_run or not probe.usable:
        skip = f"skipped: {'--dry-run' if options.dry_run else probe.reason}"
        for layers, batch, rule in product(NETS, BATCHES, OPTIMIZERS):
            rows.append({"layers": list(layers), "batch_size": batch, "optimizer": rule, "failed": skip})
            print(line(rows[-1]))
        print(json.dumps(document))
        return 0 if options.dry_run else 3
    folder = options.out or folder_of(probe.reason.partition(" (")[0])
    folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset("mnist")
    for row in measure(data.train_images, data.train_labels.astype(np.uint8), NETS, BATCHES):
        print(line(row), flush=True)
        rows.append(row)  # kept after every case: what ends the run costs only those to come
        (folder / "fused-spike.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    cases = rows[1:]
    document["ok"] = all(row.get("right", False) for row in cases)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
