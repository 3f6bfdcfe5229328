"""A run that starts from a model: its network, and what the run must leave to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.dataset import Dataset, check_fit
from ..engine.kinds import Named
from ..engine.mlp import MLP
from ..engine.mlp import SETTINGS as NETWORK_SETTINGS
from ..errors import ConfigError
from ..files.regular_file import absolute
from ..models.model_file import describe_model, load_model


@dataclass(frozen=True)
class Start:
    """The network of a model file, and what a record keeps of the file; ``columns`` are those of its table, if any."""

    net: MLP
    path: str
    digest: str
    columns: tuple[str, ...]

    @property
    def record(self) -> dict[str, str]:
        """What a record says of it."""
        return {"path": absolute(self.path), "sha256": self.digest}

    def network_for(self, data: Dataset, argument: str) -> MLP:
        """The network, if it fits ``data``. Raises ``ConfigError``, which names the ``argument`` with the model."""
        where, remedy = f"{argument} {self.path}", "Train on data like the model's, or without it."
        check_fit(self.net.layers, data, where=where, remedy=remedy)
        for what, ours, theirs in (
            ("columns", self.columns, data.columns),
            ("classes", self.net.classes, data.classes),
        ):
            if ours and theirs and tuple(ours) != tuple(theirs):
                found, expected = (f"{', '.join(names[:9])}{', ...' * (len(names) > 9)}" for names in (theirs, ours))
                raise ConfigError(f"not the model's {what}", where=where, found=found, expected=expected, remedy=remedy)
        return self.net


def start_from(path: str, given: Mapping[str, Any]) -> Start:
    """Read the model at ``path``. ``given`` are the settings that its user wrote: those of the network must be equal.

    Raises ``ModelError`` for a bad file, and ``ConfigError``, which names the setting, for one that differs.
    """
    kernels = [value for value in given.values() if isinstance(value, Named)]
    net = load_model(path, kernels=kernels)
    for name in NETWORK_SETTINGS:
        ours = getattr(net, name)
        if (
            name != "seed" and name in given and given[name] != ours
        ):  # a run's seed is that of its order of samples, too
            shown = [",".join(map(str, one)) if isinstance(one, tuple) else one for one in (given[name], ours)]
            expected, remedy = f"{shown[1]}, as in {path}", "Leave it out: the network is the model's."
            raise ConfigError("not the model's network", where=name, found=shown[0], expected=expected, remedy=remedy)
    columns = describe_model(path)["origin"].get("columns")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return Start(net, path, digest, tuple(columns) if isinstance(columns, list) else ())
