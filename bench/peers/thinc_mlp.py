"""thinc: ``chain(Relu, ..., Softmax)`` with ``begin_update``, ``finish_update`` and its SGD."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice, pairwise
from typing import Any

import numpy as np
import thinc
from thinc.api import SGD, NumpyOps, Relu, Softmax_v2, chain

from bench.peers import Problem, Side, blas_threads, pairs, stream

VERSION = thinc.__version__


class Thinc:
    granularity = 1
    mode = "chain(Relu, Softmax_v2), begin_update / finish_update, SGD, NumPy's BLAS; one-hot beforehand"

    def __init__(self, problem: Problem) -> None:
        self.threads = problem.threads
        # Its own BLIS, the default, has one thread and is 2 to 4 times slower than NumPy's BLAS even there.
        ops = NumpyOps(use_blis=False)
        widths = list(pairwise(problem.layers))
        self.layers: list[Any] = [Relu(n_out, n_in) for n_in, n_out in widths[:-1]]
        self.layers.append(Softmax_v2(widths[-1][1], widths[-1][0]))
        self.model = chain(*self.layers) if len(self.layers) > 1 else self.layers[0]
        self.model.initialize()
        for layer in self.model.walk():
            layer.ops = ops
        for layer, (W, b) in zip(self.layers, pairs(problem.weights), strict=True):
            layer.set_param("W", W.T.copy())
            layer.set_param("b", b.copy())
        self._optimizer = SGD(problem.lr, L2=0.0, grad_clip=0.0, use_averages=False)
        self._batches = stream(problem, hot=True)

    def active(self) -> AbstractContextManager[object]:
        return blas_threads(self.threads)

    def run(self, n_steps: int) -> None:
        model, optimizer = self.model, self._optimizer
        for X, T in islice(self._batches, n_steps):
            A, backprop = model.begin_update(X)
            np.log(np.einsum("nk,nk->n", A, T)).mean()  # the loss, which the others compute as well
            backprop((A - T) / np.float32(len(X)))
            model.finish_update(optimizer)

    def weights(self) -> list[np.ndarray]:
        return [np.array(a) for layer in self.layers for a in (layer.get_param("W").T, layer.get_param("b"))]


def make(problem: Problem) -> Side:
    return Thinc(problem)
