"""Loss and accuracy over many batches: kept on the device, downloaded once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, Backend
from ..errors import ModelError
from .workspace import Buffers


class Result(NamedTuple):
    """Mean loss and accuracy (0..1) over all samples seen."""

    loss: float
    accuracy: float


def mean(backend: Backend, values: Array) -> float:
    """The mean in float64. A sync point."""
    found = backend.scalars(1, "float64")
    backend.xp.mean(values, dtype="float64", out=found[0])
    return float(backend.to_host(found[0]))


class Running:
    """One loss and one predicted class per sample, for ``n`` samples."""

    def __init__(self, backend: Backend, n: int, dtype: str) -> None:
        self.backend = backend
        self.losses = backend.xp.zeros(n, dtype)
        self.predictions = backend.xp.zeros(n, "int64")

    def update(self, start: int, buffers: Buffers) -> None:
        """Store the losses and predictions of the batch that starts at sample ``start``."""
        xp, stop = self.backend.xp, start + len(buffers.losses)
        xp.copyto(self.losses[start:stop], buffers.losses)
        xp.copyto(self.predictions[start:stop], buffers.predictions)

    def result(self, labels: Array) -> Result:
        """Mean loss and accuracy; ``labels`` (n,) in the order of the samples. THE SYNC POINT of an epoch."""
        xp, means = self.backend.xp, self.backend.scalars(2, "float64")
        xp.mean(self.losses, dtype="float64", out=means[0])
        right = xp.equal(self.predictions, labels, out=xp.empty_like(self.losses))  # as numbers: one mean for both
        xp.mean(right, dtype="float64", out=means[1])
        loss, accuracy = self.backend.to_host(means.cells).tolist()
        return Result(loss, accuracy)

    def mean_loss(self, start: int, stop: int) -> float:
        """The mean loss of the samples ``start`` to ``stop``. A sync point."""
        return mean(self.backend, self.losses[start:stop])

    def first_nonfinite(self) -> tuple[int, float] | None:
        """The position of the first loss that is not finite, and the mean loss before it; None if all are finite."""
        losses = self.backend.to_host(self.losses).tolist()
        for position, loss in enumerate(losses):
            if not math.isfinite(loss):
                return position, sum(losses[:position]) / position if position else math.nan
        return None


def check_finite(where: object, *results: Any) -> None:
    """Raise ``ModelError`` if outputs or losses are not finite: finite weights and inputs may overflow."""
    if not all(np.isfinite(each).all() for each in results):
        remedy = "Its weights or the inputs are too large: scale the inputs as in training, or train again."
        expected = "finite numbers"
        raise ModelError(
            "the model's outputs overflow", where=where, found="NaN or infinity", expected=expected, remedy=remedy
        )
