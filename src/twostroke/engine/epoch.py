"""An epoch: many captured steps per call. Sample order and scalars are uploaded before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from ..backend import Array, Move, Steps
from .step import TrainingStep


class Epoch:
    """The batches ``bounds`` of every epoch, each a run of ``step``.

    Each step finds its sample numbers and its scalars in its row of two tables on the device; the arrays that
    ``step.kept`` names take up what it leaves.
    """

    def __init__(self, step: TrainingStep, bounds: Sequence[tuple[int, int]]) -> None:
        backend, cells = step.net.backend, step.optimizer.scalars.cells
        self.bounds = bounds
        self.order: Array = backend.xp.empty(bounds[-1][1], "int64")  # (N,), sample numbers
        self._step, self._backend = step, backend
        self._scalars = backend.xp.zeros((len(bounds), len(cells)), cells.dtype)
        self._captured = step.capture([self._steps(*same) for same in _same_size(bounds)])

    def _steps(self, first: int, count: int, n: int) -> Steps:
        """The ``count`` steps from batch ``first`` on, all of n samples."""
        step, start = self._step, self.bounds[first][0]
        low, high = step.share(n)
        buffers = step.workspace.rows(high - low)

        def by_step(samples: Array) -> Array:
            return samples[start : start + count * n].reshape(count, n)[:, low:high]

        moves = [
            Move(by_step(self.order), buffers.indices, True),
            Move(self._scalars[first : first + count], step.optimizer.scalars.cells, True),
            *(Move(by_step(samples), of_batch, False) for samples, of_batch in step.kept(buffers)),
            *(Move(steps[first : first + count], of_step, False) for steps, of_step in step.kept_by_step()),
        ]
        return Steps(partial(step.learn_batch, buffers, n), count, moves)

    def begin(self, order: Any, numbers: Sequence[tuple[float, ...]]) -> None:
        """Upload the sample numbers ``order`` (N,), an array of the host, and the optimiser's numbers of every step."""
        backend = self._backend
        backend.xp.copyto(self.order, backend.asarray(order, "int64"))
        backend.xp.copyto(self._scalars, backend.asarray(np.array(numbers), str(self._scalars.dtype)))

    def run(self, first: int, stop: int, stopping: Callable[[], bool] = lambda: False) -> int:
        """The steps from ``first`` up to ``stop``, or until ``stopping``; the number of the next one."""
        while first < stop and not stopping():
            end = min(stop, first + self._captured.at_once)
            self._captured.run(first, end)
            first = end
        return first


def _same_size(bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(first batch, number of batches, samples in each) of batches that follow each other and are equally large."""
    first = 0
    for size, batches in groupby(stop - start for start, stop in bounds):
        count = len(list(batches))
        yield first, count, size
        first += count
