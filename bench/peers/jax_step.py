"""JAX: one jitted step with donated parameters, called from Python for each batch; inputs are on the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import cycle, islice
from typing import Any

import jax
import numpy as np

from bench.peers import Problem, Side
from bench.peers.jax_common import VERSION, gather, put, resident, step

__all__ = ["VERSION", "make"]


class JaxStep:
    granularity = 1
    mode = "jit(value_and_grad + update), donated parameters, one call per batch; on the CPU NPROC sets XLA's threads"

    def __init__(self, problem: Problem) -> None:
        # Copies: donation must not touch the shared initial weights.
        self.parameters = [put(problem, array.copy()) for array in problem.weights]
        if data := resident(problem):
            samples, labels, order = data
            self._inputs: Any = cycle([(samples, labels, rows) for rows in order])

            def gather_and_step(parameters: list[Any], samples: Any, labels: Any, rows: Any) -> Any:
                return step(problem.lr, parameters, gather(samples, rows), gather(labels, rows))

            self._step = jax.jit(gather_and_step, donate_argnums=0)
        else:
            self._inputs = cycle([(put(problem, X), put(problem, y.astype(np.int32))) for X, y in problem.batches])
            self._step = jax.jit(partial(step, problem.lr), donate_argnums=0)

    def active(self) -> AbstractContextManager[object]:
        return nullcontext()

    def run(self, n_steps: int) -> None:
        parameters, step = self.parameters, self._step
        for inputs in islice(self._inputs, n_steps):
            parameters, _ = step(parameters, *inputs)
        self.parameters = jax.block_until_ready(parameters)

    def weights(self) -> list[np.ndarray]:
        return [np.array(parameter) for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return JaxStep(problem)
