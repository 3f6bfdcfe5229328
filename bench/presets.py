"""The presets on validation parts of several kinds of data, and on the test part of one that had no say in them.

    python bench/presets.py                             # nine data sets, of this package and of scikit-learn
    python bench/presets.py --test fashion-mnist        # a data set's own test part, five seeds

Accuracy and loss are means over the seeds; the seconds are those of one run, with one thread. A sixth of each training
part is the validation part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import twostroke as ts
from twostroke.provenance import to_json, versions
from twostroke.runs.presets import PRESETS
from twostroke.runs.settings import resolve

SEEDS = 3
VALIDATION = 1 / 6
OUT = Path(__file__).parent / "results" / "presets"


def data_sets(fashion: str | None = None) -> Iterator[ts.Dataset]:
    """Pictures and tables; the test part of each is one sample, which nobody looks at."""
    from sklearn import datasets as made

    if fashion:
        yield ts.load_dataset(fashion)
    mnist = ts.load_dataset()
    yield _of("mnist, 20,000 samples", mnist.train_images[:20_000], mnist.train_labels[:20_000])
    for name in ("digits", "breast_cancer", "wine", "iris"):
        found = getattr(made, f"load_{name}")()
        yield _of(name, found.data, found.target, columns=True)
    diabetes = made.load_diabetes()
    yield _of("diabetes, above 140", diabetes.data, diabetes.target > 140, columns=True)
    yield _of("two moons", *made.make_moons(2000, noise=0.25, random_state=0), columns=True)
    X, y = made.make_classification(
        10_000, 20, n_informative=10, n_redundant=5, n_classes=5, flip_y=0.05, random_state=0
    )
    yield _of("20 columns, 10,000 rows", X, y, columns=True)


def _of(name: str, X: Any, y: Any, *, columns: bool = False) -> ts.Dataset:
    order = np.random.default_rng(0).permutation(len(X))
    X, y = np.asarray(X)[order], np.asarray(y)[order].astype(np.int64)
    names = [str(k) for k in range(X.shape[1])] if columns else ()
    return ts.Dataset.from_arrays(X, y, X[:1], y[:1], name=name, n_classes=int(y.max()) + 1, columns=names)


def measure(preset: str, data: ts.Dataset, seeds: int, *, test: bool) -> Mapping[str, Any]:
    """Mean accuracy and loss of a preset, as the command line uses it, and each seed's accuracy."""
    records = []
    for seed in range(seeds):
        flags = {"preset": preset, "seed": seed, "val_size": None if test else VALIDATION}
        settings = resolve(flags).suited_to(data)
        net = settings.make_network(data)
        config = settings.config.replace(evaluate_test=test)
        records.append(ts.fit(net, data, config, backend=ts.select_backend("cpu", 1)))
    part = "test" if test else "val"
    accuracy = [getattr(history[-1], f"{part}_accuracy") for history in records]
    loss = [getattr(history[-1], f"{part}_loss") for history in records]
    seconds = [sum(epoch.train_seconds for epoch in history) for history in records]
    return {
        "data": data.name, "preset": preset, "part": part, "accuracy": float(np.mean(accuracy)),
        "loss": float(np.mean(loss)), "seconds": float(np.median(seconds)), "accuracies": accuracy,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--test", metavar="PATH", help="the test part of this data set instead, with five seeds")
    parser.add_argument("--with", dest="also", metavar="PATH", help="validate on the training part of this set too")
    parser.add_argument("--seeds", type=int, metavar="N")
    parser.add_argument("--no-save", action="store_true")
    given = parser.parse_args()
    sets = [ts.load_dataset(given.test)] if given.test else data_sets(given.also)
    rows = []
    print(f"{'data':<26} {'preset':<8} accuracy     loss  seconds")
    for data in sets:
        for preset in ("fast", "general"):
            row = measure(preset, data, given.seeds or (5 if given.test else SEEDS), test=bool(given.test))
            rows.append(row)
            print(f"{row['data']:<26} {preset:<8} {row['accuracy']:8.2%} {row['loss']:8.3f} {row['seconds']:8.2f}")
    if not given.no_save:
        OUT.mkdir(parents=True, exist_ok=True)
        settings = {name: repr(PRESETS[name]) for name in ("fast", "general")}
        found = {"machine": ts.select_backend("cpu", 1).describe(), "versions": versions(), "presets": settings}
        path = OUT / f"{'test' if given.test else 'validation'}.json"
        path.write_text(json.dumps(json.loads(to_json({**found, "rows": rows})), indent=1) + "\n")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
