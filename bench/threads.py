"""How much of two cores two threads get: training steps against pinned processes of one thread each.

    python bench/threads.py
    python bench/threads.py --batches 128 --rounds 30

For each batch size and in turns, fresh processes train 784-128-10 from resident uint8 images: one with one thread, one
with a thread for each core, one with ``--threads auto``; and as many of one thread as there are cores, each pinned to
its own, at the same time: the *capacity* is the sum of their rates. A ratio is the median over rounds with its
bootstrap 95 % interval. The core-to-core latency is taken before and after each process that uses several cores, and
rounds are told apart by it: up to 90 ns the cores share a cache, from 110 ns on they do not. The last line of stdout is
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.duel import median_interval
from bench.timing import describe_machine, keeper
from twostroke import MLP, Dataset, TrainConfig, load_dataset, select_backend
from twostroke.backend import host_backend
from twostroke.backend.machine import available_cores
from twostroke.engine.training import TrainingRun

LAYERS: Final = (784, 128, 10)
SHARED_NS, APART_NS = 90.0, 110.0
BLOCKS, BLOCK_S, WARM_S = 5, 0.12, 0.4
LIMIT_S: Final = 120.0  # of a process
SHOWN: Final = ("two", "auto", "one")


def child(threads: str, batch: int, core: int, zeros: bool, start: float) -> None:
    """Print the median rate of some blocks, and the latency before and after them, as JSON."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    images, labels = load_dataset("mnist").train_images, load_dataset("mnist").train_labels
    if not zeros:
        images = np.random.default_rng(0).integers(1, 256, images.shape, dtype=np.uint8)
    data = Dataset.from_arrays(images, labels, images[:10], labels[:10], n_classes=10)
    backend = select_backend("cpu", threads if threads == "auto" else int(threads))
    config = TrainConfig(epochs=10**6, batch_size=batch, lr=0.01, evaluate_test=False)
    run, rates = TrainingRun(MLP(LAYERS, seed=0), data, config, backend), []
    before = host_backend().core_latency_ns()
    while time.time() < start + WARM_S:
        run.advance(20)
    for _ in range(BLOCKS):
        began, first = time.perf_counter(), run.steps
        while (spent := time.perf_counter() - began) < BLOCK_S:
            run.advance(max(1, 2048 // batch))
        rates.append((run.steps - first) * batch / spent)
    print(json.dumps({"rate": float(np.median(rates)), "latency": [before, host_backend().core_latency_ns()]}))


def started(threads: str, batch: int, zeros: bool, cores: Sequence[int] = (-1,)) -> dict[str, Any]:
    """The latencies, and the sum of the rates of processes on these cores (-1: any), which measure at the same time."""
    start = time.time() + 1.2  # when all have read their data
    words = [sys.executable, __file__, "--child", threads, str(batch), str(int(zeros)), str(start)]
    running = [subprocess.Popen([*words, str(core)], stdout=subprocess.PIPE, text=True) for core in cores]
    found = [json.loads(process.communicate(timeout=LIMIT_S)[0]) for process in running]
    return {"rate": sum(one["rate"] for one in found), "latency": found[0]["latency"]}


def kind_of(latencies: Sequence[float | None]) -> str:
    """ "shared" or "apart" if all latencies say so, else "mixed"."""
    known = [one for one in latencies if one]
    return "shared" if max(known) <= SHARED_NS else "apart" if min(known) >= APART_NS else "mixed"


def measure(batch: int, rounds: int, zeros: bool) -> list[dict[str, Any]]:
    """A row for each round: the rates, and the latencies of the processes with several threads."""
    cores = sorted(os.sched_getaffinity(0))
    ways = {"one": ("1", (-1,)), "two": (str(len(cores)), (-1,)), "auto": ("auto", (-1,)), "capacity": ("1", cores)}
    rows = []
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(ways)[::-1]
        found = {name: started(ways[name][0], batch, zeros, ways[name][1]) for name in names}
        latencies = [one for name in ("two", "auto") for one in found[name]["latency"]]
        rows.append({name: found[name]["rate"] for name in ways} | {"latency": latencies, "cores": kind_of(latencies)})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median rates, each way's part of the capacity, and the many threads against one."""
    table = {name: np.array([row[name] for row in rows]) for name in (*SHOWN, "capacity")}
    ratios = {name: median_interval(table[name] / table["capacity"]) for name in SHOWN}
    ratios["two / one"] = median_interval(table["two"] / table["one"])
    ratios["auto / one"] = median_interval(table["auto"] / table["one"])
    return {"rates": {name: float(np.median(rates)) for name, rates in table.items()}, "ratios": ratios}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and the JSON line."""
    arguments = parse(argv)
    document: dict[str, Any] = {
        "kind": "twostroke-threads",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **describe_machine(),
        "layers": list(LAYERS),
        "load_before": os.getloadavg(),
        "results": [],
    }
    keep = keeper(document, arguments, "threads")
    for zeros in (True, False):
        for batch in map(int, arguments.batches.split(",")):
            rows = measure(batch, arguments.rounds, zeros)
            result = {"batch_size": batch, "zeros": zeros, "rounds": rows}
            result |= {
                kind: summary(part)
                for kind in ("shared", "apart")
                if len(part := [r for r in rows if r["cores"] == kind]) > 1
            }
            document["results"].append(result)
            keep(document)
            for kind in ("shared", "apart"):
                if kind in result:
                    show(batch, zeros, kind, sum(row["cores"] == kind for row in rows), result[kind])
    document["load_after"] = os.getloadavg()
    keep(document)
    print(json.dumps(document | {"results": [{**one, "rounds": len(one["rounds"])} for one in document["results"]]}))
    return 0


def show(batch: int, zeros: bool, kind: str, count: int, found: dict[str, Any]) -> None:
    """One line of the table."""
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in found["rates"].items())
    ratios = ", ".join(
        f"{name} {ratio:.2f} [{low:.2f}, {high:.2f}]" for name, (ratio, (low, high)) in found["ratios"].items()
    )
    case = f"batch {batch:,}, {'MNIST' if zeros else 'no zeros'}, cache {kind}, {count} rounds"
    print(f"{case}: {rates}; of capacity: {ratios}", flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="16,128,1024", metavar="N,N,N", help="batch sizes (default 16,128,1024)")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="rounds of each (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document here as well")
    parser.add_argument("--no-save", action="store_true", help="do not write to bench/results/")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds: found {arguments.rounds}, expected 1 or more")
    if available_cores() < 2:
        parser.error("needs two cores")
    return arguments


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, size, with_zeros, at, place = sys.argv[2:]
        child(kind, int(size), int(place), bool(int(with_zeros)), float(at))
    else:
        raise SystemExit(main())
