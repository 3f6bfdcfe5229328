"""An epoch as one piece of work: all that changes from step to step lies in the device's memory beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import numpy as np

from ..backend import Array, Epoch, Move, Steps
from .metrics import Running
from .optimizers import Optimizer
from .workspace import Buffers, Workspace


class Replay:
    """The batches ``bounds`` of every epoch, given to the device many at a time where it can take them.

    Each step finds its samples and its scalars in its row of two tables, and leaves its losses and predictions in
    ``running``. ``work(buffers)`` is a step on the batch whose sample numbers are in place.
    """

    def __init__(
        self,
        workspace: Workspace,
        optimizer: Optimizer,
        running: Running,
        bounds: Sequence[tuple[int, int]],
        work: Callable[[Buffers], None],
    ) -> None:
        self._backend, self._optimizer = workspace.backend, optimizer
        self._epoch: Epoch | None = None
        self._held: Array | None = None
        cells = optimizer.scalars.cells
        if cells is None or not bounds:
            return
        xp = self._backend.xp
        self._order = xp.empty(bounds[-1][1], "int64")
        self._scalars = xp.zeros((len(bounds), len(cells)), cells.dtype)

        def steps(first: int, count: int, n: int) -> Steps:
            buffers, start = workspace.rows(n), bounds[first][0]

            def by_step(samples: Array) -> Array:
                return samples[start : start + count * n].reshape(count, n)

            moves = [
                Move(by_step(self._order), buffers.indices, True),
                Move(self._scalars[first : first + count], cells, True),
                Move(by_step(running.losses), buffers.losses, False),
                Move(by_step(running.predictions), buffers.predictions, False),
            ]
            return Steps(partial(work, buffers), count, moves)

        self._epoch = self._backend.record_epoch([steps(*same) for same in _same_size(bounds)])

    def __bool__(self) -> bool:
        """Whether the device takes steps so. If not, they are run one by one."""
        return self._epoch is not None

    @property
    def at_once(self) -> int:
        """How many steps to run between two looks at whether to stop."""
        return self._epoch.at_once if self._epoch else 1

    def run(self, order: Array, first: int, rates: Sequence[float]) -> None:
        """The steps from ``first`` on, one for each learning rate, on the samples of ``order`` (N,)."""
        assert self._epoch is not None
        backend, stop = self._backend, first + len(rates)
        with self._optimizer.scalars.noted() as rows:
            for lr in rates:
                self._optimizer.set_rate(lr)
        if order is not self._held:
            backend.xp.copyto(self._order, order)
            self._held = order
        table = np.array(rows, self._scalars.dtype)
        backend.xp.copyto(self._scalars[first:stop], backend.asarray(table))
        self._epoch.run(first, stop)


def _same_size(bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(first batch, number of batches, samples in each) of batches that follow each other and are equally large."""
    first = 0
    for size, batches in groupby(stop - start for start, stop in bounds):
        count = len(list(batches))
        yield first, count, size
        first += count
