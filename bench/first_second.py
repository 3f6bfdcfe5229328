"""The first second: from the start of a fresh ``twostroke train`` to its end, the model saved; and where it goes.

    python bench/first_second.py
    python bench/first_second.py --base ../older        # paired with another checkout, interleaved ABBA

Each run is a process of its own, with a folder of its own; ``training`` is what its record counts as steps, ``rest``
all else: imports, MNIST read and checked, the tests after the epochs, the model and its record. ``stages`` are fresh
processes too, each of which does a little more than the one before. A ratio is other / this in seconds, with the
bootstrap 95 % interval of its median. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.duel import median_interval
from bench.processes import run
from bench.timing import describe_machine, keeper

HERE: Final = Path(__file__).resolve().parents[1]
LIMIT: Final = 120.0  # seconds of one process
TRAIN: Final = ("-m", "twostroke", "train", "--device", "cpu", "--quiet")
STAGES: Final[dict[str, Sequence[str]]] = {
    "python": ("-c", "pass"),
    "numpy": ("-c", "import numpy"),
    "twostroke": ("-c", "import twostroke"),
    "command": ("-c", "import twostroke.commands.train, twostroke.cli"),
    "ready": (*TRAIN, "--dry-run"),
}


@cache
def compiled() -> tempfile.TemporaryDirectory[str]:
    """Where processes keep compiled modules: an installed package is compiled, a checkout may not be."""
    return tempfile.TemporaryDirectory()


def process(words: Sequence[str], root: Path) -> float:
    """Wall-clock seconds of a fresh Python with the package in ``root``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(root / "src"), "PYTHONPYCACHEPREFIX": compiled().name}
    started = time.perf_counter()
    done = run([sys.executable, *words], LIMIT, environment=environment)
    seconds = time.perf_counter() - started
    if done.code:
        raise SystemExit(f"first_second: {root}: {done.why}")
    return seconds


def train_once(root: Path, words: Sequence[str]) -> dict[str, float]:
    """A run, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        total = process([*TRAIN, *words, "--out", folder], root)
        record = json.loads((Path(folder) / "record.json").read_text(encoding="utf-8"))
    training = float(record["train_seconds"])
    return {"total": total, "training": training, "rest": total - training, "accuracy": record["test_accuracy"]}


def stages(root: Path, rounds: int) -> dict[str, float]:
    """The median seconds of each stage, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, words in STAGES.items():
                out = ["--out", folder] if words[: len(TRAIN)] == TRAIN else []
                seconds[name].append(process([*words, *out], root))
    return {name: statistics.median(each) for name, each in seconds.items()}


def paired(roots: Sequence[Path], pairs: int, words: Sequence[str]) -> list[list[dict[str, float]]]:
    """Runs of all roots in turns, the order turned round each time; one of each before, untimed, fills the caches."""
    for root in roots:
        train_once(root, words)
    rows = []
    for index in range(pairs):
        order = list(enumerate(roots))[:: -1 if index % 2 else 1]
        found = {number: train_once(root, words) for number, root in order}
        rows.append([found[number] for number in range(len(roots))])
        print(" | ".join(f"{one['total']:.3f} s, rest {one['rest']:.3f} s" for one in rows[-1]), flush=True)
    return rows


def summary(rows: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    """Medians with quartiles for each side, and what the other takes in this one's seconds."""
    sides = []
    for side in zip(*rows, strict=True):
        quartiles = {key: np.quantile([one[key] for one in side], (0.25, 0.5, 0.75)).tolist() for key in side[0]}
        sides.append(quartiles)
    result: dict[str, Any] = {"this": sides[0]}
    if len(sides) > 1:
        result["other"] = sides[1]
        for key in ("total", "rest"):
            ratio, interval = median_interval(np.array([other[key] / this[key] for this, other in rows]))
            result[f"{key}_ratio"], result[f"{key}_interval"] = ratio, interval
    return result


def lines(result: dict[str, Any]) -> list[str]:
    """The outcome for people."""
    found = []
    for side in ("this", "other"):
        for key in ("total", "training", "rest") if side in result else ():
            low, median, high = result[side][key]
            found.append(f"{side:6} {key:9} {median:.3f} s ({low:.3f} to {high:.3f})")
    for key in ("total", "rest"):
        if f"{key}_ratio" in result:
            low, high = result[f"{key}_interval"]
            found.append(f"other / this, {key}: {result[f'{key}_ratio']:.2f} [{low:.2f}, {high:.2f}]")
    before = 0.0
    for name, seconds in result.get("stages", {}).items():
        found.append(f"stage  {name:9} {seconds:.3f} s (+{seconds - before:.3f})")
        before = seconds
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, metavar="N", help="runs of each side (default 15)")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="another checkout, to compare with")
    parser.add_argument("--words", default="", metavar="WORDS", help="more words for: twostroke train")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document here as well")
    parser.add_argument("--no-save", action="store_true", help="do not write to bench/results/")
    arguments = parser.parse_args(argv)
    if arguments.pairs < 1:
        parser.error(f"--pairs: found {arguments.pairs}, expected 1 or more")
    if arguments.base and not (arguments.base / "src/twostroke/__main__.py").exists():
        parser.error(f"--base: found {arguments.base}, expected a checkout with src/twostroke")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a summary and the JSON line, keep the document."""
    arguments = parse(argv)
    document: dict[str, Any] = {
        "kind": "twostroke-first-second",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **describe_machine(),
        "words": arguments.words.split(),
        "load_before": list(os.getloadavg()),
    }
    roots = [HERE, *([arguments.base.resolve()] if arguments.base else [])]
    rows = paired(roots, arguments.pairs, arguments.words.split())
    result = summary(rows) | {"stages": stages(HERE, min(5, arguments.pairs))}
    document |= {"load_after": list(os.getloadavg()), **result, "runs": rows}
    print("\n".join(lines(result)), flush=True)
    keeper(document, arguments, "first-second")(document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
