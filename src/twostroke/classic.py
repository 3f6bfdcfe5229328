"""The tutorial's ``Network``: same names, shapes and results, computed by this package's batched kernels.

Samples are columns here, as in M. Nielsen's ``network.py``: ``x`` (n_in, 1), ``y`` (n_out, 1), ``weights[l]``
(n_out, n_in), ``biases[l]`` (n_out, 1). They are stacked as rows of a matrix: one product per layer, no sample loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from .backend import Array, Backend, array_module
from .data.checks import check_images
from .engine import kernels
from .engine.batches import batch_bounds, epoch_order
from .engine.epoch import Epoch
from .engine.layers import layer_views
from .engine.mlp import MLP, propagate
from .engine.optimizers import SGD
from .engine.step import TrainingStep
from .engine.workspace import Buffers, Workspace
from .errors import ConfigError, DataError

Pair: TypeAlias = tuple[Any, Any]


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), elementwise, for NumPy or CuPy arrays or a number."""
    xp = array_module(z)
    a = xp.array(z, dtype=float)
    kernels.sigmoid_forward(xp, a)
    return a


def sigmoid_prime(z: Array) -> Array:
    """The derivative sigmoid(z) (1 - sigmoid(z)), elementwise."""
    xp, a = array_module(z), sigmoid(z)
    derivative = xp.ones_like(a)
    kernels.sigmoid_backward(xp, a, derivative)
    return derivative


def _scaled(values: Any) -> np.ndarray:
    """Inputs in float64: uint8 pixels scaled to 0..1, as everywhere in this package; other numbers unchanged."""
    array = np.asarray(values)
    return array / 255.0 if array.dtype == np.uint8 else array.astype(np.float64)


class Network:
    """A network of sigmoid layers with quadratic cost: ``Network([784, 30, 10])``. uint8 samples are pixels, 0..255.

    ``sizes`` are the widths from input to output, ``dtype`` is "float64" or "float32". Weights and biases are drawn
    from N(0, 1); ``seed`` makes them and the order of samples repeatable (None: a new seed). ``backend`` is the device.
    ``weights`` and ``biases`` are host arrays; on the CPU they are views, and writing into them changes the network.
    Raises ``ConfigError`` for bad arguments; the methods raise ``DataError`` for samples of the wrong shape.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        backend: Backend | None = None,
        seed: int | None = None,
        dtype: Literal["float32", "float64"] = "float64",
    ) -> None:
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self.mlp = MLP(
            sizes, activation="sigmoid", loss="quadratic", init="normal", seed=seed, dtype=dtype, backend=backend
        )
        self.sizes = list(sizes)
        self.num_layers = len(self.sizes)
        self._epochs_seen = 0

    @property
    def weights(self) -> list[np.ndarray]:
        """One (n_out, n_in) matrix for each pair of layers."""
        return [self.mlp.backend.to_host(W).T for W in self.mlp.weights]

    @weights.setter
    def weights(self, matrices: Iterable[Any]) -> None:
        self._assign(self.mlp.weights, matrices)

    @property
    def biases(self) -> list[np.ndarray]:
        """One (n_out, 1) column for each layer after the input."""
        return [self.mlp.backend.to_host(b).T for b in self.mlp.biases]

    @biases.setter
    def biases(self, columns: Iterable[Any]) -> None:
        self._assign(self.mlp.biases, columns)

    def _assign(self, views: list[Array], values: Iterable[Any]) -> None:
        matrices = [np.asarray(value) for value in values]
        found, expected = [matrix.T.shape for matrix in matrices], [view.shape for view in views]
        if found != expected:
            raise DataError("wrong shapes", where="weights or biases", found=found, expected=expected)
        with self.mlp.backend.active():
            for view, matrix in zip(views, matrices, strict=True):
                view[...] = self.mlp.backend.asarray(matrix.T, self.mlp.dtype)

    def feedforward(self, a: Any) -> np.ndarray:
        """The outputs (n_out, N) for the columns ``a`` (n_in, N)."""
        outputs: np.ndarray = self.mlp.predict_proba(_rows(_scaled(a))).T
        return outputs

    def update(self, x: Any, y: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(nabla_b, nabla_w): the gradient of the cost 1/2 |a - y|^2 for one sample, or the sum over columns."""
        buffers = self._load(_rows(_scaled(x)), _rows(y))
        with self.mlp.backend.active():
            views = layer_views(self.mlp.backend.xp.empty_like(self.mlp.parameters), self.mlp.layers)
            self._accumulate(buffers, views, 1.0, 0.0, 0.0)
        host = self.mlp.backend.to_host
        return [host(layer.b).T for layer in views], [host(layer.W).T for layer in views]

    backprop = update

    def cost_derivative(self, output_activation: Array, y: Array) -> Array:
        """dC/da = a - y."""
        return output_activation - y

    def GD(self, training_data: Iterable[Pair], epochs: int, eta: float) -> None:
        """Full-batch gradient descent: one update per epoch, by eta times the *sum* of all gradients."""
        buffers = self._load(*self._stack(training_data))
        for j in range(epochs):
            with self.mlp.backend.active():
                self._accumulate(buffers, self.mlp.views, -eta, 1.0, 1.0)
            print(f"Epoch {j} complete")

    def SGD(
        self,
        training_data: Iterable[Pair],
        epochs: int,
        mini_batch_size: int,
        eta: float,
        lmbda: float = 0.0,
        test_data: Iterable[Pair] | None = None,
    ) -> None:
        """Mini-batch gradient descent as in Nielsen's book: updates by eta times the mean gradient of a batch.

        ``lmbda`` is the book's L2 regularisation: w <- (1 - eta lmbda / n) w - ... . With ``test_data`` the number of
        correct predictions is printed after each epoch.
        """
        if mini_batch_size < 1:
            raise ConfigError(
                "bad batch size", where="mini_batch_size", found=mini_batch_size, expected="an integer >= 1"
            )
        X, Y = self._stack(training_data)
        n, mlp = len(X), self.mlp
        test = list(test_data) if test_data is not None else None
        bounds = list(batch_bounds(n, mini_batch_size))
        with mlp.backend.active():
            X, Y = (mlp.backend.asarray(rows, mlp.dtype) for rows in (X, Y))
            rule = SGD(mlp, lmbda / n)
            batches = Epoch(TrainingStep(mlp, X, Y, rule, min(mini_batch_size, n)), bounds)
        for j in range(epochs):
            with mlp.backend.active():
                order = epoch_order(n, mlp.seed, self._epochs_seen)
                batches.begin(order, [rule.numbers(eta, 1, rule.l2)] * len(bounds))
                batches.run(0, len(bounds))
                self._epochs_seen += 1
            print(f"Epoch {j}: {self.evaluate(test)} / {len(test)}" if test else f"Epoch {j} complete")

    def evaluate(self, test_data: Iterable[Pair]) -> int:
        """The number of correct predictions for pairs (x, y); y is a class, or a one-hot column.

        With one output the prediction is 1 above 0.5, else 0.
        """
        pairs = list(test_data)
        if not pairs:
            raise DataError("no samples", where="test_data", found="an empty list", expected="(x, y) pairs")
        answers = self.mlp.predict(_scaled(np.stack([np.ravel(x) for x, _ in pairs])))
        truth = [int(np.argmax(y)) if np.size(y) > 1 else int(np.ravel(y)[0]) for _, y in pairs]
        return int((answers == np.array(truth)).sum())

    def _load(self, X: np.ndarray, Y: np.ndarray) -> Buffers:
        """Buffers with X (N, n_in) and the targets Y (N, n_out) on the device."""
        X = check_images(X, "x", self.sizes[0])
        Y = check_images(Y, "y", self.sizes[-1])
        if len(X) != len(Y):
            raise DataError("as many targets as samples are needed", where="y", found=len(Y), expected=len(X))
        backend = self.mlp.backend
        with backend.active():
            buffers = Workspace(backend, self.mlp.layers, self.mlp.dtype, len(X)).rows(len(X))
            buffers.A[0][...] = backend.asarray(X, self.mlp.dtype)
            buffers.T[...] = backend.asarray(Y, self.mlp.dtype)
        return buffers

    def _stack(self, pairs: Iterable[Pair]) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of columns (x, y) as two matrices of rows, (N, n_in) and (N, n_out), checked."""
        samples = list(pairs)
        if not samples:
            raise DataError("no samples", where="training_data", found="an empty list", expected="(x, y) pairs")
        try:
            X = _scaled(np.stack([np.ravel(x) for x, _ in samples]))
            Y = np.stack([np.ravel(y) for _, y in samples]).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(
                "not pairs of number columns",
                where="training_data",
                found=error,
                expected=f"x ({self.sizes[0]}, 1) and y ({self.sizes[-1]}, 1)",
            ) from error
        return check_images(X, "x", self.sizes[0]), check_images(Y, "y", self.sizes[-1])

    def _accumulate(self, buffers: Buffers, targets: Any, factor: float, beta: float, beta_b: float) -> None:
        """Forward and backward pass: targets <- factor * (gradient summed over rows) + beta * targets."""
        # The kernels compute the gradient of the mean loss; the tutorial's equations use the sum.
        propagate(self.mlp, buffers, targets, factor * len(buffers.losses), beta, beta_b)


def _rows(columns: Any) -> np.ndarray:
    """Columns (n, N), or a vector (n,), as rows of a C-ordered float64 matrix (N, n)."""
    array = np.asarray(columns, dtype=np.float64)
    return np.ascontiguousarray(array.reshape(len(array), -1).T)
