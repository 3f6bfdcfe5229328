"""JAX: ``lax.scan`` over all batches, stacked beforehand, in one jitted call: Python is outside the loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np

from bench.peers import Problem, Side
from bench.peers.jax_common import VERSION, put, step

__all__ = ["VERSION", "make"]


class JaxScan:
    mode = "jit(lax.scan) over pre-stacked batches, donated parameters; on the CPU NPROC sets XLA's threads"

    def __init__(self, problem: Problem) -> None:
        self.granularity = len(problem.batches)
        self.parameters = [put(problem, array.copy()) for array in problem.weights]
        self._X = put(problem, np.stack([X for X, _ in problem.batches]))
        self._y = put(problem, np.stack([y for _, y in problem.batches]).astype(np.int32))
        self._position = 0

        def body(parameters: list[Any], batch: tuple[Any, Any]) -> tuple[list[Any], Any]:
            return step(problem.lr, parameters, *batch)

        self._scan = jax.jit(partial(jax.lax.scan, body), donate_argnums=0)

    def active(self) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, n_steps: int) -> None:
        parameters = self.parameters
        while n_steps:
            start, stop = self._position, min(self._position + n_steps, self.granularity)
            # A part of the stack is for the check only: it is a copy, and compiled for its own length.
            whole = stop - start == self.granularity
            batches = (self._X, self._y) if whole else (self._X[start:stop], self._y[start:stop])
            parameters, _ = self._scan(parameters, batches)
            n_steps -= stop - start
            self._position = stop % self.granularity
        self.parameters = jax.block_until_ready(parameters)

    def weights(self) -> list[np.ndarray]:
        return [np.array(parameter) for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return JaxScan(problem)
