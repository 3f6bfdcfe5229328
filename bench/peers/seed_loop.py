"""The seed's way: samples are columns, one after the other; gradients are summed in a Python loop over the batch.

As in the tutorial, but for what all sides share here: float32, ReLU, softmax with cross-entropy, the batch's mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import cycle, islice
from typing import Any

import numpy as np

from bench.peers import Problem, Side, blas_threads, one_hot

VERSION = np.__version__


class SeedLoop:
    granularity = 1
    mode = "the seed's loop over samples (columns), nabla_w summed sample by sample, float32"

    def __init__(self, problem: Problem) -> None:
        self.threads, self.lr = problem.threads, np.float32(problem.lr)
        self.matrices = [W.T.copy() for W in problem.weights[::2]]
        self.biases = [b[:, None].copy() for b in problem.weights[1::2]]
        self._batches = self._columns(problem)

    @staticmethod
    def _columns(problem: Problem) -> Iterator[list[Any]]:
        """Batches as the tutorial has them, lists of columns: prepared, or picked from those of all samples."""

        def columns(X: np.ndarray, y: np.ndarray) -> list[Any]:
            T = one_hot(y, problem.layers[-1])
            return [(x[:, None], t[:, None]) for x, t in zip(X, T, strict=True)]

        if problem.resident is None:
            return cycle([columns(X, y) for X, y in problem.batches])
        samples = columns(problem.resident.floats(), problem.resident.labels)
        return ([samples[row] for row in rows] for rows in cycle(problem.resident.order.tolist()))

    def active(self) -> AbstractContextManager[object]:
        return blas_threads(self.threads)

    def run(self, n_steps: int) -> None:
        for batch in islice(self._batches, n_steps):
            nabla_b = [np.zeros_like(b) for b in self.biases]
            nabla_w = [np.zeros_like(w) for w in self.matrices]
            for x, y in batch:
                delta_b, delta_w = self._backprop(x, y)
                nabla_b = [nb + db for nb, db in zip(nabla_b, delta_b, strict=True)]
                nabla_w = [nw + dw for nw, dw in zip(nabla_w, delta_w, strict=True)]
            rate = self.lr / np.float32(len(batch))
            self.matrices = [w - rate * nw for w, nw in zip(self.matrices, nabla_w, strict=True)]
            self.biases = [b - rate * nb for b, nb in zip(self.biases, nabla_b, strict=True)]

    def _backprop(self, x: np.ndarray, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        activation, activations, zs = x, [x], []
        for b, w in zip(self.biases, self.matrices, strict=True):
            z = np.dot(w, activation) + b
            zs.append(z)
            activation = np.maximum(z, 0)
            activations.append(activation)
        p = np.exp(zs[-1] - zs[-1].max())
        p /= p.sum()
        np.log((p * y).sum())  # the loss, which the others compute as well
        delta = p - y
        nabla_b, nabla_w = [delta], [np.dot(delta, activations[-2].T)]
        for layer in range(2, len(self.matrices) + 1):
            delta = np.dot(self.matrices[-layer + 1].T, delta) * (zs[-layer] > 0)
            nabla_b.insert(0, delta)
            nabla_w.insert(0, np.dot(delta, activations[-layer - 1].T))
        return nabla_b, nabla_w

    def weights(self) -> list[np.ndarray]:
        layers = zip(self.matrices, self.biases, strict=True)
        return [array for w, b in layers for array in (w.T.copy(), b.ravel().copy())]


def make(problem: Problem) -> Side:
    return SeedLoop(problem)
