"""Named recipes: a network and how to train it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..engine.training import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A network's settings beside input and output widths, a configuration, and what the recipe is for."""

    purpose: str
    hidden: tuple[int, ...]
    activation: str
    output: str
    loss: str
    init: str
    config: TrainConfig


PRESETS: Final[dict[str, Preset]] = {
    "fast": Preset(
        purpose="98 % on MNIST as soon as possible",
        hidden=(192,),
        activation="relu",
        output="softmax",
        loss="cross-entropy",
        init="he",
        config=TrainConfig(epochs=4, batch_size=192, optimizer="momentum", lr=0.4, schedule="one-cycle"),
    ),
    "nielsen": Preset(
        purpose="M. Nielsen's book, chapter 1: mini-batches of 10, eta 3.0, 30 epochs",
        hidden=(30,),
        activation="sigmoid",
        output="sigmoid",
        loss="quadratic",
        init="normal",
        config=TrainConfig(epochs=30, batch_size=10, optimizer="sgd", lr=3.0, schedule="constant"),
    ),
    "seed": Preset(
        # lr is of the mean loss; the tutorial's eta multiplies the sum, so eta = lr / 60,000.
        purpose="the tutorial's full-batch gradient descent",
        hidden=(30,),
        activation="sigmoid",
        output="sigmoid",
        loss="quadratic",
        init="normal",
        config=TrainConfig(epochs=100, batch_size="full", optimizer="sgd", lr=3.0, schedule="constant"),
    ),
}
