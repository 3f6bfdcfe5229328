"""Records: a run, an evaluation and a prediction as plain dictionaries, and these as strict JSON."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .backend import Backend
from .dataset import Dataset
from .idx import absolute
from .metrics import Result
from .mlp import MLP, parameter_count
from .training import EpochRecord, TrainConfig, TrainingRun
from .version import __version__


def to_json(value: Any) -> str:
    """One line of strict JSON; a number that is not finite becomes null."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"twostroke": __version__, "python": platform.python_version()}
    for dist in metadata.distributions():
        name = (dist.name or "").lower()
        if name in ("numpy", "scipy") or name.startswith("cupy"):
            found[name] = dist.version
    return found


def run_record(
    net: MLP,
    data: Dataset,
    config: TrainConfig,
    preset: str,
    history: Sequence[EpochRecord],
    test: Result,
    model: Path,
    source: str | None = None,
) -> dict[str, Any]:
    """A training run as the dictionary that ``--json`` prints and record.json keeps.

    ``source`` is the data as it was named to ``load_dataset``; the record keeps "mnist", or the absolute path.
    """
    seconds = sum(record.train_seconds for record in history)
    samples = sum(record.samples_per_second * record.train_seconds for record in history)
    settings = asdict(config) | {"learning_rate": config.learning_rate, "epochs": len(history)}
    return {
        **_outcome(net, data, test, model),
        "source": source if source in (None, "mnist") else absolute(source),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "train_seconds": seconds,
        "samples_per_second": samples / seconds,
        "preset": preset,
        **{name: getattr(net, name) for name in ("activation", "output", "loss", "init", "dtype")},
        **{name: value for name, value in settings.items() if name not in ("lr", "evaluate_test")},
        "machine": net.backend.describe(),
        "history": [asdict(record) for record in history],
    }


def plan_record(run: TrainingRun, data: Dataset, settings: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """What a run, made but not begun, would do: the dictionary of ``train --dry-run --json``."""
    steps = len(run.bounds)
    return {
        **{name: getattr(run.net.backend, name) for name in ("device", "reason", "threads")},
        "training_samples": run.bounds[-1][1],
        "parameters": parameter_count(run.net.layers),
        "steps_per_epoch": steps,
        "steps": steps * run.config.epochs,
        "done_steps": run.steps,
        "memory_bytes": array_bytes(run),
        "data_bytes": array_bytes(data),
        "files": [str(path) for path in files],
        "replaced": [str(path) for path in files if path.exists()],
        "settings": dict(settings),
        "versions": versions(),
    }


def array_bytes(owner: object) -> int:
    """The bytes of all arrays that an object of ours holds; what several views share counts once."""
    seen: set[int] = set()
    total, waiting = 0, [owner]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, Backend):
            continue
        seen.add(id(value))
        if hasattr(value, "nbytes"):
            base = getattr(value, "base", None)
            if hasattr(base, "nbytes"):
                waiting.append(base)
            else:
                total += value.nbytes
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif type(value).__module__.partition(".")[0] == __package__:
            waiting += getattr(value, "__dict__", {}).values()
    return total


def epoch_json(record: EpochRecord) -> str:
    """An epoch as a line of ``train --log-format json``."""
    return to_json({"event": "epoch", **asdict(record)})


def result_json(record: Mapping[str, Any]) -> str:
    """``run_record`` as the last line of ``train --log-format json``."""
    return to_json({"event": "result", **record})


def evaluation_record(net: MLP, data: Dataset, test: Result, classes: Sequence[Any], model: Path) -> dict[str, Any]:
    """An evaluation as the dictionary that ``--json`` prints; ``classes`` from ``class_counts``."""
    counts = {"errors": sum(row["errors"] for row in classes), "samples": len(data.test_labels)}
    return {**_outcome(net, data, test, model), **counts, "classes": classes}


def _outcome(net: MLP, data: Dataset, test: Result, model: Path) -> dict[str, Any]:
    return {
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "backend": net.backend.name,
        **{name: getattr(net.backend, name) for name in ("device", "reason", "threads")},
        "model": str(model),
        "data": data.name,
        "input": str(data.train_images.dtype),
        "layers": list(net.layers),
        "versions": versions(),
    }


def confusion(labels: Any, predictions: Any, n_classes: int) -> Any:
    """How many samples of each class (row) were taken for each class (column): (K, K) int64."""
    counts = np.bincount(labels.astype(np.int64) * n_classes + predictions, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def class_counts(labels: Any, predictions: Any, n_classes: int) -> list[dict[str, Any]]:
    """For each class: its samples, the errors among them, and what it is most often taken for."""
    rows = []
    for label, counts in enumerate(confusion(labels, predictions, n_classes)):
        wrong = counts.copy()
        wrong[label] = 0
        errors = int(wrong.sum())
        taken_for = int(wrong.argmax()) if errors else None
        rows.append({"class": label, "samples": int(counts.sum()), "errors": errors, "most_taken_for": taken_for})
    return rows


def prediction_record(source: str, outputs: Any, label: int | None) -> dict[str, Any]:
    """What the network makes of one sample; ``label`` where the truth is known."""
    return {"source": source, "prediction": int(outputs.argmax()), "label": label, "probabilities": outputs.tolist()}
