"""How much faster several ranks are than one, fairly: both in one job, blocks interleaved ABBA, paired ratios.

    python bench/scaling.py --ranks 2 --batch-size 64 256 1024

Each row is one ``mpirun`` of p ranks, one BLAS thread each, rank r bound to core r. Blocks of steps on all ranks
alternate with blocks of one process's steps on rank 0, as many at once as the device takes, the other ranks asleep. The
speed-up is the median of (seconds a step alone / seconds a step together), with a bootstrap 95 % interval. The A/A
control is rank 0 alone against a second instance of itself; where its interval misses 1.00, or reaches beyond 0.90 to
1.10, the row is "noisy" and claims nothing. So it is where a rank had less than 0.97 of its core while all worked: that
one's neighbours the control cannot see. Before any clock starts, the weights after ten steps must agree.

The model is T(p) = t0 + c B / p + AR(p), with t0 and c from the times of one rank at the smallest and largest batch,
and AR(p) = min(2 (p-1) a + 2 (p-1)/p n/b, ceil(log2 p) (a + n/b)) for n bytes, with a and b from sums that were timed
alone in the same job. So it predicts the speed-up from measurements that hold no distributed step.
The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.duel import CONTROL_REACH, median_interval, relative_error
from bench.timing import describe_machine, result_file, write_result
from twostroke import MLP, TrainConfig, select_backend
from twostroke.backend import Backend
from twostroke.engine.batches import batch_bounds
from twostroke.engine.epoch import Epoch
from twostroke.engine.evaluation import upload
from twostroke.engine.layers import parameter_count
from twostroke.engine.metrics import Running
from twostroke.engine.step import TrainingStep
from twostroke.engine.training import make_optimizer
from twostroke.ranks.communicator import Communicator
from twostroke.ranks.data_parallel import SharedStep, Stop
from twostroke.ranks.mpi import joined

CHECK_STEPS: Final = 10
LEAST_CORE: Final = 0.97  # CPU time / time of the rank that had least, median of the blocks
TOLERANCE: Final = 1e-4  # of what the steps changed, relative L2, float32
RATE: Final = 0.01
PROBES: Final = 200  # sums timed alone, in blocks
LOOK_AHEAD: Final = 16  # ranks up to which the model is drawn


@dataclass
class Row:
    """One network, batch and number of ranks. Times are seconds a step, ratios how many times faster p ranks are."""

    layers: list[int]
    batch_size: int
    ranks: int
    mpi: str = ""
    path: str = ""  # how gradients were summed
    status: str = "ok"  # or noisy, disagrees, failed: only "ok" may be claimed
    reason: str = ""
    speedup: float | None = None
    interval: list[float] | None = None
    control: float | None = None
    control_interval: list[float] | None = None
    alone_s: float | None = None
    together_s: float | None = None
    sum_s: float | None = None  # the gradient's, alone
    latency_s: float | None = None  # one number's
    predicted: float | None = None
    update_error: float | None = None
    core_shares: list[float] = field(default_factory=list)  # of each block of all ranks: the least of them
    steps: dict[str, int] = field(default_factory=dict)
    pairs: list[list[float]] = field(default_factory=list)
    control_pairs: list[list[float]] = field(default_factory=list)


class Contestant:
    """One way to make steps: all arrays of its own, the same weights and batches."""

    def __init__(self, row: Row, ranks: Communicator | None) -> None:
        rng = np.random.default_rng(0)
        n = max(4 * row.batch_size, 4096)
        images = rng.integers(0, 256, (n, row.layers[0])).astype(np.uint8)
        labels = rng.integers(0, row.layers[-1], n).astype(np.uint8)
        self.backend = select_backend("cpu", 1)
        self.net = MLP(row.layers, backend=self.backend)
        arrays = (*upload(self.backend, images, labels, self.net), make_optimizer(self.net, TrainConfig()))
        self.bounds = list(batch_bounds(n - n % row.batch_size, row.batch_size))
        arguments = (*arrays, row.batch_size, Running(self.backend, n, self.net.dtype))
        self.step: TrainingStep
        if ranks is None:
            self.step = TrainingStep(self.net, *arguments)
        else:
            self.step = SharedStep(ranks, Stop(), self.net, *arguments)
        rule = self.step.optimizer
        self.epoch = Epoch(self.step, self.bounds)
        self.epoch.begin(rng.permutation(n)[: self.bounds[-1][1]], [rule.numbers(RATE, 1, rule.l2)] * len(self.bounds))
        self.done = 0

    def run(self, steps: int) -> float:
        """Seconds a step of so many."""
        with self.backend.active():
            began = time.perf_counter()
            last = self.done + steps
            while self.done < last:
                batch = self.done % len(self.bounds)
                self.done += self.epoch.run(batch, min(len(self.bounds), batch + last - self.done)) - batch
            return (time.perf_counter() - began) / steps

    def weights(self) -> np.ndarray:
        return np.array(self.net.parameters)


def measure(row: Row, blocks: int, block_s: float, settle_s: float) -> Row:
    """Fill in the row; every rank calls this, rank 0's is the result."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    with joined(True) as ranks:
        row.mpi = str(ranks.describe()["mpi"])
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[ranks.rank % len(cores)]})

        def meet() -> None:
            """All are here. Those that wait sleep: a rank that spins takes power from one that works."""
            request = world.Ibarrier()
            while not request.Test():
                time.sleep(0.0005)

        def alone(contestant: Contestant, steps: int) -> float:
            time.sleep(settle_s)
            seconds = 0.0
            if ranks.rank == 0:
                contestant.run(math.ceil(0.15 * steps))
                seconds = contestant.run(steps)
            meet()
            return seconds

        def all_together(contestant: Contestant, steps: int) -> float:
            time.sleep(settle_s)
            contestant.run(math.ceil(0.15 * steps))
            began, used = time.perf_counter(), time.process_time()
            seconds = contestant.run(steps)
            share = (time.process_time() - used) / (time.perf_counter() - began)
            row.core_shares.append(min(ranks.allgather_obj(share)))
            return seconds

        one, control, together = Contestant(row, None), Contestant(row, None), Contestant(row, ranks)
        before = one.weights()
        one.run(CHECK_STEPS)
        together.run(CHECK_STEPS)
        row.update_error = relative_error([together.weights()], [one.weights()], [before])
        if ranks.bcast_obj(row.update_error) > TOLERANCE:
            row.status, row.reason = "disagrees", f"after {CHECK_STEPS} steps: {row.update_error:.1e} of the update"
            return row
        meet()
        row.steps = {"alone": 0 if ranks.rank else calibrate(one, block_s)}
        meet()
        guess = together.run(20)
        row.steps["together"] = ranks.bcast_obj(max(1, math.ceil(block_s / guess)))
        assert isinstance(together.step, SharedStep)
        row.path = together.step.path
        row.sum_s, row.latency_s = (probe(together.backend, ranks, n, settle_s) for n in (len(before) + 1, 1))
        single, shared = row.steps["alone"], row.steps["together"]
        for _ in range(max(1, blocks // 2)):
            a, b = alone(one, single), all_together(together, shared)
            c, d = all_together(together, shared), alone(one, single)
            row.pairs += [[a, b], [d, c]]
            a, b, c, d = (alone(contestant, single) for contestant in (one, control, control, one))
            row.control_pairs += [[a, b], [d, c]]
        if ranks.rank == 0:
            summarise(row)
    return row


def calibrate(contestant: Contestant, block_s: float) -> int:
    """How many steps fill a block: by the fastest of three tries."""
    contestant.run(3)
    return max(1, math.ceil(block_s / min(contestant.run(5) for _ in range(3))))


def probe(backend: Backend, ranks: Communicator, count: int, settle_s: float) -> float:
    """Seconds of a sum of ``count`` float32 over the ranks: the median of ten blocks."""
    add_up, seconds = backend.summing(count, "float32", ranks).run, []
    for _ in range(10):
        time.sleep(settle_s)
        ranks.barrier()
        began = time.perf_counter()
        for _ in range(PROBES // 10):
            add_up()
        seconds.append((time.perf_counter() - began) / (PROBES // 10))
    return float(np.median(seconds))


def summarise(row: Row) -> None:
    """Ratios and the verdict from the pairs."""
    pairs, control = np.array(row.pairs), np.array(row.control_pairs)
    row.alone_s, row.together_s = (float(x) for x in np.median(pairs, axis=0))
    row.speedup, row.interval = median_interval(pairs[:, 0] / pairs[:, 1])
    row.control, row.control_interval = median_interval(control[:, 0] / control[:, 1])
    low, high = row.control_interval
    if not low <= 1.0 <= high:
        row.status, row.reason = "noisy", "the A/A control's interval misses 1.00"
    elif float(np.median(row.core_shares)) < LEAST_CORE:
        row.status, row.reason = "noisy", f"a rank had {np.median(row.core_shares):.2f} of its core"
    elif low < 1.0 - CONTROL_REACH or high > 1.0 + CONTROL_REACH:
        row.status, row.reason = "noisy", f"the A/A control's interval reaches beyond 1.00 +- {CONTROL_REACH:.2f}"


# --- the model ---------------------------------------------------------------------------------------------------


def allreduce_seconds(p: int, n_bytes: float, latency: float, bandwidth: float) -> float:
    """The quicker of a ring and of recursive doubling."""
    if p == 1:
        return 0.0
    ring = 2 * (p - 1) * latency + 2 * (p - 1) / p * n_bytes / bandwidth
    return min(ring, math.ceil(math.log2(p)) * (latency + n_bytes / bandwidth))


def fit(rows: Sequence[Row]) -> Callable[[int, int], float]:
    """The predicted speed-up of (p, batch) for the rows of one network."""
    first, last = (choose(rows, key=lambda row: row.batch_size) for choose in (min, max))
    span = last.batch_size - first.batch_size
    per_row = ((last.alone_s or 0) - (first.alone_s or 0)) / span if span else (first.alone_s or 0) / first.batch_size
    fixed = max(0.0, (first.alone_s or 0) - per_row * first.batch_size)
    fewest = min(row.ranks for row in rows)
    n_bytes, rounds = 4.0 * parameter_count(rows[0].layers), math.ceil(math.log2(fewest))
    sums = [(row.latency_s or 0, row.sum_s or 0) for row in rows if row.ranks == fewest]  # the same sum in each row
    one_number, whole = (float(np.median(times)) for times in zip(*sums, strict=True))
    latency = one_number / rounds
    bandwidth = n_bytes / max(whole / rounds - latency, 1e-9)

    def predict(p: int, batch: int) -> float:
        one = fixed + per_row * batch
        return one / (fixed + per_row * batch / p + allreduce_seconds(p, n_bytes, latency, bandwidth))

    return predict


def draw(rows: Sequence[Row], file: Path) -> None:
    """Measured speed-ups with their intervals, and the model's curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    networks = sorted({tuple(row.layers) for row in rows}, key=parameter_count)
    figure, axes = plt.subplots(1, len(networks), figsize=(5.2 * len(networks), 4.2), squeeze=False)
    counts = list(range(1, LOOK_AHEAD + 1))
    for axis, layers in zip(axes[0], networks, strict=True):
        ours = [row for row in rows if tuple(row.layers) == layers]
        predict = fit(ours)
        axis.plot(counts, counts, color="0.8", linewidth=1, label="p ranks, p times as fast")
        for number, batch in enumerate(sorted({row.batch_size for row in ours})):
            colour = f"C{number}"
            axis.plot(
                counts, [predict(p, batch) for p in counts], color=colour, linewidth=1.2, label=f"batch {batch}: model"
            )
            shown = [row for row in ours if row.batch_size == batch and row.speedup and row.interval]
            for index, row in enumerate(shown):
                assert row.speedup is not None
                assert row.interval is not None
                reach = [[row.speedup - row.interval[0]], [row.interval[1] - row.speedup]]
                face = colour if row.status == "ok" else "white"
                label = f"batch {batch}: measured" if index == 0 else None
                axis.errorbar(row.ranks, row.speedup, reach, fmt="o", color=colour, mfc=face, capsize=3, label=label)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        ticks = [0.25, 0.5, 1, 2, 4, 8, 16]
        axis.set_xticks(ticks[2:], ticks[2:])
        axis.set_yticks(ticks, ticks)
        axis.set_ylim(0.25, LOOK_AHEAD)
        axis.set_xlabel("ranks of one thread")
        axis.set_ylabel("times as fast as one rank")
        axis.set_title("-".join(map(str, layers)), fontsize=10)
        axis.legend(fontsize=7, loc="upper left", frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


# --- the command line --------------------------------------------------------------------------------------------


def in_job(row: Row, arguments: argparse.Namespace) -> Row:
    """The row measured by an MPI job of its own."""
    mpirun = Path(sys.executable).with_name("mpirun")
    command = [
        str(mpirun) if mpirun.exists() else "mpirun", "-n", str(row.ranks), sys.executable, __file__, "--row",
        "--layers", ",".join(map(str, row.layers)), "--batch-size", str(row.batch_size), "--ranks", str(row.ranks),
        "--blocks", str(arguments.blocks), "--block-ms", str(arguments.block_ms),
        "--settle-ms", str(arguments.settle_ms),
    ]  # fmt: skip
    # The script binds its ranks itself.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PRTE_MCA_hwloc_default_binding_policy": "none"}
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    try:
        return Row(**json.loads(next(text for text in child.stdout.splitlines() if text.startswith("{"))))
    except (StopIteration, TypeError, ValueError):
        error = [text for text in child.stderr.splitlines() if text.strip("- ")]
        row.status, row.reason = "failed", f"exit code {child.returncode}: {error[0] if error else 'no output'}"
        return row


HEADER: Final = (
    f"{'net':20} {'batch':>5} ranks {'speed-up':>8} {'95 % interval':16} {'model':>6}"
    f" {'A/A':>6} {'95 % interval':16} status"
)


def line(row: Row) -> str:
    """The row for people."""
    shape = f"{'-'.join(map(str, row.layers)):20} {row.batch_size:5} {row.ranks:5}"
    if row.speedup is None or row.interval is None or row.control_interval is None:
        return f"{shape} {row.status}: {row.reason}"
    interval, control = (f"[{low:.3f}, {high:.3f}]" for low, high in (row.interval, row.control_interval))
    predicted = f"{row.predicted:6.2f}" if row.predicted else f"{'':6}"
    return f"{shape} {row.speedup:8.3f} {interval:16} {predicted} {row.control:6.3f} {control:16} {row.status}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=["784,128,10", "784,1024,1024,10"], metavar="N,N,N")
    parser.add_argument("--batch-size", nargs="+", type=int, default=[64, 256, 1024], metavar="N")
    parser.add_argument("--ranks", nargs="+", type=int, default=[2], metavar="P", help="2 or more, up to the cores")
    parser.add_argument("--blocks", type=int, default=20, metavar="N", help="timed blocks of each side (default 20)")
    parser.add_argument("--block-ms", type=float, default=60.0, metavar="MS", help="a block's length (default 60)")
    parser.add_argument("--settle-ms", type=float, default=20.0, metavar="MS", help="rest before a block (default 20)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where scaling-TIME.json and .png go")
    parser.add_argument("--no-save", action="store_true", help="write nothing")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)  # we are a rank of a row's job
    arguments = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    if min(arguments.ranks) < 2 or (max(arguments.ranks) > cores and not arguments.row):
        parser.error(f"--ranks: 2 to {cores}, the cores that this process may use")
    arguments.layers = [[int(width) for width in text.split(",")] for text in arguments.layers]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows, print a table and the JSON line; 1 if a row disagrees or fails."""
    arguments = parse(argv)
    rows = [Row(layers, n, p) for layers in arguments.layers for p in arguments.ranks for n in arguments.batch_size]
    if arguments.row:
        found = measure(rows[0], arguments.blocks, arguments.block_ms / 1e3, arguments.settle_ms / 1e3)
        if int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))) == 0:
            print(json.dumps(asdict(found)), flush=True)
        return 0
    machine, began = describe_machine(), time.time()
    load = list(os.getloadavg())
    for index, row in enumerate(rows):
        rows[index] = in_job(row, arguments)
        print(
            f"{rows[index].status}: {'-'.join(map(str, row.layers))} batch {row.batch_size}",
            file=sys.stderr,
            flush=True,
        )
    measured = [row for row in rows if row.speedup is not None]
    for layers in arguments.layers:
        ours = [row for row in measured if row.layers == layers]
        predict = fit(ours) if ours else None
        for row in ours:
            row.predicted = predict(row.ranks, row.batch_size) if predict else None
    print("\n".join([HEADER, *map(line, rows)]))
    document: dict[str, Any] = {
        "kind": "twostroke-scaling",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **machine,
        "seconds": round(time.time() - began, 1),
        "load_before": load,
        **{name: getattr(arguments, name) for name in ("blocks", "block_ms", "settle_ms")},
        "rows": [asdict(row) for row in rows],
    }
    if not arguments.no_save:
        file = result_file(document, "scaling", arguments.out)
        write_result(file, document)
        if measured:
            draw(measured, file.with_suffix(".png"))
        print(f"written: {file} and .png", file=sys.stderr)
    document["rows"] = [
        asdict(row) | {"pairs": len(row.pairs), "control_pairs": len(row.control_pairs)} for row in rows
    ]
    print(json.dumps(document))
    return int(any(row.status in ("disagrees", "failed") for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
