"""A run, an evaluation, a prediction as dictionaries for JSON. commands/training_job.py writes a run's record.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..data.dataset import Dataset
from ..engine.config import TrainConfig
from ..engine.layers import parameter_count
from ..engine.mlp import MLP
from ..engine.targets import Result
from ..engine.training import EpochRecord, TrainingRun
from ..errors import DataError, ModelError
from ..files.regular_file import absolute, open_regular
from ..provenance import to_json, versions
from .settings import RECORDED, SETTINGS, as_word, settings_of

MAX_RECORD_BYTES: Final = 1 << 28  # some 700,000 epochs


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
    ``epochs`` are those that were done.
    """
    seconds = sum(record.train_seconds for record in history)
    samples = sum(record.samples_per_second * record.train_seconds for record in history)
    settings = settings_of(net, config, preset)
    return {
        **_outcome(net, data, test, model),
        "source": source if source in (None, "mnist") else absolute(source),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "train_seconds": seconds,
        "samples_per_second": samples / seconds,
        **{one.record_key: settings[one.name] for one in RECORDED},
        "epochs": len(history),
        "machine": net.backend.describe(),
        "history": [record.values for record in history],
    }


def plan_record(run: TrainingRun, data: Dataset, settings: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """What a run would do, before its first step: the dictionary of ``train --dry-run --json``."""
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
    """The bytes of all arrays that an object of this package holds; memory that views share counts once.

    It follows the objects' own attributes: a list of arrays, kept by each class, would miss what is added later.
    """
    seen: set[int] = set()
    total, waiting = 0, [owner]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
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
        elif type(value).__module__.startswith("twostroke."):
            # A backend's own constants are not the run's.
            waiting += [x for name, x in getattr(value, "__dict__", {}).items() if name.strip("_") != "backend"]
    return total


def epoch_json(record: EpochRecord) -> str:
    """An epoch as a line of ``train --log-format json``."""
    return to_json({"event": "epoch", **record.values})


def result_json(record: Mapping[str, Any]) -> str:
    """``run_record`` as the last line of ``train --log-format json``."""
    return to_json({"event": "result", **record})


def evaluation_record(net: MLP, data: Dataset, test: Result, classes: Sequence[Any], model: Path) -> dict[str, Any]:
    """An evaluation as the dictionary that ``--json`` prints; ``classes`` from ``class_counts``, or of a regression the
    errors of each target."""
    if net.regression:
        return {**_outcome(net, data, test, model), "samples": len(data.test_labels), "targets": classes}
    counts = {"errors": sum(row["errors"] for row in classes), "samples": len(data.test_labels)}
    return {**_outcome(net, data, test, model), **counts, "classes": classes}


def _outcome(net: MLP, data: Dataset, test: Result, model: Path) -> dict[str, Any]:
    names = ("loss", "rmse", "mae", "r2") if net.regression else ("accuracy", "loss")
    return {
        **{f"test_{name}": getattr(test, name) for name in names},
        "backend": net.backend.name,
        **{name: getattr(net.backend, name) for name in ("device", "reason", "threads")},
        "model": str(model),
        "data": data.name,
        "input": str(data.train_images.dtype),
        "layers": list(net.layers),
        **({"class_names": list(net.classes)} if net.classes else {}),
        **({"columns": list(data.columns)} if data.columns else {}),
        **({"read_as": data.how, "shape": list(data.image_shape)} if data.how else {}),
        "versions": versions(),
    }


def values_record(source: str, values: Any, targets: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers (K,) that a regression predicts for one sample; ``targets`` (K,) where they are known."""
    found = {"source": source, "prediction": values.tolist(), "target": None if targets is None else targets.tolist()}
    return found | ({"targets": list(names)} if names else {})


def prediction_record(source: str, outputs: Any, label: int | None, classes: Sequence[str] = ()) -> dict[str, Any]:
    """The prediction for one sample; ``label`` where it is known, and the names of the ``classes`` if they have any."""
    found = {"source": source, "prediction": int(outputs.argmax()), "label": label, "probabilities": outputs.tolist()}
    return found | ({"classes": list(classes)} if classes else {})


def record_bytes(record: Mapping[str, Any], path: Path, model: Path) -> bytes:
    """A run's record.json. Raises ``ModelError`` for more than ``read_record`` would take."""
    data = f"{to_json(record)}\n".encode()
    if len(data) > MAX_RECORD_BYTES:
        what, remedy = "the record could not be read again", f"It was not written. The model is saved in {model}."
        expected = f"<= {MAX_RECORD_BYTES}"
        raise ModelError(what, where=path, found=f"{len(data)} bytes", expected=expected, remedy=remedy)
    return data


def read_record(path: Path) -> dict[str, Any]:
    """A run's record.json: a JSON object, whose content is not checked. Raises ``ModelError``."""
    try:
        with open_regular(path) as file:
            text = file.read(MAX_RECORD_BYTES + 1)
        found = json.loads(text) if len(text) <= MAX_RECORD_BYTES else f"more than {MAX_RECORD_BYTES} bytes"
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        if isinstance(error, DataError):
            remedy = "Name the folder that a run of twostroke train wrote to."
            raise ModelError("no record of a run", where=path, found=error.found, remedy=remedy) from error
        found = f"{type(error).__name__}: {error}"
    if not isinstance(found, dict):
        raise ModelError("not the record of a run", where=path, found=str(found)[:200], expected="a JSON object")
    return found


def repeat_words(record: Mapping[str, Any]) -> list[str]:
    """The command that repeats a run, with every setting. Empty if the record does not hold what it needs.

    A setting that is newer than the record has its default.
    """
    values = {one.name: record.get(one.record_key, one.default) for one in RECORDED} | {"device": record.get("device")}
    if values["class_weight"] is None:  # there is none: no flag says so
        del values["class_weight"]
    source, history, machine = record.get("source"), record.get("history"), record.get("machine")
    if not isinstance(source, str) or None in values.values():
        return []
    if isinstance(history, list) and history and isinstance(history[-1], Mapping) and "epochs" in history[-1]:
        values["epochs"] = history[-1]["epochs"]  # those asked for, which the schedule depends on
    machine = machine if isinstance(machine, Mapping) else {}
    if record.get("threads") and not machine.get("threads_auto"):
        values["threads"] = record["threads"]
    words = ["twostroke", "train", source]
    options = record.get("data_options")
    options = dict(options) if isinstance(options, Mapping) else {}
    if isinstance(start := record.get("from_model"), Mapping):
        options["from_model"] = start.get("path")
    for name, value in options.items():
        if name in SETTINGS:
            words += [SETTINGS[name].flag, as_word(value)]
    for name, value in values.items():
        words += [SETTINGS[name].flag, as_word(value)]
    return [*words, SETTINGS["tf32"].flag] if machine.get("tf32") else words
