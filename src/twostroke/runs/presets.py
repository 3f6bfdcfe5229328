"""Named recipes: a network and how to train it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..engine.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """What a recipe is for, its hidden widths, and the settings in which it differs from the defaults.

    ``network`` are arguments of ``MLP``. Few samples are cut into ``least_batches`` an epoch, and visited until there
    are ``least_steps``, where the run does not say otherwise.
    """

    purpose: str
    hidden: tuple[int, ...]
    config: TrainConfig
    network: Mapping[str, Any] = field(default_factory=dict)
    least_batches: int = 0
    least_steps: int = 0


_BOOK: Final = {"activation": "sigmoid", "loss": "quadratic", "init": "normal"}
_FAST: Final = TrainConfig(batch_size=192, lr=0.5, momentum=0.85)
# Chosen on validation parts of nine data sets (docs/benchmarks.md), none of which was a test part.
_GENERAL: Final = TrainConfig(optimizer="adamw", lr=2e-3, l2=0.1, dropout=0.2, batch_size=128, epochs=20)
_NIELSEN: Final = TrainConfig(epochs=30, batch_size=10, optimizer="sgd", lr=3.0, schedule="constant")
# lr is that of the mean loss; the tutorial's eta multiplies the sum, so eta = lr / 60,000.
_SEED: Final = _NIELSEN.replace(epochs=100, batch_size="full")

PRESETS: Final = {
    "fast": Preset("98 % on MNIST as soon as possible", (160,), _FAST),
    "general": Preset("data that is not MNIST", (256, 128), _GENERAL, least_batches=8, least_steps=1500),
    "nielsen": Preset("M. Nielsen's book, chapter 1: mini-batches of 10, eta 3.0, 30 epochs", (30,), _NIELSEN, _BOOK),
    "seed": Preset("the tutorial's full-batch gradient descent", (30,), _SEED, _BOOK),
}


def preset_for(data: str) -> str:
    """The name of the recipe for the data set ``data``, where a run names none."""
    return "fast" if data == "mnist" else "general"
