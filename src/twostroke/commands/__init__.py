"""One file per command; this one has what several share. ``cli`` registers the commands."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

from ..backend import Backend, select_backend
from ..data import tables
from ..data.dataset import Dataset, check_fit, load_dataset
from ..engine.mlp import MLP
from ..errors import ConfigError, DataError, ModelError, TwoStrokeError
from ..models.model_file import describe_model
from ..runs.folder import newest_model
from ..runs.settings import SETTINGS, as_integer, named
from .terminal import program

DATA_OPTIONS: Final = ("label", "drop", "weight", "test")


def select(device: str | None, threads: str | None) -> Backend:
    """Select the backend of --device and --threads; an error names the flag."""
    try:
        return select_backend(device or "auto", as_integer(threads or "auto"))
    except ConfigError as error:
        raise named(error, {"device": "--device", "threads": "--threads"}) from error


def newest_unless(model: Path | None) -> Path:
    """``model``, or the model of the newest run."""
    if found := model or newest_model():
        return found
    remedy = f"Train one first: {program()} train. Or name a MODEL."
    raise ModelError("no model yet", where="runs/*/model.safetensors", remedy=remedy)


def doubt(lines: list[str], *, strict: bool, error: type[TwoStrokeError] = DataError) -> None:
    """Note what looks wrong, or raise ``error``."""
    for line in lines:
        if strict:
            raise error(line, remedy="Without --strict this is only noted.")
        warnings.warn(line, stacklevel=2)


def load_for(net: MLP, model: Path, source: str, **options: Any) -> Dataset:
    """The data set ``source`` for a model, with its numbers of classes. The options of the model's own run hold where
    none is given. Raises ``ModelError`` if the network does not fit."""
    origin = describe_model(model)["origin"]
    used = origin.get("data_options")
    chosen = {name: value for name, value in (used if isinstance(used, dict) else {}).items() if name in DATA_OPTIONS}
    if not (tables.is_table(Path(source)) and Path(source).is_file()):
        chosen = {}
    elif net.scaling:
        chosen["columns"] = origin.get("columns") or ()
    chosen |= {name: SETTINGS[name].convert(value) for name, value in options.items() if value is not None}
    data = load_dataset(source, **chosen | {"classes": net.classes or None, "task": net.task})
    check_model(net, data, model)
    return data


def check_model(net: MLP, data: Dataset, model: Path) -> None:
    """Raise ``ModelError``, which names the file ``model``, if the network does not fit the data."""
    remedy = "Name the data that the model was trained on."
    check_fit(net.layers, data, error=ModelError, where=model, remedy=remedy)


def no_page(task: object, where: object) -> None:
    """Raise ``ConfigError`` for the page of a regression."""
    if task == "regression":
        remedy = "Use the log, record.json and twostroke evaluate."
        raise ConfigError("pages are for classifiers", where=where, found="a regression", remedy=remedy)


def no_pictures(net: MLP, model: Path) -> None:
    """Raise ``ModelError`` where classes are to be shown, and the model predicts numbers."""
    if net.regression:
        expected, remedy = "a model of classes", "Use twostroke predict with --index, or on a table."
        raise ModelError("the model predicts numbers", where=model, expected=expected, remedy=remedy)
