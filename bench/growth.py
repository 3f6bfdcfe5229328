"""How cost grows: seconds over samples, width and depth, and memory over samples, each beside the line of theory.

    python bench/growth.py                     # some minutes; writes docs/images/growth.png too

*Samples*: an epoch of 20-64-2, batch 1,024, on so many rows of 20 float32 features, in a process of its own; in theory
its operations at the rate of the machine's best large product. *Width*: a step of 784-W-W-10, batch 128. *Depth*: a
step of 784-256-...-256-10 with so many hidden layers, batch 128. In theory the larger of its operations at that rate
and the traffic of its weights (``measure/limits.py``). *Memory*: what the process of an epoch has at its peak beyond
what it had before its data was made; in theory the arrays of the data and of the run, as ``train --dry-run`` counts
them. ``exponent`` is the slope between the last two points in double logarithm, measured and in theory. The last line
of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.processes import run
from bench.timing import describe_machine, keeper
from twostroke import MLP, Dataset, TrainConfig, select_backend
from twostroke.backend import Backend
from twostroke.engine.training import TrainingRun
from twostroke.measure.limits import Limits, limits_of, step_flops
from twostroke.measure.throughput import Cell
from twostroke.runs.record import array_bytes

PICTURE: Final = Path(__file__).resolve().parents[1] / "docs" / "images" / "growth.png"
TABLE, TABLE_BATCH, FEATURES = (20, 64, 2), 1024, 20
BATCH, HIDDEN = 128, 256
SAMPLES: Final = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
WIDTHS: Final = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
DEPTHS: Final = (1, 2, 5, 10, 20, 50)
ROWS, BLOCK_S, BLOCKS, CHILD_S = 6_000, 0.05, 5, 240.0
INK, GREY, BLUE = "#1f2328", "#656d76", "#0b62c4"


def epoch_of(n: int, threads: int) -> dict[str, Any]:
    """In a process of its own: seconds of an epoch after one that captures, and bytes. No test part is looked at."""
    backend = select_backend("cpu", threads)
    small = _table(1000)
    _train(small, backend)  # what the first run loads and allocates is none of the data's
    gc.collect()
    before = _resident("VmRSS")
    data = _table(n)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew: that of training
    seconds, run_bytes = _train(data, backend)
    return {
        "rows": n,
        "seconds": seconds,
        "bytes": _resident("VmHWM") - before,
        "bytes_of_data": array_bytes(data),
        "bytes_of_run": run_bytes,
    }


def _table(n: int) -> Dataset:
    rng = np.random.default_rng(0)
    rows = rng.random((n, FEATURES), np.float32)
    labels = (rows[:, 0] > rows[:, 1]).astype(np.uint8)
    return Dataset.from_arrays(rows, labels, rows[:64], labels[:64], n_classes=2)


def _train(data: Dataset, backend: Backend) -> tuple[float, int]:
    """Wall-clock seconds of the second epoch, with its order, its upload and its record; bytes of the run."""
    config = TrainConfig(epochs=2, batch_size=min(TABLE_BATCH, len(data.train_labels)), lr=0.1, evaluate_test=False)
    training = TrainingRun(MLP(TABLE), data, config, backend)
    training.advance()
    started = time.perf_counter()
    training.advance()
    return time.perf_counter() - started, array_bytes([training, data])


def _resident(which: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at their peak (Linux; the parent's are in ``ru_maxrss`` too)."""
    line = re.search(rf"^{which}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert line
    return 1024 * int(line[1])


def over_samples(counts: Sequence[int], threads: int) -> list[dict[str, Any]]:
    """``epoch_of`` each count."""
    points = []
    for n in counts:
        done = run([sys.executable, __file__, "--epoch", str(n), "--threads", str(threads)], CHILD_S)
        if done.code:
            raise SystemExit(f"growth: {n:,} rows: {done.why}")
        points.append(json.loads(done.out.splitlines()[-1]))
        print(f"{n:>12,} rows: {points[-1]['seconds']:.4f} s, {points[-1]['bytes'] / 1e6:,.0f} MB", flush=True)
    return points


def step_of(layers: Sequence[int], threads: int) -> dict[str, Any]:
    """Seconds of a step, the median of a few blocks, and what the machine allows."""
    rng = np.random.default_rng(0)
    backend = select_backend("cpu", threads)
    samples = rng.integers(0, 256, (ROWS, layers[0]), np.uint8)
    data = (samples, rng.integers(0, layers[-1], ROWS).astype(np.uint8), rng.permutation(ROWS))
    cell = Cell(backend, layers, BATCH, data, BLOCK_S)
    for _ in range(BLOCKS):
        cell.step.block()
    seconds = cell.step.seconds
    limits = limits_of(backend, layers)
    found = limits.of_step(BATCH, statistics.median(seconds))
    return {"seconds": statistics.median(seconds), "blocks": seconds, "theory": theory(limits), **found}


def theory(limits: Limits) -> float:
    """The least seconds of a step."""
    return max(step_flops(limits.layers, BATCH) / limits.product_gflops / 1e9, limits.traffic_seconds)


def over(name: str, values: Sequence[int], threads: int) -> list[dict[str, Any]]:
    """``step_of`` each width or depth."""
    points = []
    for value in values:
        layers = (784, value, value, 10) if name == "width" else (784, *[HIDDEN] * value, 10)
        points.append({name: value, **step_of(layers, threads)})
        gc.collect()
        print(f"{name} {value:>6,}: {1e3 * points[-1]['seconds']:,.3f} ms, {points[-1]['text']}", flush=True)
    return points


def curves(counts: Sequence[int], widths: Sequence[int], depths: Sequence[int], threads: int) -> dict[str, Any]:
    """All four, as x, measured y, and theory's y."""
    rows = over_samples(counts, threads)
    steps = {"width": over("width", widths, threads), "depth": over("depth", depths, threads)}
    gflops = max(point["best_product_gflops"] for points in steps.values() for point in points)
    per_row = step_flops(TABLE, 1) / gflops / 1e9
    found: dict[str, Any] = {
        "samples": {
            "x": list(counts),
            "y": [row["seconds"] for row in rows],
            "theory": [per_row * row["rows"] for row in rows],
        },
        **{
            name: {
                "x": [point[name] for point in points],
                "y": [point["seconds"] for point in points],
                "theory": [point["theory"] for point in points],
            }
            for name, points in steps.items()
        },
        "memory": {
            "x": list(counts),
            "y": [row["bytes"] for row in rows],
            "theory": [row["bytes_of_run"] for row in rows],
        },
    }
    for curve in found.values():
        curve["exponent"], curve["theory_exponent"] = (slope(curve["x"], curve[key]) for key in ("y", "theory"))
    return {"best_product_gflops": gflops, "curves": found, "points": {"samples": rows, **steps}}


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Between the last two points in double logarithm; None without two, or where one is not above 0."""
    if len(x) < 2 or min(*x[-2:], *y[-2:]) <= 0:
        return None
    return math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])


def rows_of(found: dict[str, Any]) -> list[str]:
    """The rows of the page's table: the first point, one in the middle, the last; measured / theory."""
    lines = ["| over | from | middle | to | exponent, in theory |", "|---|---|---|---|---|"]
    for name, curve in found["curves"].items():
        cells = []
        for index in sorted({0, len(curve["x"]) // 2, len(curve["x"]) - 1}):
            y, line = curve["y"][index], curve["theory"][index]
            cells.append(f"{curve['x'][index]:,}: {_unit(name, y)}, {y / line:.2g} x theory")
        slopes = [curve[key] for key in ("exponent", "theory_exponent")]
        both = ", ".join("-" if one is None else f"{one:.2f}" for one in slopes)
        lines.append(f"| {name} | {' | '.join(cells)} | {both} |")
    return lines


def _unit(name: str, y: float) -> str:
    if name == "memory":
        return f"{y / 1e6:,.3g} MB" if y < 1e9 else f"{y / 1e9:,.3g} GB"
    return f"{1e3 * y:,.3g} ms" if y < 1 else f"{y:,.3g} s"


def draw(found: dict[str, Any], title: str) -> Any:
    """The four curves, measured as points, theory as a dashed line."""
    from matplotlib.figure import Figure

    labels = {
        "samples": ("rows of 20 features", "seconds of an epoch"),
        "width": ("width W of 784-W-W-10", "seconds of a step"),
        "depth": ("hidden layers of 256", "seconds of a step"),
        "memory": ("rows of 20 features", "bytes beyond the program"),
    }
    figure = Figure(figsize=(9, 7), facecolor="white", layout="constrained")
    figure.suptitle(title, color=INK, fontsize=11)
    for axes, (name, curve) in zip(figure.subplots(2, 2).flat, found["curves"].items(), strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot(curve["x"], curve["theory"], color=GREY, linestyle=(0, (4, 3)), label="theory")
        axes.plot(curve["x"], curve["y"], color=BLUE, marker="o", markersize=5, label="measured")
        axes.set_xlabel(labels[name][0], color=INK)
        axes.set_ylabel(labels[name][1], color=INK)
        axes.grid(color="#d8dee4", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    return figure


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, values in (("samples", SAMPLES), ("widths", WIDTHS), ("depths", DEPTHS)):
        parser.add_argument(f"--{name}", nargs="+", type=int, default=list(values), metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="FILE", help="default docs/images/growth.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document here as well")
    parser.add_argument(
        "--no-save", action="store_true", help="write neither to bench/results/ nor the default picture"
    )
    parser.add_argument("--epoch", type=int, metavar="N", help=argparse.SUPPRESS)  # we are a count's process
    arguments = parser.parse_args(argv)
    for name in ("samples", "widths", "depths"):
        if min(getattr(arguments, name)) < 1:
            parser.error(f"--{name}: found {min(getattr(arguments, name))}, expected 1 or more")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the rows and the JSON line, keep the document and the picture."""
    arguments = parse(argv)
    if arguments.epoch:
        print(json.dumps(epoch_of(arguments.epoch, arguments.threads)))
        return 0
    machine = describe_machine()
    document: dict[str, Any] = {
        "kind": "twostroke-growth",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **machine,
        "threads": arguments.threads,
        "load_before": list(os.getloadavg()),
    }
    document |= curves(arguments.samples, arguments.widths, arguments.depths, arguments.threads)
    document["load_after"] = list(os.getloadavg())
    print("\n".join(rows_of(document)), flush=True)
    keeper(document, arguments, "growth")(document)
    if not arguments.no_save or arguments.picture != PICTURE:
        title = f"{machine['processor']}, float32, {arguments.threads} thread{'s' * (arguments.threads > 1)}"
        draw(document, title).savefig(arguments.picture, dpi=90)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
