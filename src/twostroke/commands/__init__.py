"""One file per command; this one has what several share. ``cli`` registers the commands."""

from __future__ import annotations

import warnings
from pathlib import Path

from ..backend import Backend, select_backend
from ..data.dataset import Dataset, check_fit
from ..engine.mlp import MLP
from ..errors import ConfigError, DataError, ModelError, TwoStrokeError
from ..runs.folder import newest_model
from ..runs.settings import as_integer, named
from .terminal import program


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


def check_model(net: MLP, data: Dataset, model: Path) -> None:
    """Raise ``ModelError``, which names the file ``model``, if the network does not fit the data."""
    check_fit(net.layers, data, error=ModelError, where=model, remedy="Name the data that the model was trained on.")
