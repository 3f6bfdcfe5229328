"""Checks of a network's arguments."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Final

from ..data.scaling import Scaling
from ..errors import ConfigError

MAX_WIDTH: Final = 1 << 20


def check_layers(layers: Sequence[int]) -> tuple[int, ...]:
    try:
        widths = tuple(operator.index(width) for width in layers)
    except TypeError:
        widths = ()
    if len(widths) < 2 or min(widths) < 1 or max(widths) > MAX_WIDTH:
        raise ConfigError(
            "bad layers",
            where="layers",
            found=list(layers) if isinstance(layers, Sequence) else repr(layers),
            expected=f"at least two widths of 1..{MAX_WIDTH}, such as 784,128,10",
        )
    return widths


def check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or operator.index(seed) < 0:
        raise ConfigError("bad seed", where="seed", found=repr(seed), expected="an integer >= 0")
    return operator.index(seed)


def check_task(task: str, loss: str, output: str, target_scaling: Scaling | None) -> None:
    """Refuse what makes no regression, and a scaling of targets where there is none."""
    if task == "regression" and loss == "cross-entropy":
        expected, remedy = "quadratic or poisson for a regression", "Leave the loss out: it is quadratic then."
        raise ConfigError("a loss of classes", where="loss", found=loss, expected=expected, remedy=remedy)
    if task == "regression" and output == "softmax":
        expected = "identity, or another that is no distribution over classes"
        raise ConfigError("an output of classes", where="output", found=output, expected=expected)
    if target_scaling is not None and (task, output) != ("regression", "identity"):
        found, expected = f"task {task}, output {output}", "a regression with output identity"
        raise ConfigError("no targets to standardise", where="target_scaling", found=found, expected=expected)


def check_scaling(scaling: Scaling | None, width: int, where: str = "scaling") -> Scaling | None:
    for name, values in zip(Scaling._fields, scaling or (), strict=False):
        shape = getattr(values, "shape", None)
        if shape != (width,):
            raise ConfigError("bad scaling", where=f"{where}.{name}", found=f"shape {shape}", expected=f"({width},)")
    return scaling


def check_names(classes: Sequence[str], count: int) -> tuple[str, ...]:
    names = tuple(classes)
    if names and (len(names) != count or len(set(names)) != count or not all(isinstance(name, str) for name in names)):
        found, expected = ", ".join(map(repr, names[:9])), f"{count} different names: one for each output"
        raise ConfigError("bad names of classes", where="classes", found=found, expected=expected)
    return names


def choice(argument: str, value: str, allowed: Iterable[str]) -> str:
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise ConfigError(f"unknown {argument}", where=argument, found=repr(value), expected=" or ".join(names))
    return value
