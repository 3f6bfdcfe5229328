"""How to train, checked before anything is read or computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final

from ..errors import ConfigError
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES

DEFAULT_LEARNING_RATE: Final = {"sgd": 0.5, "momentum": 0.3, "nesterov": 0.3, "adam": 2e-3, "adamw": 2e-3}


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Raises ``ConfigError`` for a value out of range.

    ``epochs`` are passes over the training data; ``seed`` fixes the order of samples. ``optimizer`` is "sgd",
    "momentum", "nesterov", "adam" or "adamw", and ``momentum`` the mu of the second and third. ``schedule`` is
    "constant", "one-cycle" (with ``warmup``, the part of the run in which the rate rises), "step" or "cosine".
    ``batch_size`` is a number of samples or "full" (full-batch gradient descent). ``lr`` is the highest learning rate;
    None takes the optimiser's default. ``l2`` adds l2/2 * sum W^2 to the loss. ``dropout`` is the probability that a
    hidden unit is left out of a step. ``val_size`` (a number of samples, or a fraction) is held out of the training
    set; with ``patience`` > 0 training stops when the validation loss has not fallen for that many epochs, and the best
    parameters are kept. ``evaluate_test`` adds the test set's loss and accuracy to every record.
    """

    epochs: int = 4
    batch_size: int | str = 128
    seed: int = 0
    optimizer: str = "momentum"
    lr: float | None = None
    momentum: float = 0.9
    l2: float = 0.0
    dropout: float = 0.0
    schedule: str = "one-cycle"
    warmup: float = 0.2
    val_size: float = 0
    patience: int = 0
    evaluate_test: bool = True

    def __post_init__(self) -> None:
        if self.batch_size != "full" and not _is_integer(self.batch_size, 1):
            _refuse("batch_size", self.batch_size, "an integer >= 1, or full")
        for name, low in (("epochs", 1), ("seed", 0), ("patience", 0)):
            if not _is_integer(getattr(self, name), low):
                _refuse(name, getattr(self, name), f"an integer >= {low}")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            if not (isinstance(value, str) and value in known):
                _refuse(name, repr(value), " or ".join(known))
        if self.lr is not None and not (_is_finite(self.lr) and self.lr > 0):
            _refuse("lr", self.lr, "a finite number > 0")
        for name in ("momentum", "dropout"):
            if not (_is_finite(getattr(self, name)) and 0 <= getattr(self, name) < 1):
                _refuse(name, getattr(self, name), "a number >= 0 and < 1")
        if not (_is_finite(self.l2) and self.l2 >= 0):
            _refuse("l2", self.l2, "a finite number >= 0")
        if not (_is_finite(self.warmup) and 0 < self.warmup < 1):
            _refuse("warmup", self.warmup, "a fraction > 0 and < 1")
        if not (_is_finite(self.val_size) and (0 <= self.val_size < 1 or _is_integer(self.val_size, 1))):
            _refuse("val_size", self.val_size, "a fraction >= 0 and < 1, or a whole number of samples")
        if self.patience and not self.val_size:
            _refuse("patience", self.patience, "a validation split to watch: set val_size as well, to 0.1 for example")

    @property
    def learning_rate(self) -> float:
        """``lr``, or the optimiser's default."""
        return DEFAULT_LEARNING_RATE[self.optimizer] if self.lr is None else self.lr

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with changes."""
        return TrainConfig(**{field.name: getattr(self, field.name) for field in fields(self)} | changes)


def _is_integer(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(name: str, found: object, expected: str) -> None:
    raise ConfigError(f"bad {name.replace('_', ' ')}", where=name, found=found, expected=expected)
