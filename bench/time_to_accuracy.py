"""MNIST to 98 %: how accurate a recipe is over many seeds, and how long it takes on three clocks.

    python bench/time_to_accuracy.py --seeds 20
    python bench/time_to_accuracy.py --sweep

Every seed takes the same number of steps; nothing is stopped early, no checkpoint is picked. The test set is looked at
once for each seed, after the clocks have stopped. The clocks: *resident*, the steps alone, the data on the device
already; *host*, from uint8 arrays in memory to trained parameters: weights drawn, data sent up, buffers made, all steps
done; *cold*, a whole ``python -m twostroke train`` from the start of the process to its end: imports, MNIST read from
its files, training, a test after each epoch, the model saved. On a GPU each seed captures its steps anew: how long that
takes, inside the first two clocks, is a line of its own. With ``--reuse`` all seeds run in the arrays and graphs of one
run that is put back to its beginning: the same steps on the same data, on the resident clock alone.

``--sweep`` is how a recipe is chosen: it trains on a part of the training set and scores on the 10,000 samples held
out of it, another split for each seed. It never sees the test set. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.timing import describe_machine, result_file, write_result
from twostroke import MLP, Dataset, TrainConfig, load_dataset, select_backend, train
from twostroke.backend import Backend
from twostroke.engine.evaluation import evaluate
from twostroke.engine.training import TrainingRun
from twostroke.runs.presets import PRESETS

VALIDATION: Final = 10_000
CLOCKS: Final = ("resident", "host", "capture")
HIDDEN: Final = (128, 160, 192, 256)
SETTINGS: Final = tuple(
    dict(zip(("batch_size", "lr", "momentum"), values, strict=True))
    for values in ((96, 0.3, 0.85), (128, 0.3, 0.9), (128, 0.4, 0.85), (192, 0.4, 0.9), (192, 0.5, 0.85))
)


def run_once(data: Dataset, backend: Backend, hidden: Sequence[int], config: TrainConfig) -> dict[str, Any]:
    """Train once. Seconds on the resident and the host clock, and the validation accuracy if a part is held out."""
    layers = [data.n_features, *hidden, data.n_classes]
    started = time.perf_counter()
    net = MLP(layers, seed=config.seed, **PRESETS["fast"].network)
    records = list(train(net, data, config, backend=backend))
    backend.synchronize()
    host = time.perf_counter() - started
    resident = sum(record.train_seconds for record in records)
    return {
        "net": net,
        "seed": config.seed,
        "steps": records[-1].steps,
        "resident_seconds": resident,
        "host_seconds": host,
        "validation_accuracy": records[-1].val_accuracy,
    }


class Again:
    """One run for all seeds: its arrays and graphs are made once."""

    def __init__(self, data: Dataset, backend: Backend, hidden: Sequence[int], config: TrainConfig) -> None:
        self._layers = [data.n_features, *hidden, data.n_classes]
        self.run = TrainingRun(self._net(config.seed), data, config, backend)

    def _net(self, seed: int) -> MLP:
        return MLP(self._layers, seed=seed, **PRESETS["fast"].network)

    def run_once(self, config: TrainConfig) -> dict[str, Any]:
        """As the function of that name, with other weights, order and rates in the same places."""
        run, backend = self.run, self.run.net.backend
        with backend.active():
            backend.xp.copyto(run.net.parameters, backend.asarray(self._net(config.seed).parameters))
            for array in run.optimizer.state.values():
                array.fill(0)
            backend.synchronize()
        run.restart(config)
        while not run.done:
            run.advance()
        return {
            "net": run.net,
            "seed": config.seed,
            "steps": run.steps,
            "resident_seconds": sum(record.train_seconds for record in run.history),
            "host_seconds": None,
            "validation_accuracy": run.history[-1].val_accuracy,
        }


def capture_seconds(backend: Backend) -> float:
    """What the backend's captures took so far."""
    graphs: Any = backend.describe().get("graphs", {})
    return float(graphs.get("capture_seconds", 0.0))


def time_to_accuracy(arguments: argparse.Namespace, data: Dataset, backend: Backend) -> dict[str, Any]:
    """Many seeds of one recipe."""
    hidden, config = recipe(arguments)
    again = Again(data, backend, hidden, config) if arguments.reuse else None
    once = again.run_once if again else partial(run_once, data, backend, hidden)
    # Compiles kernels, warms caches, and makes the graphs that are used again; not counted.
    once(config if again else config.replace(epochs=1))
    runs: list[dict[str, Any]] = []
    started = time.perf_counter()
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        if runs and time.perf_counter() - started > arguments.limit:
            break  # in the order of the seeds, whatever they reached
        before = capture_seconds(backend)
        run = once(config.replace(seed=seed))
        run["capture_seconds"] = capture_seconds(backend) - before
        test = evaluate(run.pop("net"), data.test_images, data.test_labels)
        run |= {"test_accuracy": test.accuracy, "test_loss": test.loss, "threads": backend.threads}
        runs.append(run)
        clocks = [f"{name} {run[f'{name}_seconds']:.3f} s" for name in CLOCKS if run[f"{name}_seconds"]]
        print(f"seed {seed:>3}: test accuracy {test.accuracy:.2%}, {', '.join(clocks)}", flush=True)
    cold = [cold_seconds(arguments, backend, hidden, config.replace(seed=seed)) for seed in range(arguments.cold)]
    return {
        "hidden": list(hidden),
        "config": asdict(config) | {"learning_rate": config.learning_rate},
        "steps": runs[0]["steps"],
        "accuracy": accuracy_summary([run["test_accuracy"] for run in runs], arguments.target),
        "reused": arguments.reuse,
        "clocks": {
            f"{name}_seconds": clock_summary([run[f"{name}_seconds"] for run in runs if run[f"{name}_seconds"]])
            for name in CLOCKS
        }
        | {"cold_seconds": clock_summary(cold)},
        "runs": runs,
    }


def recipe(arguments: argparse.Namespace) -> tuple[tuple[int, ...], TrainConfig]:
    """The fast preset with what was changed on the command line. The test set is not evaluated during training."""
    preset = PRESETS["fast"]
    changes = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "lr")}
    changes = {name: value for name, value in changes.items() if value is not None}
    return arguments.hidden or preset.hidden, preset.config.replace(**changes, evaluate_test=False)


def accuracy_summary(accuracies: Sequence[float], target: float) -> dict[str, Any]:
    """Mean, spread and worst of a sample, and the probability of such a mean if the true one were the target."""
    n = len(accuracies)
    p = None
    if n > 1 and len(set(accuracies)) > 1:
        from scipy.stats import ttest_1samp

        p = float(ttest_1samp(accuracies, target, alternative="greater").pvalue)
    return {
        "seeds": n,
        "mean": statistics.fmean(accuracies),
        "standard_deviation": statistics.stdev(accuracies) if n > 1 else None,
        "worst": min(accuracies),
        "best": max(accuracies),
        "target": target,
        "fraction_at_target": sum(accuracy >= target for accuracy in accuracies) / n,
        "p_one_sided": p,  # of Student's t-test against the target
    }


def clock_summary(seconds: Sequence[float]) -> dict[str, Any] | None:
    """Median and extremes; None if the clock was not read."""
    if not seconds:
        return None
    return {"runs": len(seconds), "median": statistics.median(seconds), "best": min(seconds), "worst": max(seconds)}


def cold_seconds(arguments: argparse.Namespace, backend: Backend, hidden: Sequence[int], config: TrainConfig) -> float:
    """Wall-clock seconds of a fresh process that trains the recipe and saves the model."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "twostroke", "train", "mnist", "--preset", "fast", "--quiet", "--out", folder,
            "--layers", ",".join(map(str, (784, *hidden, 10))), "--epochs", str(config.epochs), "--batch-size",
            str(config.batch_size), "--lr", str(config.learning_rate), "--seed", str(config.seed), "--device",
            backend.device, "--threads", str(arguments.threads),
        ]  # fmt: skip
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return time.perf_counter() - started


def sweep(arguments: argparse.Namespace, data: Dataset, backend: Backend) -> dict[str, Any]:
    """Recipes in turns, seed by seed, scored on what was held out of the training set."""
    _, base = recipe(arguments)
    rows: list[dict[str, Any]] = [
        {"hidden": [width], **settings, "accuracies": [], "resident_seconds": []}
        for width, settings in product(HIDDEN, SETTINGS)
    ]
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for row in rows:
            settings = {name: row[name] for name in SETTINGS[0]}
            config = base.replace(**settings, seed=seed, val_size=VALIDATION)
            run = run_once(data, backend, row["hidden"], config)
            row["accuracies"].append(run["validation_accuracy"])
            row["resident_seconds"].append(run["resident_seconds"])
    for row in rows:
        row["mean"], row["seconds"] = statistics.fmean(row["accuracies"]), statistics.median(row["resident_seconds"])
    rows.sort(key=lambda row: -row["mean"])
    for row in rows:
        name = f"784-{row['hidden'][0]}-10, batch {row['batch_size']}, peak {row['lr']}, momentum {row['momentum']}"
        print(f"{name:49} validation {row['mean']:.2%} (worst {min(row['accuracies']):.2%}), {row['seconds']:.3f} s")
    return {"epochs": base.epochs, "seeds": arguments.seeds, "validation_samples": VALIDATION, "recipes": rows}


def summary_lines(result: dict[str, Any]) -> list[str]:
    """The outcome for people."""
    accuracy = result["accuracy"]
    spread, p = accuracy["standard_deviation"], accuracy["p_one_sided"]
    lines = [
        f"test accuracy over {accuracy['seeds']} seeds, {result['steps']:,} steps each: mean {accuracy['mean']:.3%}"
        + (f", standard deviation {spread:.3%}" if spread is not None else "")
        + f", worst {accuracy['worst']:.2%}",
        f"{accuracy['fraction_at_target']:.0%} of the seeds reach {accuracy['target']:.1%};"
        f" one-sided p that the mean is not above it: {'not defined' if p is None else f'{p:.1e}'}",
    ]
    for name, clock in result["clocks"].items():
        if clock:
            figures = f"median {clock['median']:.3f} s, {clock['best']:.3f} to {clock['worst']:.3f}"
            lines.append(f"{name.removesuffix('_seconds'):>8} clock: {figures} ({clock['runs']} runs)")
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, metavar="N", help="default 20, with --sweep 4")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--hidden", metavar="N,N", help="hidden widths; default: the fast preset's, like the next three"
    )
    parser.add_argument("--batch-size", type=int, metavar="N")
    parser.add_argument("--epochs", type=int, metavar="N")
    parser.add_argument("--lr", type=float, metavar="NUMBER")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda:N")
    parser.add_argument("--threads", default="auto", metavar="auto|N")
    parser.add_argument("--target", type=float, default=0.98, metavar="FRACTION", help="default 0.98")
    parser.add_argument("--cold", type=int, default=5, metavar="N", help="fresh processes to time; default 5")
    parser.add_argument(
        "--limit", type=float, default=math.inf, metavar="S", help="begin no further seed after so many seconds"
    )
    parser.add_argument("--reuse", action="store_true", help="all seeds in the arrays and graphs of one run")
    parser.add_argument("--sweep", action="store_true", help="compare 20 recipes on a split of the training set")
    parser.add_argument("--no-save", action="store_true", help="do not write to bench/results/")
    arguments = parser.parse_args(argv)
    if arguments.seeds is None:
        arguments.seeds = 4 if arguments.sweep else 20
    for name, low in (("seeds", 1), ("first_seed", 0), ("cold", 0)):
        if getattr(arguments, name) < low:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(arguments, name)}, expected {low} or more")
    try:
        arguments.hidden = tuple(int(width) for width in arguments.hidden.split(",")) if arguments.hidden else None
        arguments.threads = arguments.threads if arguments.threads == "auto" else int(arguments.threads)
    except ValueError:
        parser.error("--hidden takes widths such as 192 or 512,512, --threads auto or a number")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a summary and the JSON line, keep the document."""
    arguments = parse(argv)
    machine = describe_machine()
    backend = select_backend(arguments.device, arguments.threads)
    data = load_dataset("mnist")
    load_before = list(os.getloadavg())
    print(f"device: {backend.device}: {backend.reason}", flush=True)
    if arguments.sweep:
        result = sweep(arguments, data, backend)
    else:
        result = time_to_accuracy(arguments, data, backend)
        print("\n".join(summary_lines(result)), flush=True)
    kind = "recipe-sweep" if arguments.sweep else "time-to-accuracy"
    document = {
        "kind": f"twostroke-{kind}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **machine,
        "device": backend.describe(),
        "reason": backend.reason,
        "threads_asked": arguments.threads,
        "load_before": load_before,
        "load_after": list(os.getloadavg()),
        **result,
    }
    if not arguments.no_save:
        write_result(result_file(document, kind), document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
