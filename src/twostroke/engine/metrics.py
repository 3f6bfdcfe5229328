"""Loss and accuracy over many batches: kept on the device, downloaded once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import Array, Backend
from ..errors import ModelError
from .targets import Result, target_errors
from .workspace import Buffers


def mean(backend: Backend, values: Array) -> float:
    """The mean in float64. A sync point."""
    found = backend.scalars(1, "float64")
    backend.xp.mean(values, dtype="float64", out=found[0])
    return float(backend.to_host(found[0]))


class Running:
    """One loss and one predicted class per sample, for ``n`` samples; of a regression the outputs (n, K).

    ``deviation`` (K,) is the unit of a regression's outputs; None for a classifier.
    """

    def __init__(self, backend: Backend, n: int, dtype: str, deviation: Any = None) -> None:
        self.backend, self._deviation = backend, deviation
        self.losses = backend.xp.zeros(n, dtype)
        self.predictions = backend.xp.zeros(n, "int64")
        if deviation is not None:
            self.predictions = backend.xp.zeros((n, len(deviation)), dtype)

    def update(self, start: int, buffers: Buffers) -> None:
        """Store the losses and predictions of the batch that starts at sample ``start``."""
        xp, stop = self.backend.xp, start + len(buffers.losses)
        xp.copyto(self.losses[start:stop], buffers.losses)
        xp.copyto(self.predictions[start:stop], buffers.predictions)

    def result(self, labels: Array) -> Result:
        """Mean loss and accuracy, or errors; ``labels`` (n,), or targets (n, K), in the order of the samples. THE SYNC
        POINT of an epoch."""
        if self._deviation is not None:
            errors = target_errors(self.backend, self.predictions, labels, self._deviation)
            return errors.mean(mean(self.backend, self.losses))
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
