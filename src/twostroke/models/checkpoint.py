"""Checkpoints: a training run in one file, from which it resumes with the bits of a run that was never stopped.

The order of samples is a function of (seed, epoch), so the state is the parameters, the optimiser's arrays, the
position, the losses and predictions of the current epoch, and the history. The previous checkpoint is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args, get_type_hints
from weakref import WeakKeyDictionary

import numpy as np

from ..data.dataset import Dataset
from ..engine.config import NETWORK_DEFAULTS, TRAINING_DEFAULTS
from ..engine.mlp import network_settings
from ..engine.training import POSITION, EpochRecord, TrainingRun
from ..errors import ConfigError, ModelError
from ..files.atomic_file import previous
from ..files.sealed_file import check_seal, damaged, pack, parse_header, read_bytes, read_json, write_sealed

KIND: Final = "twostroke-checkpoint"
HISTORY: Final = "history"  # the tensor, (epochs, fields of a record) float64; a value that a run has not is NO_VALUE
MOST_EXACT: Final = 2**53  # up to here float64 holds every integer
NO_VALUE: Final = -math.inf  # no loss or accuracy is that
CLASSIFIED: Final = 12  # of the fields of a record are of every run; those after them are of a regression
RECORD_TYPES: Final = get_type_hints(EpochRecord)  # once: to evaluate annotations is to compile, which no reader may


def identity(run: TrainingRun, data: Dataset) -> dict[str, Any]:
    """What must be the same for a run to be continued: network, configuration, data. (Devices may differ.)"""
    settings = _settings(network_settings(run.net), asdict(run.config))
    start = {"from_model": run.started_from} if run.started_from else {}
    return settings | start | {"data": f"{data.name} {_digest(data)}"}


def _settings(network: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """Both as one; the network's seed as ``weights_seed``: the configuration has its own, for the order of samples."""
    renamed = {"weights_seed" if name == "seed" else name: value for name, value in network.items()}
    return renamed | dict(training)


_digests: WeakKeyDictionary[Dataset, str] = WeakKeyDictionary()


def _digest(data: Dataset) -> str:
    """SHA-256 of the training part, cached: it takes longer than the rest of a save."""
    if data not in _digests:
        digest = hashlib.sha256(np.ascontiguousarray(data.train_images).data)
        digest.update(np.ascontiguousarray(data.train_labels).data)
        if data.sample_weight is not None:
            digest.update(data.sample_weight.data)
        _digests[data] = digest.hexdigest()
    return _digests[data]


def save_checkpoint(run: TrainingRun, data: Dataset, path: Path) -> Path:
    """Write the run's state to ``path`` atomically and durably, and return ``path``. Raises ``ModelError``."""
    host = run.net.backend.to_host
    tensors = {name: np.array(host(array), order="C") for name, array in run.state.items()}
    for name in ("parameters", *(name for name in tensors if name.startswith("optimizer."))):
        if not np.isfinite(tensors[name]).all():
            raise ModelError("not finite", where=name, remedy=f"The training diverges; {path} was not touched.")
    position = {name: None if value == math.inf else value for name, value in run.position.items()}
    position["optimizer_steps"] = run.steps
    tensors[HISTORY] = _history_tensor(run.history)
    texts = {"run": json.dumps({"identity": identity(run, data), "position": position}, sort_keys=True)}
    content = pack(path, KIND, texts, tensors)
    if _is_sound(path):  # a damaged one must not replace the last good one
        try:
            os.replace(path, previous(path))
        except OSError as error:
            raise ModelError("cannot keep the old checkpoint", where=path, found=error.strerror) from error
    write_sealed(path, KIND, content)
    return path


def restore(run: TrainingRun, data: Dataset, path: Path) -> list[str]:
    """Load the checkpoint at ``path`` into ``run``; return the lines to print, [] if there is no checkpoint.

    If the newest file is damaged, warns and loads the previous one. Raises ``ConfigError`` for a checkpoint of another
    run, with the values that differ, and ``ModelError`` if no good checkpoint is left.
    """
    faults: list[str] = []
    for file in (path, previous(path)):
        if not os.path.lexists(file):
            continue
        try:
            _restore(run, data, file)
        except ConfigError as error:
            if not faults:
                raise
            faults.append(str(error))
        except ModelError as error:
            faults.append(str(error))
        else:
            for fault in faults:
                warnings.warn(f"{fault} The previous checkpoint is used.", stacklevel=2)
            return [f"resumed from {file}: epoch {run.epoch + 1}, step {run.steps}"]
    if faults:
        what, remedy = "no good checkpoint is left", "Start without --resume."
        raise ModelError(what, where=path, found="; ".join(faults), remedy=remedy)
    return []


def _read(where: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a checkpoint and check its digest; return its text and its tensors."""
    content = read_bytes(where)
    header = parse_header(content, where)
    text = read_json(header.get("__metadata__"), "run", where, KIND)
    tensors = check_seal(content, header, "run", where)
    if "history" in text:  # of format version 1
        try:
            tensors[HISTORY] = _history_tensor([EpochRecord(**values) for values in text["history"]])
        except (TypeError, ValueError, OverflowError) as error:
            raise damaged(where, f"no readable history ({error!r})") from error
    return text, tensors


def _is_sound(file: Path) -> bool:
    try:
        return bool(_read(file.absolute()))
    except ModelError:
        return False


def _restore(run: TrainingRun, data: Dataset, file: Path) -> None:
    where = file.absolute()
    text, tensors = _read(where)
    ours = json.loads(json.dumps(identity(run, data)))
    theirs = text.get("identity")
    if not isinstance(theirs, dict):
        raise damaged(where, "no identity of its run")
    theirs = _settings(NETWORK_DEFAULTS, TRAINING_DEFAULTS) | theirs  # it may be older than a setting
    differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if differing:
        values = ", ".join(f"{key} {theirs.get(key)} there and {ours.get(key)} here" for key in differing)
        remedy = "Use the same options, or another --out."
        raise ConfigError("a checkpoint of another run", where=where, found=values, remedy=remedy)
    arrays, records = run.state, tensors.pop(HISTORY, np.empty(0))
    shapes = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    found = {name: (tensor.shape, str(tensor.dtype)) for name, tensor in tensors.items()}
    if found != shapes:
        raise damaged(where, f"tensors {found}", shapes)
    for name, tensor in tensors.items():
        if name not in ("losses", "predictions") and not np.isfinite(tensor).all():
            raise damaged(where, f"{name} is not finite")
    try:
        position = _position(text["position"], run)
        history = _history(records, position["epoch"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(where, f"no readable position ({error!r})") from error
    backend = run.net.backend
    with backend.active():
        for name, array in arrays.items():
            backend.xp.copyto(array, backend.asarray(tensors[name]))
    run.position = position
    run.history[:] = history


def _position(values: dict[str, Any], run: TrainingRun) -> dict[str, Any]:
    """Check a position of ``run``; None stands for infinity."""
    position = {name: values[name] for name in (*POSITION, "optimizer_steps")}
    for name in ("epoch", "batch", "steps", "waited", "optimizer_steps"):
        if type(position[name]) is not int or position[name] < 0:
            raise ValueError(f"{name} {position[name]!r}")
    for name in ("seconds", "first_loss", "best_loss"):
        value = math.inf if position[name] is None and name != "seconds" else position[name]
        if not _is_number(value) or math.isnan(value):
            raise ValueError(f"{name} {value!r}")
        position[name] = float(value)
    epoch, batch, n = position["epoch"], position["batch"], len(run.bounds)
    steps = {position["steps"], position["optimizer_steps"]}
    if epoch > run.config.epochs or batch >= n or position["waited"] > epoch or steps != {epoch * n + batch}:
        raise ValueError(f"{position}")
    return position


def _history_tensor(history: Sequence[EpochRecord]) -> np.ndarray:
    rows = [[NO_VALUE if value is None else value for value in astuple(record)] for record in history]
    if all(record.train_rmse is None for record in history):  # of a classifier, as before there was another task
        rows = [row[:CLASSIFIED] for row in rows]
    if not all(_is_number(value) for row in rows for value in row):
        raise ValueError("a value that is no number")
    return np.array(rows, np.float64).reshape(len(rows), -1 if rows else CLASSIFIED)


def _history(records: np.ndarray, epochs: int) -> list[EpochRecord]:
    if (
        records.shape not in [(epochs, width) for width in (CLASSIFIED, len(RECORD_TYPES))]
        or records.dtype != np.float64
    ):
        raise ValueError(f"a history of {records.shape} {records.dtype}")
    kinds = [get_args(hint) or (hint,) for hint in RECORD_TYPES.values()]  # float and None, float, or int
    history = []
    for number, row in enumerate(records.tolist(), start=1):
        values: list[Any] = []
        for value, kind in zip(row, kinds, strict=False):
            if value == NO_VALUE and NoneType not in kind:
                raise ValueError(f"a missing value in epoch {number}")
            if int in kind and not (value.is_integer() and 0 <= value < MOST_EXACT):
                raise ValueError(f"{value!r} in epoch {number}")
            values.append(None if value == NO_VALUE else int(value) if int in kind else value)
        record = EpochRecord(*values)
        if record.epoch != number:
            raise ValueError(f"epoch {record.epoch} at {number}")
        history.append(record)
    return history


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)
