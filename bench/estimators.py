"""``twostroke.sklearn`` against scikit-learn's own classes: the same ``fit``, its time and its score.

    python bench/estimators.py --threads 2

Both are given the same arguments, data and ``random_state``; everything that ``fit`` does is timed. Fits alternate,
ours and theirs as ABBA with a new seed each round, so that every ratio is of the same work within a few seconds. A
row's ratio is theirs / ours in seconds, with a bootstrap 95 % interval of the median; above 1 ours is faster. Beside it
runs an A/A control, ours against ours; where its interval misses 1.00, or is wide, the row is "noisy" and claims
nothing. A row where the two networks end at other scores is "disagrees". The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.duel import Row, summarise
from bench.processes import bind
from bench.timing import describe_machine, keeper

SETTLE_S: Final = 0.04
SCORE_TOLERANCE: Final = {"float64": 1e-6, "float32": 0.01}  # of the mean over all seeds; float32 adds up differently

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class FitRow(Row):
    """A duel of two estimators; seconds are those of a step of ``batch_size`` samples."""

    problem: str = ""
    dtype: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    samples: int = 0
    epochs: int = 0  # of the last fit
    jobs: int = 0  # of a grid search; 0: one fit
    seconds: list[float] = field(default_factory=list)  # medians of a whole fit: ours, theirs
    scores: list[list[float]] = field(default_factory=list)  # on the test part, [ours, theirs] for each seed


def table(name: str) -> Data:
    """A data set that ships with scikit-learn, a quarter of it for the test, every column scaled to unit variance."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    stratify = None if name == "diabetes" else y
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=stratify)
    scaler = StandardScaler().fit(X_train)
    return scaler.transform(X_train), scaler.transform(X_test), y_train, y_test


def made(name: str, rows: int, **settings: Any) -> Data:
    """A table that scikit-learn makes, of so many rows for training and a third of that for the test, scaled."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    X, y = getattr(datasets, f"make_{name}")(rows + rows // 3, random_state=0, **settings)
    X = StandardScaler().fit(X[:rows]).transform(X)
    return X[:rows], X[rows:], y[:rows], y[rows:]


def mnist(dtype: str) -> Data:
    """The MNIST that ships with twostroke, scaled to 0..1."""
    from twostroke import load_dataset

    data = load_dataset("mnist")
    train, test = ((images / np.float32(255)).astype(dtype) for images in (data.train_images, data.test_images))
    return train, test, data.train_labels.astype(np.int64), data.test_labels.astype(np.int64)


SEVEN_CLASSES: Final = {"n_features": 54, "n_informative": 20, "n_classes": 7}
# name: (the data, the settings of both estimators)
PROBLEMS: Final[dict[str, tuple[Callable[[], Data], dict[str, Any]]]] = {
    "digits": (lambda: table("digits"), {}),
    "digits, lbfgs": (lambda: table("digits"), {"solver": "lbfgs"}),
    "breast cancer": (lambda: table("breast_cancer"), {}),
    "wine": (lambda: table("wine"), {}),
    "diabetes": (lambda: table("diabetes"), {"max_iter": 500, "learning_rate_init": 0.01}),
    "moons": (lambda: made("moons", 10_000, noise=0.3), {"max_iter": 20}),
    "20 columns": (lambda: made("classification", 10_000, n_informative=10), {"max_iter": 20}),
    "7 classes": (lambda: made("classification", 20_000, **SEVEN_CLASSES), {"max_iter": 10}),
    "friedman": (lambda: made("friedman1", 10_000), {"max_iter": 20}),
    "MNIST": (lambda: mnist("float32"), {"max_iter": 5}),
    "MNIST, sgd": (lambda: mnist("float32"), {"max_iter": 5, "solver": "sgd", "learning_rate_init": 0.1}),
    "MNIST, float64": (lambda: mnist("float64"), {"max_iter": 3}),
}
REGRESSIONS: Final = ("diabetes", "friedman")
GRID: Final = {"alpha": [1e-5, 1e-4, 1e-3, 1e-2]}


def measure(row: FitRow, rounds: int) -> None:
    """Fill in the row."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier as TheirClassifier
    from sklearn.neural_network import MLPRegressor as TheirRegressor
    from threadpoolctl import threadpool_limits

    from twostroke.sklearn import MLPClassifier, MLPRegressor

    load, settings = PROBLEMS[row.problem]
    X_train, X_test, y_train, y_test = load()
    regression = row.problem in REGRESSIONS
    ours, theirs = (MLPRegressor, TheirRegressor) if regression else (MLPClassifier, TheirClassifier)
    row.settings, row.samples, row.dtype = settings, len(X_train), X_train.dtype.name
    row.layers = [X_train.shape[1], 100, 1 if regression or len(set(y_train)) == 2 else len(set(y_train))]
    row.batch_size = len(X_train) if settings.get("solver") == "lbfgs" else min(200, len(X_train))

    def fit(kind: Any, seed: int) -> tuple[float, float]:
        """Seconds of one fit, and its score on the test part."""
        own: dict[str, Any] = {"device": "cpu"} if row.jobs else {"device": "cpu", "threads": row.threads}
        model = kind(random_state=seed, **settings, **(own if kind is ours else {}))
        search = GridSearchCV(model, GRID, cv=3, n_jobs=row.jobs) if row.jobs else None
        limits = nullcontext() if search else threadpool_limits(row.threads)
        gc.collect()
        time.sleep(SETTLE_S)
        with warnings.catch_warnings(), limits:
            warnings.simplefilter("ignore")  # max_iter is reached: that is the work to be timed
            start = time.perf_counter()
            fitted = (search or model).fit(X_train, y_train)
            seconds = time.perf_counter() - start
            row.epochs = (search.best_estimator_ if search else model).n_iter_
            return seconds, float(fitted.score(X_test, y_test))

    fit(ours, 0), fit(theirs, 0)
    row.load_before, whole = list(os.getloadavg()), []
    for seed in range(rounds):
        (a, mine), (b, other), (c, _), (d, _) = (fit(kind, seed) for kind in (ours, theirs, theirs, ours))
        row.scores.append([mine, other])
        steps = row.epochs * -(-row.samples // row.batch_size)
        whole += [[a, b], [d, c]]
        row.pairs += [[a / steps, b / steps], [d / steps, c / steps]]
        a, b, c, d = (fit(ours, seed)[0] for _ in range(4))
        row.control_pairs += [[a / steps, b / steps], [d / steps, c / steps]]
    row.load_after = list(os.getloadavg())
    row.seconds = np.median(whole, axis=0).tolist()
    summarise(row)
    mine, other = np.mean(row.scores, axis=0)
    if abs(mine - other) > SCORE_TOLERANCE[row.dtype]:
        row.status, row.reason = "disagrees", f"mean scores {mine:.4f} and {other:.4f}"


HEADER: Final = (
    f"{'problem':16} {'dtype':8} {'ours':>7} {'theirs':>7} {'epochs':>6} {'ours s':>8} {'theirs s':>8} {'ratio':>6}"
    f" {'95 % interval':16} {'A/A':>6} {'95 % interval':16} status"
)


def line(row: FitRow) -> str:
    """The row for people: mean scores on the test part, median seconds of a fit, the ratio of these."""
    if row.interval is None or row.control_interval is None:
        return f"{row.problem:16} {row.status}: {row.reason}"
    mine, other = np.mean(row.scores, axis=0)
    interval, control = ("[{:.3f}, {:.3f}]".format(*pair) for pair in (row.interval, row.control_interval))
    return (
        f"{row.problem:16} {row.dtype:8} {mine:7.4f} {other:7.4f} {row.epochs:6} {row.seconds[0]:8.3f}"
        f" {row.seconds[1]:8.3f} {row.ratio:6.2f} {interval:16} {row.control:6.3f} {control:16} {row.status}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows, print a table and the JSON line; 1 if the two disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "; ".join(PROBLEMS)
    parser.add_argument("--problem", nargs="+", default=list(PROBLEMS), metavar="NAME", help=f"{names} (default: all)")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="BLAS threads of both, and cores (default 1)"
    )
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="grid searches with so many jobs, and cores")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="seeds, two timed pairs each (default 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document with all raw pairs here as well")
    parser.add_argument("--no-save", action="store_true", help="do not write to bench/results/")
    arguments = parser.parse_args(argv)
    for name in arguments.problem:
        if name not in PROBLEMS:
            parser.error(f"unknown problem {name!r}: one of {names}")
    import sklearn

    machine = describe_machine()
    cores = bind(arguments.jobs or arguments.threads)
    print(HEADER, flush=True)
    rows = []
    for name in arguments.problem:
        row = FitRow("sklearn fit", [], 0, arguments.threads, problem=name, peer_version=sklearn.__version__)
        row.jobs = arguments.jobs
        measure(row, arguments.rounds)
        print(line(row), flush=True)
        rows.append(row)
    document = {
        "kind": "twostroke-estimators",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **machine,
        "bound_to_cores": cores,
        "rounds": arguments.rounds,
        "rows": [asdict(row) for row in rows],
    }
    keeper(document, arguments, "estimators")(document)
    short = [asdict(row) | {"pairs": len(row.pairs), "control_pairs": len(row.control_pairs)} for row in rows]
    print(json.dumps(document | {"rows": short}))
    return int(any(row.status == "disagrees" for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
