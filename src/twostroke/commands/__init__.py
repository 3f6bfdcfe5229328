"""One file per command; here is what several share. ``cli`` gives them their names."""

from __future__ import annotations

from pathlib import Path

from ..backend import Backend, select_backend
from ..data.dataset import Dataset
from ..engine.mlp import MLP
from ..errors import ConfigError, ModelError
from ..runs.settings import as_integer, named


def select(device: str | None, threads: str | None) -> Backend:
    """The backend that the flags ask for, or the error that names the flag."""
    try:
        return select_backend(device or "auto", as_integer(threads or "auto"))
    except ConfigError as error:
        raise named(error, {"device": "--device", "threads": "--threads"}) from error


def check_fit(net: MLP, data: Dataset, model: Path) -> None:
    """``ModelError`` if the model cannot take the data."""
    if data.n_features != net.layers[0] or data.n_classes > net.layers[-1]:
        raise ModelError(
            "the model does not fit the data",
            where=model,
            found=f"{net.layers[0]} inputs and {net.layers[-1]} outputs",
            expected=f"{data.n_features} inputs and {data.n_classes} outputs for {data.name}",
            remedy="Name the data that it was trained on.",
        )
