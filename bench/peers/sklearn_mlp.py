"""scikit-learn: the inside of ``MLPClassifier.fit``'s loop over batches, without its checks and shuffles.

``_backprop`` with its preallocated lists and ``SGDOptimizer.update_params``, exactly as ``_fit_stochastic`` calls
them (scikit-learn >= 1.7); labels are one-hot beforehand, as there. ``partial_fit`` validates its input each time and
is slower.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from itertools import islice, pairwise
from typing import Any

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

from bench.peers import PeerUnavailableError, Problem, Side, blas_threads, stream

VERSION = sklearn.__version__


class Sklearn:
    granularity = 1
    mode = "MLPClassifier._backprop + SGDOptimizer.update_params (internals of fit, float32), one-hot beforehand"

    def __init__(self, problem: Problem) -> None:
        layers = problem.layers
        model = MLPClassifier(
            hidden_layer_sizes=layers[1:-1], solver="sgd", alpha=0.0, momentum=0.0, learning_rate_init=problem.lr
        )
        if "sample_weight" not in inspect.signature(model._backprop).parameters:
            raise PeerUnavailableError(f"scikit-learn {VERSION} is older than 1.7")
        model.coefs_ = [W.copy() for W in problem.weights[::2]]
        model.intercepts_ = [b.copy() for b in problem.weights[1::2]]
        model.n_layers_, model.n_outputs_ = len(layers), layers[-1]
        model.out_activation_, model.loss = "softmax", "log_loss"
        self.model: Any = model
        self.threads = problem.threads
        n = problem.batch_size
        self._activations: list[Any] = [None, *(np.empty((n, width), np.float32) for width in layers[1:])]
        self._deltas = [np.empty_like(activation) for activation in self._activations[1:]]
        self._coef_grads = [np.empty(pair, np.float32) for pair in pairwise(layers)]
        self._intercept_grads = [np.empty(width, np.float32) for width in layers[1:]]
        self._parameters = model.coefs_ + model.intercepts_
        self._optimizer = SGDOptimizer(self._parameters, problem.lr, "constant", 0.0, False)
        self._batches = stream(problem, hot=True)

    def active(self) -> AbstractContextManager[object]:
        return blas_threads(self.threads)

    def run(self, n_steps: int) -> None:
        backprop, update, activations = self.model._backprop, self._optimizer.update_params, self._activations
        coef_grads, intercept_grads = self._coef_grads, self._intercept_grads
        for X, T in islice(self._batches, n_steps):
            activations[0] = X
            _, coef_grads, intercept_grads = backprop(
                X, T, None, activations, self._deltas, coef_grads, intercept_grads
            )
            update(self._parameters, coef_grads + intercept_grads)

    def weights(self) -> list[np.ndarray]:
        layers = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [array.copy() for layer in layers for array in layer]


def make(problem: Problem) -> Side:
    return Sklearn(problem)
