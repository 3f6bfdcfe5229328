"""JAX: ``lax.scan`` over a round of batches in one jitted call: Python is outside the loop.

The batches are gathered by index inside the scan, or stacked beforehand.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np

from bench.peers import Problem, Side
from bench.peers.jax_common import VERSION, gather, put, resident, step

__all__ = ["VERSION", "make"]


class JaxScan:
    def __init__(self, problem: Problem) -> None:
        self.granularity = problem.round_steps
        self.parameters = [put(problem, array.copy()) for array in problem.weights]
        self._position = 0
        lr = problem.lr
        if data := resident(problem):
            how = "gathered by index inside"
            *self._data, order = data
            self._steps: tuple[Any, ...] = (order,)

            def learn(parameters: list[Any], rows: Any, samples: Any, labels: Any) -> tuple[list[Any], Any]:
                return step(lr, parameters, gather(samples, rows[0]), gather(labels, rows[0]))
        else:
            how = "pre-stacked"
            self._data = []
            X = np.stack([X for X, _ in problem.batches])
            y = np.stack([y for _, y in problem.batches]).astype(np.int32)
            self._steps = (put(problem, X), put(problem, y))

            def learn(parameters: list[Any], batch: Any) -> tuple[list[Any], Any]:  # type: ignore[misc]
                return step(lr, parameters, *batch)

        def scan(parameters: list[Any], steps: Any, *data: Any) -> Any:
            return jax.lax.scan(lambda carry, batch: learn(carry, batch, *data), parameters, steps)

        self.mode = f"jit(lax.scan) over batches {how}, donated parameters; on the CPU NPROC sets XLA's threads"
        self._scan = jax.jit(scan, donate_argnums=0)
        self._total = len(self._steps[0])
        starts = range(0, self._total, self.granularity)
        whole = self._total == self.granularity
        self._rounds = {
            start: self._steps if whole else tuple(array[start : start + self.granularity] for array in self._steps)
            for start in starts
        }

    def active(self) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, n_steps: int) -> None:
        parameters = self.parameters
        while n_steps:
            start = self._position
            stop = min(start + n_steps, start - start % self.granularity + self.granularity)
            # A part of a round is for the check only: it is a copy, and compiled for its own length.
            steps = self._rounds.get(start) if stop - start == self.granularity else None
            steps = steps or tuple(array[start:stop] for array in self._steps)
            parameters, _ = self._scan(parameters, steps, *self._data)
            n_steps -= stop - start
            self._position = stop % self._total
        self.parameters = jax.block_until_ready(parameters)

    def weights(self) -> list[np.ndarray]:
        return [np.array(parameter) for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return JaxScan(problem)
