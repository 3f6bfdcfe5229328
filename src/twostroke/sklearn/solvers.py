"""The estimators' solvers: epochs of sgd or adam, or SciPy's L-BFGS-B with the engine's loss and gradient.

Both take sample weights, labels or target rows, and X as a device array or as a sparse host matrix, which is made dense
batch by batch. L2 is scikit-learn's: the penalty is ``alpha / 2 * sum W^2`` divided by the batch's total weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np

from ..backend import Array, Backend, Steps, array_module, to_host
from ..engine import kernels
from ..engine.batches import batch_bounds, dropout_keys
from ..engine.epoch import Epoch
from ..engine.mlp import MLP, add_squares, propagate
from ..engine.optimizers import SGD, AdamEpsilonHat, Gradient, Momentum, Nesterov, OptimizerState
from ..engine.step import TrainingStep
from ..engine.weights import relative_weights
from ..engine.workspace import Buffers, Workspace
from ..errors import DivergenceError

FULL_BATCH_ROWS: Final = 4096  # rows per pass: bounds the memory, enough for products to be fast


class Samples(NamedTuple):
    """N training samples. An ``X`` with ``toarray`` is a sparse host matrix, any other a device array."""

    X: Any  # (N, D)
    targets: Array  # on the device: labels (N,), or rows (N, K)
    weights: np.ndarray | None  # (N,) on the host, >= 0; None: all 1

    @property
    def sparse(self) -> bool:
        return hasattr(self.X, "toarray")


class DenseRows:
    """A sparse matrix that returns dense slices."""

    def __init__(self, matrix: Any, dtype: str) -> None:
        self._matrix, self._dtype = matrix, dtype

    def __len__(self) -> int:
        return int(self._matrix.shape[0])

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.asarray(self._matrix[part].toarray(), self._dtype)


def is_device_array(x: Any) -> bool:
    """Whether ``x`` is an array of another module than NumPy, such as CuPy."""
    return not isinstance(x, np.ndarray) and isinstance(x, getattr(array_module(x), "ndarray", ()))


def on_host(x: Any) -> Any:
    """``x``, downloaded if it is a device array."""
    return to_host(x) if is_device_array(x) else x


def upload_rows(backend: Backend, X: Any, dtype: str) -> Any:
    """X on the device with this dtype; a sparse matrix is returned unchanged."""
    if hasattr(X, "toarray"):
        return X
    if not is_device_array(X):
        return backend.asarray(X, dtype)
    if X.dtype == dtype and X.flags.c_contiguous:
        return X
    converted = backend.xp.empty(X.shape, dtype)
    backend.xp.copyto(converted, X)
    return converted


def make_solver_optimizer(
    net: MLP, *, solver: str, alpha: float, momentum: float, nesterovs_momentum: bool,
    beta_1: float, beta_2: float, epsilon: float,
) -> OptimizerState:  # fmt: skip
    """The engine's optimiser for scikit-learn's "sgd" or "adam"."""
    if solver == "adam":
        return AdamEpsilonHat(net, alpha, beta_1, beta_2, epsilon)
    if not momentum:
        return SGD(net, alpha)
    return (Nesterov if nesterovs_momentum else Momentum)(net, alpha, momentum)


class PenalisedStep(TrainingStep):
    """A step that stores each sample's loss (N,); and in ``squares`` (batches, 1, 1), if set, the sum of squared
    weights before each update."""

    losses: Array
    squares: Array | None = None
    square: Array | None = None

    def kept(self, buffers: Buffers) -> list[tuple[Array, Array]]:
        return [(self.losses, buffers.losses)]

    def kept_by_step(self) -> list[tuple[Array, Array]]:
        return [] if self.squares is None else [(self.squares, self.square)]

    def learn(self, buffers: Buffers) -> None:
        if self.squares is not None:
            add_squares(self.net, self.square, 0.0)
        super().learn(buffers)


class Epochs:
    """Epochs over ``n`` of the ``samples``. A batch's L2 factor is ``alpha`` / its total weight.

    ``steps`` counts the optimiser's steps. With ``output_mean`` the loss returned is a mean over outputs, too. ``seed``
    determines the dropout masks.
    """

    def __init__(
        self,
        net: MLP,
        samples: Samples,
        n: int,
        optimizer: OptimizerState,
        batch_size: int,
        alpha: float,
        *,
        steps: int = 0,
        dropout: float = 0.0,
        seed: int = 0,
        output_mean: bool = False,
    ) -> None:
        xp = net.backend.xp
        self.net, self.samples, self.optimizer = net, samples, optimizer
        self.alpha, self.steps, self.seed, self.epoch = alpha, steps, seed, 0
        self._scale = 1.0 / net.layers[-1] if output_mean else 1.0
        images = None if samples.sparse else samples.X
        weights = xp.zeros(len(samples.targets), net.dtype) if samples.weights is not None else None
        step = PenalisedStep(net, images, samples.targets, optimizer, batch_size, weights=weights, dropout=dropout)
        bounds = list(batch_bounds(n, batch_size))
        step.losses = xp.zeros(n, net.dtype)
        if alpha:
            step.squares, step.square = xp.zeros((len(bounds), 1, 1), net.dtype), xp.zeros((1, 1), net.dtype)
        self._step, self._batches = step, Epoch(step, bounds)
        self._counts = np.array([stop - start for start, stop in bounds])

    def run(self, order: np.ndarray, lr: float) -> float:
        """Train one epoch on the samples ``order`` (n,), a host array. Returns the mean loss, before each update."""
        step, backend, bounds = self._step, self.net.backend, self._batches.bounds
        xp = backend.xp
        totals = self._counts
        if self.samples.weights is not None:
            relative, totals = relative_weights(self.samples.weights, order, bounds)
            xp.copyto(step.weights, backend.asarray(relative, self.net.dtype))
        if step.keys is not None:
            xp.copyto(step.keys, backend.asarray(dropout_keys(len(step.keys), self.seed, self.epoch)))
        step.losses.fill(0)
        used = totals > 0
        number = self.steps + used.cumsum()  # each batch's step number, from 1; skipped batches do not count
        l2 = self.alpha / np.where(used, totals, np.inf)
        rows = zip(number.tolist(), l2.tolist(), strict=True)
        self._batches.begin(order, [self.optimizer.numbers(lr, max(1, step), decay) for step, decay in rows])
        batch = 0
        for is_used, same in groupby(used.tolist()):
            stop = batch + len(list(same))
            if is_used:
                self._run(order, batch, stop)
            batch = stop
        self.steps, self.epoch = int(number[-1]), self.epoch + 1
        loss = float(backend.to_host(xp.mean(step.losses, dtype="float64"))) * self._scale
        if step.squares is not None:
            squares = backend.to_host(step.squares).ravel().astype(np.float64)
            loss += 0.5 * float((l2 * squares * self._counts).sum()) / len(order)
        return loss

    def _run(self, order: np.ndarray, first: int, stop: int) -> None:
        """Run the batches ``first`` to ``stop`` (exclusive). Uploads the rows of a sparse matrix batch by batch."""
        if not self.samples.sparse:
            self._batches.run(first, stop)
            return
        for batch in range(first, stop):
            start, end = self._batches.bounds[batch]
            rows = self.net.backend.asarray(self.samples.X[order[start:end]].toarray(), self.net.dtype)
            self.net.backend.xp.copyto(self._step.workspace.rows(end - start).A[0], rows)
            self._batches.run(batch, batch + 1)


class FullBatch:
    """The loss over all samples and its gradient, as a function of a flat host array of parameters.

    The samples are processed in passes of at most ``FULL_BATCH_ROWS`` rows; their gradients accumulate.
    """

    def __init__(self, net: MLP, samples: Samples, alpha: float, *, output_mean: bool = False) -> None:
        xp, n = net.backend.xp, len(samples.targets)
        self.net, self.samples = net, samples
        self._scale = 1.0 / net.layers[-1] if output_mean else 1.0
        arrays = {"weighted": samples.weights is not None, **net.own_arrays}
        self._workspace = Workspace(net.backend, net.layers, net.dtype, min(n, FULL_BATCH_ROWS), **arrays)
        bounds = list(batch_bounds(n, self._workspace.capacity))
        relative, totals = relative_weights(samples.weights, np.arange(n), [(0, n)])
        if totals[0] == 0:
            raise DivergenceError("nothing to learn", where="sample_weight", found="only zeros", expected="one above 0")
        self._weights = None if relative is None else net.backend.asarray(relative, net.dtype)
        self._optimizer = Gradient(net, alpha / float(totals[0]))
        self._losses, self._square = xp.zeros(n, net.dtype), xp.zeros((1, 1), net.dtype)
        capture = net.backend.capture
        self._begin = capture([Steps(self._prepare)])
        self._passes = [capture([Steps(partial(self._pass, start, stop))]) for start, stop in bounds]
        self._bounds = bounds

    def _prepare(self) -> None:
        self._optimizer.prepare()
        add_squares(self.net, self._square, 0.0)

    def _pass(self, start: int, stop: int) -> None:
        """One pass over the rows ``start`` to ``stop``; adds its gradient to the target."""
        net, workspace, buffers = self.net, self._workspace, self._workspace.rows(stop - start)
        if not self.samples.sparse:
            buffers = buffers._replace(A=[self.samples.X[start:stop], *buffers.A[1:]])
        if self._weights is not None:
            buffers = buffers._replace(weights=self._weights[start:stop])
        workspace.load_targets(self.samples.targets[start:stop], buffers)
        beta = 0.0 if start == 0 and not self._optimizer.l2 else 1.0
        part = (stop - start) / len(self._losses)
        propagate(net, buffers, self._optimizer.target_views, part, beta, 0.0 if start == 0 else 1.0)
        net.backend.elementwise(kernels.copy_to)(buffers.losses, self._losses[start:stop])

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient (P,), float64, at the parameters ``flat`` (P,)."""
        net, backend = self.net, self.net.backend
        backend.xp.copyto(net.parameters, backend.asarray(flat, net.dtype))
        self._optimizer.begin_step(0.0)
        self._begin.run()
        for part, (start, stop) in zip(self._passes, self._bounds, strict=True):
            if self.samples.sparse:
                rows = backend.asarray(self.samples.X[start:stop].toarray(), net.dtype)
                backend.xp.copyto(self._workspace.rows(stop - start).A[0], rows)
            part.run()
        loss = float(backend.to_host(backend.xp.mean(self._losses, dtype="float64"))) * self._scale
        penalty = 0.5 * self._optimizer.l2 * float(backend.to_host(self._square)[0, 0])
        return loss + penalty, backend.to_host(self._optimizer.target).astype(np.float64)


def minimise(
    objective: FullBatch, *, max_iter: int, max_fun: int, tol: float, tell: Callable[[float], None] | None
) -> Any:
    """Minimise with SciPy's L-BFGS-B, from the network's parameters and into them. Returns the ``OptimizeResult``.

    ``tell(loss)`` is called after each iteration.
    """
    from scipy.optimize import minimize

    net = objective.net
    start = np.array(net.backend.to_host(net.parameters), np.float64)

    def callback(intermediate_result: Any) -> None:
        if tell is not None:
            tell(float(intermediate_result.fun))

    options = {"maxiter": max_iter, "maxfun": max_fun, "gtol": tol}
    result = minimize(objective, start, method="L-BFGS-B", jac=True, options=options, callback=callback)
    net.backend.xp.copyto(net.parameters, net.backend.asarray(result.x, net.dtype))
    return result
