"""PyTorch, eager, with autograd, in its fastest honest form found (2.13, CPU).

``F.linear``, ``relu_``, ``F.cross_entropy``, ``torch.autograd.grad`` and one ``torch._foreach_add_``: no module, no
``zero_grad``, no ``.grad`` fields. ``optim.SGD`` with fused or foreach took 1.1 to 2.4 times as long.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import cycle, islice

import numpy as np
import torch
import torch.nn.functional as F

from bench.peers import Problem, Side, pairs
from bench.peers.torch_common import torch_threads

VERSION = torch.__version__


class TorchEager:
    granularity = 1
    mode = "F.linear + F.cross_entropy + autograd.grad + _foreach_add_"

    def __init__(self, problem: Problem) -> None:
        self.threads, self.lr = problem.threads, problem.lr
        self.parameters = []
        for W, b in pairs(problem.weights):
            self.parameters += [torch.tensor(W.T.copy(), requires_grad=True), torch.tensor(b, requires_grad=True)]
        self._batches = cycle([(torch.from_numpy(X), torch.from_numpy(y)) for X, y in problem.batches])

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

    def weights(self) -> list[np.ndarray]:
        return [parameter.detach().numpy().T.copy() for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return TorchEager(problem)
