"""A training run on disk, whole: one file from which it goes on exactly as if it had not been stopped.

The order of samples is a function of (seed, epoch), so parameters, the optimiser's arrays, the position and the
notes of the running epoch are all there is. The file before the newest is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from .dataset import Dataset
from .errors import ConfigError, ModelError
from .model_file import network_settings
from .sealed_file import damaged, load_sealed, parse_header, read_bytes, read_json, write_sealed
from .training import EpochRecord, TrainingRun

KIND: Final = "twostroke-checkpoint"
POSITION: Final = ("epoch", "batch", "steps", "waited", "seconds", "first_loss", "best_loss")


def identity(run: TrainingRun, data: Dataset) -> dict[str, Any]:
    """What must be the same for a run to be continued: network, configuration, data. (Devices may differ.)"""
    digest = hashlib.sha256(np.ascontiguousarray(data.train_images).data)
    digest.update(np.ascontiguousarray(data.train_labels).data)
    return {**network_settings(run.net), **asdict(run.config), "data": f"{data.name} {digest.hexdigest()}"}


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest is kept."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def save_checkpoint(run: TrainingRun, data: Dataset, path: Path) -> Path:
    """Write the run's state to ``path``, atomically and durably, and return it. Raises ``ModelError``."""
    host = run.net.backend.to_host
    tensors = {name: np.array(host(array), order="C") for name, array in run.state.items()}
    for name in ("parameters", *(name for name in tensors if name.startswith("optimizer."))):
        if not np.isfinite(tensors[name]).all():
            raise ModelError("not finite", where=name, remedy=f"The training diverges; {path} was not touched.")
    position = {name: getattr(run, name) for name in POSITION}
    position = {name: None if value == math.inf else value for name, value in position.items()}
    position["optimizer_steps"] = run.optimizer.steps
    history = [asdict(record) for record in run.history]
    run_text = {"identity": identity(run, data), "position": position, "history": history}
    if path.exists():
        try:
            os.replace(path, previous(path))
        except OSError as error:
            raise ModelError("cannot keep the old checkpoint", where=path, found=error.strerror) from error
    texts = {"run": json.dumps(run_text, sort_keys=True, allow_nan=False)}
    write_sealed(path, KIND, texts, tensors, sealed="run")
    return path


def restore(run: TrainingRun, data: Dataset, path: Path) -> list[str]:
    """Put ``run`` where the checkpoint at ``path`` is, and return what there is to say; [] if there is none.

    A damaged newest file is said to be so, and the one before it is taken. Raises ``ConfigError`` for a checkpoint
    of another run, naming what differs, and ``ModelError`` if no good one is left.
    """
    notes = []
    existing = [file for file in (path, previous(path)) if file.exists()]
    for file in existing:
        try:
            _restore(run, data, file)
        except ModelError as error:
            notes.append(str(error))
            continue
        return [*notes, f"resumed from {file}: epoch {run.epoch + 1}, step {run.steps}"]
    if existing:
        raise ModelError(
            "no good checkpoint is left", where=path, found="; ".join(notes), remedy="Start without --resume."
        )
    return []


def _restore(run: TrainingRun, data: Dataset, file: Path) -> None:
    where = file.absolute()
    content = read_bytes(where)
    header = parse_header(content, where)
    metadata = header.pop("__metadata__", {})
    text = read_json(metadata, "run", where, KIND)
    tensors = load_sealed(content, metadata["run"], metadata.get("sha256"), where)
    ours = json.loads(json.dumps(identity(run, data)))
    theirs = text.get("identity")
    if not isinstance(theirs, dict):
        raise damaged(where, "no identity of its run")
    differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if differing:
        values = ", ".join(f"{key} {theirs.get(key)} there and {ours.get(key)} here" for key in differing)
        raise ConfigError(
            "a checkpoint of another run", where=where, found=values, remedy="Use the same options, or another --out."
        )
    arrays = run.state
    shapes = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    found = {name: (tensor.shape, str(tensor.dtype)) for name, tensor in tensors.items()}
    if found != shapes:
        raise damaged(where, f"tensors {found}", shapes)
    try:
        position = {name: _number(text["position"][name]) for name in (*POSITION, "optimizer_steps")}
        history = [EpochRecord(**record) for record in text["history"]]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(where, f"no readable position ({error!r})") from error
    backend = run.net.backend
    with backend.active():
        for name, array in arrays.items():
            backend.xp.copyto(array, backend.asarray(tensors[name]))
    run.optimizer.steps = position.pop("optimizer_steps")
    for name, value in position.items():
        setattr(run, name, value)
    run.history[:] = history


def _number(value: Any) -> Any:
    """A number of a position; None stands for infinity, which JSON has not."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value
