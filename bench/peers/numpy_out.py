"""Plain NumPy, written with care: ``np.matmul`` and ufuncs with ``out=``, gradients in buffers, then the update."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import islice

import numpy as np

from bench.peers import Problem, Side, blas_threads, pairs, stream

VERSION = np.__version__


class NumpyOut:
    granularity = 1
    mode = "np.matmul and ufuncs with out=, nothing allocated per step but the picked losses"

    def __init__(self, problem: Problem) -> None:
        self.threads, self.lr = problem.threads, np.float32(problem.lr)
        self.parameters = [array.copy() for array in problem.weights]
        self.gradients = [np.empty_like(array) for array in problem.weights]
        n = problem.batch_size
        self._A = [np.empty((n, width), np.float32) for width in problem.layers[1:]]
        self._dA = [np.empty_like(A) for A in self._A]
        self._mask = [np.empty(A.shape, bool) for A in self._A]
        self._rows = np.empty((n, 1), np.float32)
        self._index = np.arange(n)
        self._batches = stream(problem)

    def active(self) -> AbstractContextManager[object]:
        return blas_threads(self.threads)

    def run(self, n_steps: int) -> None:
        layers, gradients = pairs(self.parameters), pairs(self.gradients)
        rows, index, scale = self._rows, self._index, np.float32(1 / len(self._rows))
        for X, y in islice(self._batches, n_steps):
            inputs = [X, *self._A[:-1]]
            for A_in, A, (W, b) in zip(inputs, self._A, layers, strict=True):
                np.matmul(A_in, W, out=A)
                np.add(A, b, out=A)
                if A is not self._A[-1]:
                    np.maximum(A, 0, out=A)
            P = self._A[-1]
            np.max(P, axis=1, keepdims=True, out=rows)
            np.subtract(P, rows, out=P)
            np.exp(P, out=P)
            np.sum(P, axis=1, keepdims=True, out=rows)
            np.divide(P, rows, out=P)
            np.log(P[index, y]).mean()  # the loss, which the others compute as well
            P[index, y] -= 1
            dZ = np.multiply(P, scale, out=self._dA[-1])
            for i in range(len(layers) - 1, -1, -1):
                dW, db = gradients[i]
                np.matmul(inputs[i].T, dZ, out=dW)
                np.sum(dZ, axis=0, out=db)
                if i:
                    np.matmul(dZ, layers[i][0].T, out=self._dA[i - 1])
                    mask = np.greater(inputs[i], 0, out=self._mask[i - 1])
                    dZ = np.multiply(self._dA[i - 1], mask, out=self._dA[i - 1])
            for p, g in zip(self.parameters, self.gradients, strict=True):
                np.multiply(g, self.lr, out=g)
                np.subtract(p, g, out=p)

    def weights(self) -> list[np.ndarray]:
        return [parameter.copy() for parameter in self.parameters]


def make(problem: Problem) -> Side:
    return NumpyOut(problem)
