"""PyTorch with ``torch.compile``: forward, gradient and update as one graph (``torch.func.grad_and_value``).

``cpp_wrapper`` takes the graph's own Python away: 53 against 84 us at 784-128-10 batch 1, the best mode found
on the CPU; on a GPU the default mode.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.peers import PeerUnavailableError, Problem, Side, pairs
from bench.peers.torch_common import batches, finish, host, put, torch_threads

VERSION = torch.__version__


class TorchCompile:
    granularity = 1

    def __init__(self, problem: Problem, **how: Any) -> None:
        lr = problem.lr
        if not how and problem.device == "cpu":
            how = {"options": {"cpp_wrapper": True}}
        self.mode = f"torch.compile of the whole step (func.grad_and_value + in-place update), fullgraph, {how}"
        self.problem, self.threads = problem, problem.threads
        self.parameters = [put(problem, array) for array in problem.weights]

        def mean_loss(parameters: list[Any], X: Any, y: Any) -> Any:
            *hidden, (W_out, b_out) = pairs(parameters)
            for W, b in hidden:
                X = torch.addmm(b, X, W).relu()
            return F.cross_entropy(torch.addmm(b_out, X, W_out), y)

        def step(parameters: list[Any], X: Any, y: Any) -> Any:
            gradients, loss = torch.func.grad_and_value(mean_loss)(parameters, X, y)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=lr)
            return loss

        self._step = torch.compile(step, fullgraph=True, **how)
        data = batches(problem)
        self._batches = cycle(data)
        try:
            with self.active(), torch.no_grad():
                self._step([parameter.clone() for parameter in self.parameters], *data[0])
        except Exception as error:  # whatever Dynamo, Inductor or the compiler say
            line = str(error).strip().splitlines()[0][:200]
            raise PeerUnavailableError(f"torch.compile failed: {type(error).__name__}: {line}") from error

    def active(self) -> AbstractContextManager[object]:
        return torch_threads(self.threads)

    @torch.no_grad()  # type: ignore[untyped-decorator,unused-ignore]
    def run(self, n_steps: int) -> None:
        step, parameters = self._step, self.parameters
        for X, y in islice(self._batches, n_steps):
            step(parameters, X, y)
        finish(self.problem)

    def weights(self) -> list[np.ndarray]:
        return [host(parameter) for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return TorchCompile(problem)
