"""``TrainConfig``: every training setting with its default and its check; and the defaults of all settings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

import numpy as np

from ..errors import ConfigError
from .kinds import Optimizer
from .mlp import MLP, SETTINGS
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES

KEPT: Final = ("last", "best")  # epochs whose parameters a run may end with
DEFAULT_LEARNING_RATE: Final = {"sgd": 0.5, "momentum": 0.3, "nesterov": 0.3, "adam": 2e-3, "adamw": 2e-3}


def _checked(default: Any, expected: str, holds: Callable[[Any], bool]) -> Any:
    """A field with a check: ``holds(value)`` must be true; ``expected`` is the text for the error."""
    return field(default=default, metadata={"expected": expected, "holds": holds})


def _integer(default: int, low: int) -> Any:
    return _checked(default, f"an integer >= {low}", lambda value: _is_integer(value, low))


def _choice(default: str, known: Collection[str], own: type | tuple[()] = ()) -> Any:
    def holds(value: Any) -> bool:
        return isinstance(value, own) or (isinstance(value, str) and value in known)

    return _checked(default, " or ".join(known), holds)


def _is_integer(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _weighs_classes(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return value is None or (isinstance(value, str) and value == "balanced")
    named, weights = all(isinstance(key, str | int) for key in value), [*value.values()]
    return named and all(_is_finite(one) and 0 <= one < 1e38 for one in weights) and any(weights)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Raises ``ConfigError`` for a value out of range.

    ``epochs`` are passes over the training data; ``seed`` fixes the order of samples. ``optimizer`` is "sgd",
    "momentum", "nesterov", "adam", "adamw" or an ``Optimizer`` of your own; ``momentum`` is the mu of "momentum" and
    "nesterov". ``schedule`` is "constant", "one-cycle" (``warmup`` is the fraction of the run in which the rate
    rises), "step" or "cosine".
    ``batch_size`` is a number of samples or "full" (full-batch gradient descent). ``lr`` is the highest learning rate;
    None takes the optimiser's default. ``l2`` adds l2/2 * sum W^2 to the loss. ``dropout`` is the probability that
    a hidden unit is dropped in a step. ``val_size`` (a number of samples, or a fraction) is held out of the training
    set as the validation set. With ``keep`` "best", the parameters at the end are those after the epoch with the lowest
    validation loss, not those of the "last" epoch. With ``patience`` > 0, training stops after that many epochs without
    a lower validation loss, and keeps the best parameters too. ``class_weight`` multiplies the loss of each sample by
    the weight of its class: "balanced" is n / (k count), so that every class weighs the same; a mapping gives weights
    by name or number, 1 where it names none. ``evaluate_test`` adds the test set's loss and accuracy to every record.
    """

    epochs: int = _checked(4, "an integer >= 1, at most 10^9", lambda v: _is_integer(v, 1) and v <= 10**9)
    batch_size: int | Literal["full"] = _checked(
        128, "an integer >= 1, or full", lambda v: v == "full" or _is_integer(v, 1)
    )
    seed: int = _integer(0, low=0)
    optimizer: Literal["sgd", "momentum", "nesterov", "adam", "adamw"] | Optimizer = _choice(  # noqa: RUF009 (it is immutable)
        "momentum", OPTIMIZERS, Optimizer
    )
    lr: float | None = _checked(None, "a finite number > 0", lambda v: v is None or (_is_finite(v) and v > 0))
    momentum: float = _checked(0.9, "a number >= 0 and < 1", lambda v: _is_finite(v) and 0 <= v < 1)
    l2: float = _checked(0.0, "a finite number >= 0", lambda v: _is_finite(v) and v >= 0)
    dropout: float = _checked(0.0, "a number >= 0 and < 1", lambda v: _is_finite(v) and 0 <= v < 1)
    schedule: Literal["constant", "one-cycle", "step", "cosine"] = _choice("one-cycle", SCHEDULES)
    warmup: float = _checked(0.2, "a fraction > 0 and < 1", lambda v: _is_finite(v) and 0 < v < 1)
    val_size: float = _checked(
        0,
        "a fraction >= 0 and < 1, or a whole number of samples",
        lambda v: _is_finite(v) and (0 <= v < 1 or _is_integer(v, 1)),
    )
    keep: Literal["last", "best"] = _choice("last", KEPT)
    patience: int = _integer(0, low=0)
    class_weight: Literal["balanced"] | Mapping[str | int, float] | None = _checked(
        None, "balanced, or weights >= 0 of classes by name or number, one above 0", _weighs_classes
    )
    evaluate_test: bool = _checked(True, "True or False", lambda value: isinstance(value, bool))

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.generic | Mapping):
                value = _plain(value)
                object.__setattr__(self, each.name, value)
            if each.metadata and not each.metadata["holds"](value):
                _refuse(each.name, repr(value) if isinstance(each.default, str) else value, each.metadata["expected"])
        for name in ("patience", "keep"):
            if (value := getattr(self, name)) not in (0, "last") and not self.val_size:
                expected = "a validation part to watch: val_size (--val-size), 0.1 for example"
                _refuse(name, value if name == "patience" else repr(value), expected)

    @property
    def learning_rate(self) -> float:
        """``lr``, or the optimiser's default."""
        if self.lr is not None:
            return self.lr
        own = self.optimizer
        return own.lr if isinstance(own, Optimizer) else DEFAULT_LEARNING_RATE[own]

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with these fields changed."""
        return replace(self, **changes)


def _plain(value: Any) -> Any:
    """NumPy's numbers and truth values as Python's; a mapping as a dictionary of such."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _refuse(name: str, found: object, expected: str) -> None:
    raise ConfigError(f"bad {name.replace('_', ' ')}", where=name, found=found, expected=expected)


TRAINING_DEFAULTS: Final[dict[str, Any]] = {each.name: each.default for each in fields(TrainConfig)}
# ``layers`` has no default. None for ``output`` or ``init``: chosen by the loss or the activation.
NETWORK_DEFAULTS: Final[dict[str, Any]] = {
    name: parameter.default
    for name, parameter in inspect.signature(MLP).parameters.items()
    if name in SETTINGS and parameter.default is not parameter.empty
}
