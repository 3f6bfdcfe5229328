"""The solvers behind the estimators: epochs of steps, or SciPy's L-BFGS-B over the engine's loss and gradient.

Both take weighted samples, targets of any kind, and inputs on the device or in a sparse matrix of the host, whose rows
become dense batch by batch. L2 is scikit-learn's: ``alpha / 2 * sum W^2`` over the batch's weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from ..backend import Array, Backend, array_module, to_host
from ..engine import kernels
from ..engine.batches import batch_bounds, dropout_keys
from ..engine.mlp import MLP, add_squares, backward, forward, loss_forward
from ..engine.optimizers import SGD, AdamEpsilonHat, Gradient, Momentum, Nesterov, Optimizer
from ..engine.training import TrainingStep
from ..engine.workspace import Buffers, Workspace
from ..errors import DivergenceError

FULL_BATCH_ROWS: Final = 4096  # of a pass over all samples: bounds the memory, large enough for the BLAS


class Samples(NamedTuple):
    """What is learnt from, N samples. ``X`` with ``toarray`` is sparse and on the host, anything else on the device."""

    X: Any  # (N, D)
    targets: Array  # on the device: labels (N,), or rows (N, K)
    weights: np.ndarray | None  # (N,) on the host, >= 0; None: all 1

    @property
    def sparse(self) -> bool:
        return hasattr(self.X, "toarray")


class DenseRows:
    """A sparse matrix whose slices are dense."""

    def __init__(self, matrix: Any, dtype: str) -> None:
        self._matrix, self._dtype = matrix, dtype

    def __len__(self) -> int:
        return int(self._matrix.shape[0])

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.asarray(self._matrix[part].toarray(), self._dtype)


def is_device_array(x: Any) -> bool:
    """Whether ``x`` is an array of an array module other than NumPy."""
    return not isinstance(x, np.ndarray) and isinstance(x, getattr(array_module(x), "ndarray", ()))


def on_host(x: Any) -> Any:
    """``x``, brought down if it is an array of a device."""
    return to_host(x) if is_device_array(x) else x


def upload_rows(backend: Backend, X: Any, dtype: str) -> Any:
    """X on the device in this dtype; a sparse matrix as it is."""
    if hasattr(X, "toarray"):
        return X
    if not is_device_array(X):
        return backend.asarray(X, dtype)
    if X.dtype == dtype and X.flags.c_contiguous:
        return X
    converted = backend.xp.empty(X.shape, dtype)
    backend.xp.copyto(converted, X)
    return converted


def relative_weights(
    samples: Samples, order: np.ndarray, bounds: list[tuple[int, int]]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Each sample's weight relative to the mean of its batch, by sample; and each batch's weight, the sum.

    ``bounds`` cut ``order`` (n,) into batches. A batch of weight 0 is one to leave out.
    """
    counts = np.array([stop - start for start, stop in bounds])
    if samples.weights is None:
        return None, counts.astype(np.float64)
    ordered = samples.weights[order].astype(np.float64)
    totals = np.add.reduceat(ordered, [start for start, _ in bounds])
    means = np.where(totals > 0, totals, 1.0) / counts
    relative = np.zeros(len(samples.weights))
    relative[order] = ordered / np.repeat(means, counts)
    return relative, totals


def make_solver_optimizer(
    net: MLP, *, solver: str, alpha: float, momentum: float, nesterovs_momentum: bool,
    beta_1: float, beta_2: float, epsilon: float,
) -> Optimizer:  # fmt: skip
    """scikit-learn's "sgd" or "adam" as an optimiser of the engine."""
    if solver == "adam":
        return AdamEpsilonHat(net, alpha, beta_1, beta_2, epsilon)
    if not momentum:
        return SGD(net, alpha)
    return (Nesterov if nesterovs_momentum else Momentum)(net, alpha, momentum)


class PenalisedStep(TrainingStep):
    """A step that first notes the sum of the squared weights in ``square`` (1, 1), if there is one."""

    square: Array | None = None

    def learn(self, buffers: Buffers) -> None:
        if self.square is not None:
            add_squares(self.net, self.square, 0.0)
        super().learn(buffers)


class Epochs:
    """Epochs of steps over ``samples``. ``optimizer.l2`` is set before each: alpha over the batch's weight.

    ``output_mean`` reports the loss as a mean over outputs, too. Dropout's masks follow ``seed``.
    """

    def __init__(
        self,
        net: MLP,
        samples: Samples,
        optimizer: Optimizer,
        batch_size: int,
        alpha: float,
        *,
        dropout: float = 0.0,
        seed: int = 0,
        output_mean: bool = False,
    ) -> None:
        xp = net.backend.xp
        self.net, self.samples, self.optimizer = net, samples, optimizer
        self.batch_size, self.alpha, self.seed, self.epoch = batch_size, alpha, seed, 0
        self._scale = 1.0 / net.layers[-1] if output_mean else 1.0
        n, weighted = len(samples.targets), samples.weights is not None
        self._step = PenalisedStep(
            net,
            None if samples.sparse else samples.X,
            samples.targets,
            optimizer,
            batch_size,
            weights=xp.zeros(n, net.dtype) if weighted else None,
            dropout=dropout,
        )
        self._step.square = xp.zeros((1, 1), net.dtype) if alpha else None
        self._losses = xp.zeros(n, net.dtype)
        self._squares = xp.zeros(n, net.dtype)  # one per batch

    def run(self, order: np.ndarray, lr: float) -> float:
        """One epoch over the samples ``order`` (n,), on the host; the mean loss, of each batch before its update."""
        step, backend = self._step, self.net.backend
        xp, bounds = backend.xp, list(batch_bounds(len(order), self.batch_size))
        relative, totals = relative_weights(self.samples, order, bounds)
        if relative is not None:
            xp.copyto(step.weights, backend.asarray(relative, self.net.dtype))
        if step.keys is not None:
            xp.copyto(step.keys, backend.asarray(dropout_keys(len(self._losses), self.seed, self.epoch)))
        self._losses.fill(0)
        device_order = backend.asarray(order.astype(np.int64))
        for batch, (start, stop) in enumerate(bounds):
            if totals[batch] == 0:
                continue
            buffers = step.workspace.rows(stop - start)
            if self.samples.sparse:
                rows = self.samples.X[order[start:stop]].toarray()
                xp.copyto(buffers.A[0], backend.asarray(rows, self.net.dtype))
            self.optimizer.l2 = self.alpha / float(totals[batch])
            step.run(device_order, start, stop, lr)
            xp.copyto(self._losses[start:stop], buffers.losses)
            if step.square is not None:
                xp.copyto(self._squares[batch : batch + 1], step.square[0])
        self.epoch += 1
        loss = float(backend.to_host(xp.mean(self._losses[: len(order)], dtype="float64"))) * self._scale
        if self.alpha:
            squares = backend.to_host(self._squares[: len(bounds)]).astype(np.float64)
            counts = np.array([stop - start for start, stop in bounds])
            used = totals > 0
            loss += float(np.sum((0.5 * self.alpha * squares * counts)[used] / totals[used])) / len(order)
        return loss


class FullBatch:
    """The loss over all samples and its gradient, as a function of the flat parameters of the host.

    Walks through the samples in passes of at most ``FULL_BATCH_ROWS``, whose gradients accumulate.
    """

    def __init__(self, net: MLP, samples: Samples, alpha: float, *, output_mean: bool = False) -> None:
        xp, n = net.backend.xp, len(samples.targets)
        self.net, self.samples = net, samples
        self._scale = 1.0 / net.layers[-1] if output_mean else 1.0
        self._workspace = Workspace(
            net.backend, net.layers, net.dtype, min(n, FULL_BATCH_ROWS), weighted=samples.weights is not None
        )
        bounds = list(batch_bounds(n, self._workspace.capacity))
        relative, totals = relative_weights(samples, np.arange(n), [(0, n)])
        if totals[0] == 0:
            raise DivergenceError("nothing to learn", where="sample_weight", found="only zeros", expected="one above 0")
        self._weights = None if relative is None else net.backend.asarray(relative, net.dtype)
        self._optimizer = Gradient(net, alpha / float(totals[0]))
        self._losses, self._square = xp.zeros(n, net.dtype), xp.zeros((1, 1), net.dtype)
        self._begin: Callable[[], None] = net.backend.record(self._prepare)
        self._passes = [net.backend.record(partial(self._pass, start, stop)) for start, stop in bounds]
        self._bounds = bounds

    def _prepare(self) -> None:
        self._optimizer.prepare()
        add_squares(self.net, self._square, 0.0)

    def _pass(self, start: int, stop: int) -> None:
        """One part, whose gradient is added to what the target holds."""
        net, workspace, buffers = self.net, self._workspace, self._workspace.rows(stop - start)
        if not self.samples.sparse:
            buffers = buffers._replace(A=[self.samples.X[start:stop], *buffers.A[1:]])
        if self._weights is not None:
            buffers = buffers._replace(weights=self._weights[start:stop])
        workspace.load_targets(self.samples.targets[start:stop], buffers)
        forward(net, buffers)
        loss_forward(net, buffers)
        beta = 0.0 if start == 0 and not self._optimizer.l2 else 1.0
        share = (stop - start) / len(self._losses)
        backward(net, buffers, self._optimizer.target_views, share, beta, 0.0 if start == 0 else 1.0)
        net.backend.elementwise(kernels.copy_to)(buffers.losses, self._losses[start:stop])

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient (P,), float64, at the parameters ``flat`` (P,)."""
        net, backend = self.net, self.net.backend
        backend.xp.copyto(net.parameters, backend.asarray(flat, net.dtype))
        self._optimizer.set_rate(0.0)
        self._begin()
        for run, (start, stop) in zip(self._passes, self._bounds, strict=True):
            if self.samples.sparse:
                rows = backend.asarray(self.samples.X[start:stop].toarray(), net.dtype)
                backend.xp.copyto(self._workspace.rows(stop - start).A[0], rows)
            run()
        loss = float(backend.to_host(backend.xp.mean(self._losses, dtype="float64"))) * self._scale
        penalty = 0.5 * self._optimizer.l2 * float(backend.to_host(self._square)[0, 0])
        return loss + penalty, backend.to_host(self._optimizer.target).astype(np.float64)


def minimise(
    objective: FullBatch, *, max_iter: int, max_fun: int, tol: float, tell: Callable[[float], None] | None
) -> Any:
    """SciPy's L-BFGS-B from the network's parameters; these become the best found. SciPy's ``OptimizeResult``.

    ``tell`` is given the loss after each iteration.
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
