"""Ours against a peer, fairly: the same work, checked; blocks interleaved ABBA; the median of paired ratios.

    python bench/duel.py --peer torch-eager --layers 784,128,10 --batch-size 128 --threads 2

Both sides start from the form in which they keep their data: ours from uint8 pixels, the others from float32, and each
step gathers its rows from all samples, as training does. ``--form prepared`` gives both batches of float32 instead.

A row's ratio is ours / peer in samples per second, with a bootstrap 95 % interval of the median. Beside every peer
runs an A/A control, ours against a second instance of ours; where its interval misses 1.00, or is wider than 0.90 to
1.10, the row is "noisy" and claims nothing. Before any clock starts, the weights after ten steps must agree, and, where
a side takes many steps in one call, those after one whole round of the very instances that are timed; or the row is
"disagrees". Between blocks both sides rest, so that the idle threads of one side's pool stop spinning before
the other is timed, and each block starts with untimed steps. The last line of stdout is one JSON document.

Each row runs in a process of its own, with a time limit, that is bound to as many cores as there are threads before
any library is loaded; inside it BLAS pools are set by threadpoolctl, PyTorch's by set_num_threads, XLA's by NPROC. The
document is written after every row: what ends the run early costs only the rows to come.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers import (
    FORMS,
    ON_CUDA,
    PEERS,
    Peer,
    PeerUnavailableError,
    Problem,
    Side,
    load_peer,
    make_problem,
    step_flops,
)
from bench.processes import TIMED_OUT, bind, run
from bench.timing import describe_machine, keeper
from twostroke.measure.limits import Limits, limits_of

GRID_LAYERS: Final = ("784,30,10", "784,128,10", "784,512,512,10", "1024,2048,2048,1024")
GRID_BATCHES: Final = (1, 16, 128, 1024)
CHECK_STEPS: Final = 10
WEIGHTS_TOLERANCE: Final = 1e-4  # of the weights, relative L2
UPDATE_TOLERANCE: Final = 1e-3  # of what ten steps changed: a peer that learns nothing must not pass
# Of what a round of 64 changed. By then a hidden unit within rounding of zero may have fallen on the other side, some
# 1e-4 each time: right peers were up to 9.8e-4 apart on the CPU (784-30-10 to 1024-2048-2048-1024, batch 1 to 1024;
# weights 1.4e-5). Mistakes begin at 8e-3: one step of 64 left out, a batch taken twice, a rate 1 % too high.
ROUND_TOLERANCE: Final = 3e-3
CONTROL_REACH: Final = 0.10  # an A/A interval may be no wider: one of [0.1, 10] contains 1.00 too, and tells nothing
LEAST_ROW_SECONDS: Final = 5.0  # to import a peer and check it
LEAST_ROUNDS: Final = 3  # of ABBA with peer and control: six pairs each
WARM_PART: Final = 0.15  # of a block, untimed, before each block


@dataclass
class Row:
    """One duel. Rates are samples per second; ratios are ours / peer."""

    peer: str
    layers: list[int]
    batch_size: int
    threads: int
    device: str = "cpu"
    noise: bool = False  # inputs without zeros
    form: str = "resident"  # of the data, or prepared
    status: str = "ok"  # or noisy, disagrees, not installed, unavailable, failed, not run: only "ok" may be claimed
    reason: str = ""
    peer_version: str = ""
    peer_mode: str = ""
    ours: float | None = None
    peers: float | None = None
    ratio: float | None = None
    interval: list[float] | None = None
    control: float | None = None
    control_interval: list[float] | None = None
    gflops: float | None = None  # ours, matrix products only
    limit: dict[str, Any] = field(default_factory=dict)  # what the machine allows our step: measure/limits.py
    weights_error: float | None = None
    update_error: float | None = None
    round_steps: int | None = None  # of the timed instances, checked too where a side takes many steps in one call
    round_weights_error: float | None = None
    round_update_error: float | None = None
    steps: dict[str, int] = field(default_factory=dict)  # per block
    on: dict[str, object] = field(default_factory=dict)  # the device as our backend describes it
    load_before: list[float] | None = None
    load_after: list[float] | None = None
    pairs: list[list[float]] = field(default_factory=list)  # seconds per step: [ours, peer]
    control_pairs: list[list[float]] = field(default_factory=list)


class Fighter:
    """A side with the number of steps that fill a block."""

    def __init__(self, side: Side, block_seconds: float) -> None:
        self.side = side
        self.steps = self._calibrate(block_seconds)

    def _calibrate(self, block_seconds: float) -> int:
        unit = self.side.granularity
        steps, seconds = unit, self._seconds(unit)
        while seconds < block_seconds:
            factor = min(16.0, max(1.2, 1.1 * block_seconds / seconds))
            steps = math.ceil(steps * factor / unit) * unit
            seconds = self._seconds(steps)
        return steps

    def _seconds(self, steps: int, tries: int = 3) -> float:
        """The fastest of a few runs: one that a neighbour stopped must not make all blocks short."""
        seconds = []
        with self.side.active():
            for _ in range(tries):
                start = time.perf_counter()
                self.side.run(steps)
                seconds.append(time.perf_counter() - start)
        return min(seconds)

    def block(self, settle_seconds: float) -> float:
        """Seconds per step of one block, after a rest and a warm-up."""
        unit = self.side.granularity
        gc.collect()
        time.sleep(settle_seconds)
        with self.side.active():
            self.side.run(math.ceil(self.steps * WARM_PART / unit) * unit)
            start = time.perf_counter()
            self.side.run(self.steps)
            return (time.perf_counter() - start) / self.steps


def relative_error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> float:
    """||found - expected|| / ||expected - base|| over all arrays together."""
    pairs = list(zip(found, expected, base, strict=True))
    error = sum(float(np.sum((f.astype(np.float64) - e) ** 2)) for f, e, _ in pairs)
    scale = sum(float(np.sum((e.astype(np.float64) - b) ** 2)) for _, e, b in pairs)
    return math.sqrt(error / scale) if scale else math.inf


def check_agreement(row: Row, ours: Peer, peer: Peer, problem: Problem) -> bool:
    """Ten steps of both from the same weights on the same batches: whether the same weights come out."""
    sides = [contestant.make(problem) for contestant in (ours, peer)]
    row.weights_error, row.update_error = errors_after(CHECK_STEPS, sides, problem)
    return agrees(row, CHECK_STEPS, row.weights_error, row.update_error, UPDATE_TOLERANCE)


def check_round(row: Row, ours: Side, peer: Side, problem: Problem) -> bool:
    """The same of new instances after the least number of steps that is whole rounds of both: the path that is timed.

    Where both take step by step, ten steps have gone that path.
    """
    steps = math.lcm(ours.granularity, peer.granularity)
    if steps == 1:
        return True
    row.round_steps = steps
    row.round_weights_error, row.round_update_error = errors_after(steps, (ours, peer), problem)
    return agrees(row, steps, row.round_weights_error, row.round_update_error, ROUND_TOLERANCE)


def errors_after(steps: int, sides: Sequence[Side], problem: Problem) -> tuple[float, float]:
    """Of the second against the first: the error of the weights, and that of what the steps changed."""
    for side in sides:
        with side.active():
            side.run(steps)
    expected, found = (side.weights() for side in sides)
    weights = relative_error(found, expected, [np.zeros_like(array) for array in expected])
    return weights, relative_error(found, expected, problem.weights)


def agrees(row: Row, steps: int, weights: float, update: float, limit: float) -> bool:
    """Whether the errors are in their limits; if not, the row says so. One that is not a number is not."""
    if weights <= WEIGHTS_TOLERANCE and update <= limit:
        return True
    row.status, row.reason = "disagrees", f"after {steps} steps: weights {weights:.1e}, update {update:.1e}"
    return False


def median_interval(ratios: np.ndarray) -> tuple[float, list[float]]:
    """The median and its bootstrap 95 % interval."""
    from scipy.stats import bootstrap

    result = bootstrap((ratios,), np.median, n_resamples=4999, method="percentile", rng=np.random.default_rng(0))
    interval = result.confidence_interval
    return float(np.median(ratios)), [float(interval.low), float(interval.high)]


def duel(row: Row, blocks: int, block_seconds: float, settle_seconds: float, most_seconds: float = math.inf) -> None:
    """Fill in the row: so many blocks, or fewer, but ``LEAST_ROUNDS`` rounds, where they take more than that time."""
    if row.device != "cpu" and row.peer not in ON_CUDA:
        row.status, row.reason = "unavailable", "knows the CPU only"
        return
    try:
        ours, peer = load_peer("ours"), load_peer(row.peer)
    except ImportError as error:
        row.status, row.reason = "not installed", str(error)
        return
    row.peer_version = peer.version
    how = {"device": row.device, "noise": row.noise, "form": row.form}
    problem = make_problem(row.layers, row.batch_size, row.threads, **how)
    try:
        if not check_agreement(row, ours, peer, problem):
            return
        sides = {"ours": ours.make(problem), "peer": peer.make(problem), "control": ours.make(problem)}
        if not check_round(row, sides["ours"], sides["peer"], problem):
            return
        fighters = {name: Fighter(side, block_seconds) for name, side in sides.items()}
    except PeerUnavailableError as error:
        row.status, row.reason = "unavailable", str(error)
        return
    # Blocks of as many steps: a side whose steps are timed one by one after each rest would be timed half asleep.
    most = max(fighter.steps for fighter in fighters.values())
    for fighter in fighters.values():
        fighter.steps = math.ceil(most / fighter.side.granularity) * fighter.side.granularity
    row.peer_mode = fighters["peer"].side.mode
    row.on = getattr(fighters["ours"].side, "describe", dict)()
    row.steps = {name: fighter.steps for name, fighter in fighters.items()}
    before = measure_limits(row, fighters["ours"].side)
    row.load_before = list(os.getloadavg())
    gc.disable()
    began = time.perf_counter()
    try:
        for done in range(max(1, blocks // 2)):
            if done >= LEAST_ROUNDS and time.perf_counter() - began > most_seconds:
                break
            for other, pairs in (("peer", row.pairs), ("control", row.control_pairs)):
                a, b, c, d = (fighters[name].block(settle_seconds) for name in ("ours", other, other, "ours"))
                pairs += [[a, b], [d, c]]
    finally:
        gc.enable()
    row.load_after = list(os.getloadavg())
    summarise(row)
    after = measure_limits(row, fighters["ours"].side)
    if before and after and row.ours:  # the better of two: a limit is a ceiling, and a neighbour must not lower it
        row.limit = before.at_best(after).of_step(row.batch_size, row.batch_size / row.ours)
    if not all(np.isfinite(array).all() for fighter in fighters.values() for array in fighter.side.weights()):
        row.status, row.reason = "failed", "the weights did not stay finite"


def measure_limits(row: Row, ours: Any) -> Limits | None:
    """What the machine allows steps of this network; None where inputs have zeros, which our products skip."""
    if (row.layers[0], row.layers[-1]) == (784, 10) and not row.noise:
        return None
    return limits_of(ours.backend, row.layers)


def summarise(row: Row) -> None:
    """Rates, ratios and the verdict from the pairs."""
    pairs, control = np.array(row.pairs), np.array(row.control_pairs)
    ours, peers = np.median(pairs, axis=0)
    row.ours, row.peers = row.batch_size / float(ours), row.batch_size / float(peers)
    row.gflops = step_flops(row.layers, row.batch_size) / float(ours) / 1e9
    row.ratio, row.interval = median_interval(pairs[:, 1] / pairs[:, 0])
    row.control, row.control_interval = median_interval(control[:, 1] / control[:, 0])
    low, high = row.control_interval
    if not low <= 1.0 <= high:
        row.status, row.reason = "noisy", "the A/A control's interval misses 1.00"
    elif low < 1.0 - CONTROL_REACH or high > 1.0 + CONTROL_REACH:
        row.status, row.reason = "noisy", f"the A/A control's interval reaches beyond 1.00 +- {CONTROL_REACH:.2f}"


def duel_in_own_process(row: Row, arguments: argparse.Namespace, seconds: float) -> Row:
    """Every row has a process for itself and its peer: bound to its cores from birth, no other peer's threads in it."""
    if seconds < LEAST_ROW_SECONDS:
        row.status, row.reason = "not run", "no time left"
        return row
    command = [
        sys.executable, __file__, "--row", "--peer", row.peer, "--layers", ",".join(map(str, row.layers)),
        "--batch-size", str(row.batch_size), "--threads", str(row.threads), "--blocks", str(arguments.blocks),
        "--device", row.device,
        "--block-ms", str(arguments.block_ms), "--settle-ms", str(arguments.settle_ms), *["--noise"] * row.noise,
        "--form", row.form, "--row-seconds", str(arguments.row_seconds),
    ]  # fmt: skip
    done = run(command, seconds)
    try:
        return Row(**json.loads(done.out.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        row.status, row.reason = "failed", f"{done.why} after {seconds:.0f} s" if done.code == TIMED_OUT else done.why
        return row


def line(row: Row) -> str:
    """The row for people."""
    shape = f"{'-'.join(map(str, row.layers)):22} {row.batch_size:5} {row.threads:3} {row.peer:14}"
    if row.ratio is None or row.interval is None or row.control_interval is None:
        return f"{shape} {row.status}: {row.reason}"
    interval = "[{:.3f}, {:.3f}]".format(*row.interval)
    control = "[{:.3f}, {:.3f}]".format(*row.control_interval)
    return (
        f"{shape} {row.ours:11,.0f} {row.peers:11,.0f} {row.ratio:8.3f} {interval:18}"
        f" {row.control:6.3f} {control:16} {row.limit.get('text', '-'):12} {row.status}"
    )


HEADER: Final = (
    f"{'net':22} batch thr {'peer':14} {'ours/s':>11} {'peer/s':>11} {'ratio':>8} {'95 % interval':18}"
    f" {'A/A':>6} {'95 % interval':16} {'ours of limit':12} status"
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in PEERS if name != "ours"]
    names = f"{', '.join(known)}, or all"
    parser.add_argument("--peer", nargs="+", default=["torch-eager"], metavar="PEER", help=names)
    parser.add_argument("--layers", nargs="+", default=["784,128,10"], metavar="N,N,N")
    parser.add_argument("--batch-size", nargs="+", type=int, default=[128], metavar="N")
    parser.add_argument("--grid", action="store_true", help="4 nets, batches 1, 16, 128, 1024, with and without zeros")
    parser.add_argument("--form", choices=FORMS, help="of the data; default: resident on the CPU, prepared on a GPU")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of both sides (default cpu)")
    parser.add_argument(
        "--noise", action="store_true", help="normal numbers for inputs, which are never zero, not MNIST"
    )
    parser.add_argument("--blocks", type=int, default=40, metavar="N", help="timed blocks of each side (default 40)")
    parser.add_argument(
        "--block-ms", type=float, default=20.0, metavar="MS", help="a block's least length (default 20)"
    )
    parser.add_argument(
        "--row-seconds", type=float, default=math.inf, metavar="S", help="begin no further block after so long a row"
    )
    parser.add_argument("--settle-ms", type=float, default=40.0, metavar="MS", help="rest before a block (default 40)")
    parser.add_argument(
        "--row-limit", type=float, default=600.0, metavar="S", help="end a row that takes longer (default 600)"
    )
    parser.add_argument("--limit", type=float, default=math.inf, metavar="S", help="of all rows together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document with all raw pairs here as well")
    parser.add_argument("--no-save", action="store_true", help="do not write to bench/results/")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)  # we are a row's process
    arguments = parser.parse_args(argv)
    arguments.form = arguments.form or ("resident" if arguments.device == "cpu" else "prepared")
    if arguments.grid:
        arguments.layers, arguments.batch_size = list(GRID_LAYERS), list(GRID_BATCHES)
    if "all" in arguments.peer:
        arguments.peer = known
    for name in arguments.peer:
        if name not in PEERS:
            parser.error(f"unknown peer {name!r}: one of {names}")
    try:
        arguments.layers = [[int(width) for width in text.split(",")] for text in arguments.layers]
    except ValueError:
        parser.error("--layers: widths such as 784,128,10")
    return arguments


def rows_of(arguments: argparse.Namespace) -> list[Row]:
    """What was asked for. The grid has each cell of MNIST without zeros too; other networks have no zeros anyway."""
    rows = []
    for layers, n, peer in product(arguments.layers, arguments.batch_size, arguments.peer):
        both = arguments.grid and not arguments.noise and (layers[0], layers[-1]) == (784, 10)
        for noise in (False, True) if both else (arguments.noise,):
            rows.append(Row(peer, layers, n, arguments.threads, arguments.device, noise, arguments.form))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows, print a table and the JSON line; 1 if a peer disagrees or fails."""
    arguments = parse(argv)
    rows = rows_of(arguments)
    if arguments.row:
        blocks = (arguments.blocks, arguments.block_ms / 1e3, arguments.settle_ms / 1e3, arguments.row_seconds)
        duel(rows[0], *blocks)
        print(json.dumps(asdict(rows[0])))
        return 0
    machine = describe_machine()
    cores = bind(arguments.threads)
    began = time.perf_counter()
    document = {
        "kind": "twostroke-duel",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **machine,
        "bound_to_cores": cores,
        "blocks": arguments.blocks,
        "block_ms": arguments.block_ms,
        "settle_ms": arguments.settle_ms,
        "form": arguments.form,
        "rows_asked": len(rows),
    }
    keep = keeper(document, arguments, "duel")
    print(HEADER, flush=True)
    for index, row in enumerate(rows):
        left = arguments.limit - (time.perf_counter() - began)
        rows[index] = duel_in_own_process(row, arguments, min(arguments.row_limit, left))
        print(line(rows[index]), flush=True)
        keep(document | {"rows": [asdict(done) for done in rows[: index + 1]]})
    short = [asdict(row) | {"pairs": len(row.pairs), "control_pairs": len(row.control_pairs)} for row in rows]
    print(json.dumps(document | {"rows": short}))
    return int(any(row.status in ("disagrees", "failed") for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
