"""An epoch: many captured steps per call. Sample order and optimiser scalars are uploaded before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from ..backend import Array, Move, Steps
from .step import TrainingStep


class Epoch:
    """Runs ``step`` on the batches ``bounds``, epoch after epoch.

    Step i reads its sample indices from ``order`` and its scalars from row i of a table, both on the device. Its
    results are copied into the arrays that ``step.kept`` and ``step.kept_by_step`` name.
    """

    def __init__(self, step: TrainingStep, bounds: Sequence[tuple[int, int]]) -> None:
        backend, cells = step.net.backend, step.optimizer.scalars.cells
        self.bounds = bounds
        self.order: Array = backend.xp.empty(bounds[-1][1], "int64")  # (N,), sample indices
        self._step, self._backend = step, backend
        self._scalars = backend.xp.zeros((len(bounds), len(cells)), cells.dtype)
        self._captured = step.capture([self._steps(*same) for same in _same_size(bounds)])

    def _steps(self, first: int, count: int, n: int) -> Steps:
        """``count`` steps of n samples each, starting at batch ``first``."""
        step, start = self._step, self.bounds[first][0]
        low, high = step.share(n)
        buffers = step.workspace.rows(high - low)

        def by_step(samples: Array) -> Array:
            width = len(samples) // len(self.order)  # numbers per sample
            steps = samples[start * width : (start + count * n) * width].reshape(count, n * width)
            return steps[:, low * width : high * width]

        moves = [
            Move(by_step(self.order), buffers.indices, True),
            Move(self._scalars[first : first + count], step.optimizer.scalars.cells, True),
            *(Move(by_step(samples), of_batch, False) for samples, of_batch in step.kept(buffers)),
            *(Move(steps[first : first + count], of_step, False) for steps, of_step in step.kept_by_step()),
        ]
        return Steps(partial(step.learn_batch, buffers, n), count, moves, buffers.passing)

    def begin(self, order: Any, numbers: Sequence[tuple[float, ...]]) -> None:
        """Upload the sample indices ``order`` (N,), a host array, and the optimiser's scalars of every step."""
        backend = self._backend
        backend.xp.copyto(self.order, backend.asarray(order, "int64"))
        backend.xp.copyto(self._scalars, backend.asarray(np.array(numbers), str(self._scalars.dtype)))

    def run(self, first: int, stop: int, stopping: Callable[[int], bool] = lambda _: False) -> int:
        """Run steps ``first`` to ``stop`` (exclusive), or until ``stopping``, which is told the index of the next step,
        is true. Returns that index."""
        while first < stop and not stopping(first):
            end = min(stop, first + self._captured.at_once)
            self._captured.run(first, end)
            first = end
        return first


def _same_size(bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(first batch, number of batches, samples in each) for every run of consecutive batches of equal size."""
    first = 0
    for size, batches in groupby(stop - start for start, stop in bounds):
        count = len(list(batches))
        yield first, count, size
        first += count
