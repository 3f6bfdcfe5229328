"""PyTorch, eager, with autograd, in its fastest honest form found (2.13, CPU).

``F.linear``, ``relu_``, ``F.cross_entropy``, ``torch.autograd.grad`` and one ``torch._foreach_add_``: no module, no
``zero_grad``, no ``.grad`` fields. ``optim.SGD`` with fused or foreach took 1.1 to 2.4 times as long.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F

from bench.peers import Problem, Side, pairs
from bench.peers.torch_common import finish, host, put, stream, torch_threads

VERSION = torch.__version__


class TorchEager:
    granularity = 1
    mode = "F.linear + F.cross_entropy + autograd.grad + _foreach_add_"

    def __init__(self, problem: Problem) -> None:
        self.problem, self.threads, self.lr = problem, problem.threads, problem.lr
        self.parameters = []
        for W, b in pairs(problem.weights):
            self.parameters += [put(problem, array).requires_grad_() for array in (W.T.copy(), b)]
        self._batches = stream(problem)

    def active(self) -> AbstractContextManager[object]:
        return torch_threads(self.threads)

    def run(self, n_steps: int) -> None:
        parameters, lr = self.parameters, self.lr
        *hidden, (W_out, b_out) = pairs(parameters)
        for X, y in islice(self._batches, n_steps):
            A = X
            for W, b in hidden:
                A = F.linear(A, W, b).relu_()
            loss = F.cross_entropy(F.linear(A, W_out, b_out), y)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-lr)
        finish(self.problem)

    def weights(self) -> list[np.ndarray]:
        return [host(parameter).T.copy() for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return TorchEager(problem)
