"""PyTorch, eager, without autograd: back-propagation by hand, the update accumulated by ``addmm_`` as in ours.

Nobody writes PyTorch so, but it is the most that its kernels give without a compiler.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import numpy as np
import torch

from bench.peers import Problem, Side, pairs
from bench.peers.torch_common import finish, host, put, stream, torch_threads

VERSION = torch.__version__
aten = torch.ops.aten


class TorchManual:
    granularity = 1
    mode = (
        "addmm, log_softmax, nll_loss and their aten backwards by hand, W.addmm_(A.t(), dZ, alpha=-lr), inference mode"
    )

    def __init__(self, problem: Problem) -> None:
        self.problem, self.threads, self.lr = problem, problem.threads, problem.lr
        self.parameters = [put(problem, array) for array in problem.weights]
        self._batches = stream(problem)
        self._one, self._total = (put(problem, np.array(number, "float32")) for number in (1.0, problem.batch_size))

    def active(self) -> AbstractContextManager[object]:
        return torch_threads(self.threads)

    @torch.inference_mode()  # type: ignore[untyped-decorator,unused-ignore]
    def run(self, n_steps: int) -> None:
        self.learn(islice(self._batches, n_steps))
        finish(self.problem)

    def learn(self, batches: Iterable[tuple[Any, Any]]) -> None:
        """The step on each batch."""
        lr, one, total = self.lr, self._one, self._total
        layers = pairs(self.parameters)
        *hidden, (W_out, b_out) = layers
        for X, y in batches:
            A = [X]
            for W, b in hidden:
                A.append(torch.addmm(b, A[-1], W).relu_())
            log_p = torch.log_softmax(torch.addmm(b_out, A[-1], W_out), 1)
            torch.nn.functional.nll_loss(log_p, y)
            dZ = aten.nll_loss_backward(one, log_p, y, None, 1, -100, total)
            dZ = aten._log_softmax_backward_data(dZ, log_p, 1, torch.float32)
            for index in range(len(layers) - 1, -1, -1):
                W, b = layers[index]
                dA = torch.mm(dZ, W.t()) if index else None
                W.addmm_(A[index].t(), dZ, alpha=-lr)
                b.sub_(dZ.sum(0), alpha=lr)
                if index:
                    dZ = aten.threshold_backward(dA, A[index], 0)

    def weights(self) -> list[np.ndarray]:
        return [host(parameter) for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return TorchManual(problem)
