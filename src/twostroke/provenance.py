"""Versions of the packages behind a result, and strict JSON."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from .version import __version__


def to_json(value: Any) -> str:
    """One line of strict JSON; NaN and infinities become null."""
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
    """The versions of Python, this package and NumPy; of SciPy and CuPy if they are loaded: else nothing used them."""
    found = {"twostroke": __version__, "python": platform.python_version(), "numpy": np.__version__}
    if scipy := sys.modules.get("scipy"):
        found["scipy"] = scipy.__version__
    if "cupy" in sys.modules:
        from importlib import metadata  # costs as much time as half of NumPy

        for dist in metadata.distributions():
            name = (dist.name or "").lower()
            if name.startswith("cupy"):
                found[name] = dist.version
    return found
