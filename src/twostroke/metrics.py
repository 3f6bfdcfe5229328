"""Loss and accuracy of many batches, kept on the device and brought down once."""

from __future__ import annotations

import math
from typing import NamedTuple

from .backend import Array, Backend
from .workspace import Buffers


class Result(NamedTuple):
    """Mean loss and accuracy (0..1) over all samples seen."""

    loss: float
    accuracy: float


class Running:
    """One loss and one predicted class per sample, for ``n`` samples."""

    def __init__(self, backend: Backend, n: int, dtype: str) -> None:
        self.backend = backend
        self.losses = backend.xp.zeros(n, dtype)
        self._predictions = backend.xp.zeros(n, "int64")

    def update(self, start: int, stop: int, buffers: Buffers) -> None:
        """Note a batch; call it after ``loss_forward`` and before ``backward``, which overwrites the outputs."""
        xp = self.backend.xp
        xp.copyto(self.losses[start:stop], buffers.losses)
        xp.argmax(buffers.A[-1], axis=1, out=self._predictions[start:stop])

    def result(self, labels: Array) -> Result:
        """The means, given the labels in the order in which the samples were seen. THE SYNC POINT of an epoch."""
        xp = self.backend.xp
        means = xp.stack([xp.mean(self.losses, dtype="float64"), xp.mean(self._predictions == labels, dtype="float64")])
        loss, accuracy = self.backend.to_host(means).tolist()
        return Result(loss, accuracy)

    def first_nonfinite(self) -> tuple[int, float] | None:
        """The position of the first sample whose loss is not finite, and the mean loss before it, if any."""
        losses = self.backend.to_host(self.losses).tolist()
        for position, loss in enumerate(losses):
            if not math.isfinite(loss):
                return position, sum(losses[:position]) / position if position else math.nan
        return None
