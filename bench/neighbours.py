"""``--threads auto`` among busy neighbours: the same load, auto against every fixed number of threads.

    python bench/neighbours.py --spinning 2

Other processes spin while steps of 784-128-10 at batch 128 run in blocks: auto, 1 thread, 2 threads, ..., auto again.
A fixed count's ratio is auto's samples per second over its own, the median over rounds with a bootstrap 95 % interval;
what is promised is auto against the best of them: at least 0.70. An A/A control runs beside it, and the same is done
without neighbours. With TWOSTROKE_LIBRARY=0 it shows BLAS's own threads. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.duel import median_interval
from bench.timing import describe_machine, result_file, write_result
from twostroke import MLP, select_backend
from twostroke.backend.machine import available_cores
from twostroke.engine.batches import batch_bounds
from twostroke.engine.epoch import Epoch
from twostroke.engine.optimizers import SGD
from twostroke.engine.step import TrainingStep

PROMISE = 0.70


class Runner:
    """A network of its own that trains on noise with ``threads``."""

    def __init__(self, layers: Sequence[int], batch_size: int, threads: int | str) -> None:
        self.batch_size = batch_size
        self.backend = select_backend("cpu", threads)
        rng, n = np.random.default_rng(0), 20 * batch_size
        images = rng.integers(0, 256, (n, layers[0]), dtype=np.uint8)
        labels = rng.integers(0, layers[-1], n).astype(np.uint8)
        with self.backend.active():
            net = MLP(layers, backend=self.backend)
            rule, bounds = SGD(net), list(batch_bounds(n, batch_size))
            self.epoch = Epoch(TrainingStep(net, images, labels, rule, batch_size), bounds)
            self.epoch.begin(rng.permutation(n), [rule.numbers(0.01, 1, 0.0)] * len(bounds))
        self.batch = 0

    def rate(self, seconds: float) -> float:
        """Samples per second over a block of about this length."""
        done, size = 0, self.batch_size
        with self.backend.active():
            started = time.perf_counter()
            while (spent := time.perf_counter() - started) < seconds:
                self.epoch.run(self.batch, self.batch + 1)
                self.batch = (self.batch + 1) % 20
                done += size
        return done / spent


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Other processes that spin."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure(layers: Sequence[int], batch_size: int, spinning: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Rates by round and the ratios of ``auto``."""
    counts = range(1, available_cores() + 1)
    runners = {"auto": Runner(layers, batch_size, "auto"), "control": Runner(layers, batch_size, "auto")}
    runners |= {str(count): Runner(layers, batch_size, count) for count in counts}
    names, rates = list(runners), []
    with neighbours(spinning):
        for runner in runners.values():
            runner.rate(4 * seconds)
        for index in range(rounds):
            order = names if index % 2 == 0 else names[::-1]
            found = {name: runners[name].rate(seconds) for name in order}
            rates.append([found[name] for name in names])
    table = np.array(rates)
    ratios = {name: median_interval(table[:, 0] / table[:, i]) for i, name in enumerate(names) if i}
    best = max((str(count) for count in counts), key=lambda name: float(np.median(table[:, names.index(name)])))
    return {
        "spinning": spinning,
        "names": names,
        "rates": table.tolist(),
        "medians": dict(zip(names, np.median(table, axis=0).tolist(), strict=True)),
        "ratios": ratios,
        "best": best,
        "kept": ratios[best][1][0] >= PROMISE,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure without and with neighbours, print a table and the JSON line; 1 if the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spinning", type=int, default=2, metavar="N", help="neighbours (default 2)")
    parser.add_argument("--layers", default="784,128,10", metavar="N,N,N")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N")
    parser.add_argument("--rounds", type=int, default=30, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="a block (default 0.3)")
    parser.add_argument("--no-save", action="store_true", help="do not write to bench/results/")
    arguments = parser.parse_args(argv)
    layers = [int(width) for width in arguments.layers.split(",")]
    results = []
    for spinning in (0, arguments.spinning):
        result = measure(layers, arguments.batch_size, spinning, arguments.rounds, arguments.seconds)
        results.append(result)
        print(f"{spinning} neighbours; the best fixed count is {result['best']}")
        for name, (ratio, (low, high)) in result["ratios"].items():
            rate = result["medians"][name]
            print(f"  auto / {name:8} {ratio:6.2f} [{low:.2f}, {high:.2f}]   ({rate:,.0f} samples/s)")
    document = {
        "kind": "twostroke-neighbours",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **describe_machine(),
        "library": os.environ.get("TWOSTROKE_LIBRARY", "1"),
        "layers": layers,
        "batch_size": arguments.batch_size,
        "results": results,
    }
    if not arguments.no_save:
        write_result(result_file(document, "neighbours"), document)
    print(json.dumps(document | {"results": [{**result, "rates": len(result["rates"])} for result in results]}))
    return int(not results[-1]["kept"])


if __name__ == "__main__":
    raise SystemExit(main())
