"""The maths: forward/backward pairs of pure functions, written once for NumPy and CuPy arrays.

Rows are samples. One letter has one meaning:

    X (N, D)  inputs          W (D, K)  weights        b (1, K)  biases
    Z (N, K)  X W + b         A (N, K)  f(Z)           T (N, K)  targets (one-hot rows for classes)
    dV        derivative of the loss with respect to V, shaped like V; dZ is Nielsen's delta

The equations of back-propagation (Nielsen, "Neural Networks and Deep Learning", chapter 2), transposed,
because samples are rows here:

    BP1  dZ_L = dA_L * f'(Z_L)              loss backward, then activation backward
    BP2  dZ_l = (dZ_(l+1) W_(l+1)^T) * f'(Z_l)    affine_backward_input, then activation backward
    BP3  db_l = 1^T dZ_l                    affine_backward_parameters
    BP4  dW_l = A_(l-1)^T dZ_l              affine_backward_parameters

Kernels with ``xp`` as first argument are elementwise: ``backend.elementwise`` binds them to a device, which
may compile them together. The others take the backend. All write into arrays that they are given and
allocate nothing. The docstring names every argument that is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..backend import Array, Backend, Kernel
from .arguments import choice
from .kinds import Activation, Loss

# --- inputs and targets ---------------------------------------------------------------------------------


def scale_pixels(xp: Any, pixels: Array, X: Array, white: Any) -> None:
    """X <- pixels / white: uint8 0..255 to 0..1. white is 255 in X's dtype, so the division is done in that dtype."""
    xp.divide(pixels, white, out=X)


def one_hot(xp: Any, labels: Array, classes: Array, T: Array) -> None:
    """T <- [label == class]. labels (N, 1), classes (1, K) of the same dtype, T (N, K)."""
    xp.equal(labels, classes, out=T)


def copy_to(xp: Any, rows: Array, out: Array) -> None:
    """out <- rows; converts between C and Fortran order."""
    xp.multiply(rows, 1, out=out)


# --- affine: Z = X W (+ b) ------------------------------------------------------------------------------


def affine_forward(backend: Backend, X: Array, W: Array, Z: Array) -> None:
    """Z <- X W. X (N, D), W (D, K), Z (N, K). The activation's kernel adds the bias in the same pass."""
    backend.gemm(X, W, Z)


def affine_backward_input(backend: Backend, dZ: Array, W: Array, dX: Array) -> None:
    """dX <- dZ W^T (BP2). dZ (N, K), W (D, K), dX (N, D)."""
    backend.gemm(dZ, W.T, dX)


def affine_backward_parameters(
    backend: Backend, X: Array, dZ: Array, ones: Array, dW: Array, db: Array, alpha: float, beta: float, beta_b: float
) -> None:
    """dW <- alpha X^T dZ + beta dW and db <- alpha 1^T dZ + beta_b db (BP4, BP3). ones (1, N).

    The optimiser chooses dW and db: where they are the weights and biases themselves and alpha = -lr, beta = 1, this
    *is* the gradient descent step.
    """
    backend.gemm(X.T, dZ, dW, alpha, beta)
    backend.gemm(ones, dZ, db, alpha, beta_b)


# --- activations: forward Z -> A in place; backward (A, dA) -> dA becomes dZ, A becomes scratch ----------


def identity_forward(xp: Any, Z: Array) -> None:
    """A = Z."""


def identity_backward(xp: Any, A: Array, dA: Array) -> None:
    """dZ = dA."""


def relu_forward(xp: Any, Z: Array) -> None:
    """A = max(0, Z)."""
    xp.maximum(Z, 0, out=Z)


def relu_backward(xp: Any, A: Array, dA: Array) -> None:
    """dZ = dA * [A > 0]. A is overwritten."""
    xp.greater(A, 0, out=A)
    xp.multiply(dA, A, out=dA)


def sigmoid_forward(xp: Any, Z: Array) -> None:
    """A = 1 / (1 + exp(-Z)) = tanh(Z / 2) / 2 + 1 / 2: no overflow, and exactly 0 or 1 when saturated."""
    xp.multiply(Z, 0.5, out=Z)
    xp.tanh(Z, out=Z)
    xp.multiply(Z, 0.5, out=Z)
    xp.add(Z, 0.5, out=Z)


def sigmoid_backward(xp: Any, A: Array, dA: Array) -> None:
    """dZ = dA * A * (1 - A). A is overwritten."""
    xp.multiply(dA, A, out=dA)
    xp.subtract(1.0, A, out=A)
    xp.multiply(dA, A, out=dA)


def tanh_forward(xp: Any, Z: Array) -> None:
    """A = tanh(Z)."""
    xp.tanh(Z, out=Z)


def tanh_backward(xp: Any, A: Array, dA: Array) -> None:
    """dZ = dA * (1 - A^2). A is overwritten."""
    xp.multiply(A, A, out=A)
    xp.subtract(1.0, A, out=A)
    xp.multiply(dA, A, out=dA)


# To add an activation: write its two kernels above and its row here (see CONTRIBUTING.md).
ACTIVATIONS: Final[dict[str, Activation]] = {
    row: row
    for row in (
        Activation("identity", identity_forward, identity_backward, onnx="", in_place=True),
        Activation("relu", relu_forward, relu_backward, init="he", onnx="Relu", in_place=True),
        Activation("sigmoid", sigmoid_forward, sigmoid_backward, onnx="Sigmoid", in_place=True),
        Activation("tanh", tanh_forward, tanh_backward, onnx="Tanh", in_place=True),
    )
}
Activation.taken = frozenset(ACTIVATIONS)


# --- dropout: each hidden unit of each sample is zeroed with probability p, the others are scaled by 1 / (1 - p) ------


def dropout_mask(
    xp: Any, keys: Array, units: Array, mask: Array, bits: Array, shifted: Array, threshold: int, scale: Array
) -> None:
    """mask <- scale * [hash(keys + units) >= threshold]: scale = 1 / (1 - p), threshold = p 2^32.

    All uint32: keys (N, 1), a random number per sample; units (1, K), a number per unit; bits and shifted (N, K),
    scratch. scale (1, 1). The mask depends only on key and unit, not on the batch or the device. The hash is
    "lowbias32" of C. Wellons's hash-prospector: flipping one input bit flips about half of the output bits.
    """
    xp.add(keys, units, out=bits)
    xp.right_shift(bits, 16, out=shifted)
    xp.bitwise_xor(bits, shifted, out=bits)
    xp.multiply(bits, 0x7FEB352D, out=bits)
    xp.right_shift(bits, 15, out=shifted)
    xp.bitwise_xor(bits, shifted, out=bits)
    xp.multiply(bits, 0x846CA68B, out=bits)
    xp.right_shift(bits, 16, out=shifted)
    xp.bitwise_xor(bits, shifted, out=bits)
    xp.greater_equal(bits, threshold, out=mask)
    xp.multiply(mask, scale, out=mask)


def dropout_backward(xp: Any, mask: Array, keep: Array, A: Array, dA: Array) -> None:
    """dA <- dA * mask, and A <- A * keep, which undoes the scaling: f' is a function of the unscaled A. keep (1, 1)."""
    xp.multiply(dA, mask, out=dA)
    xp.multiply(A, keep, out=A)


# --- softmax: rows ---------------------------------------------------------------------------------------


def exp_shifted(xp: Any, Z: Array, top: Array) -> None:
    """Z <- exp(Z - top), top (N, 1) the row maxima: exponents are <= 0, so nothing overflows."""
    xp.subtract(Z, top, out=Z)
    xp.exp(Z, out=Z)


def divide_rows(xp: Any, A: Array, total: Array) -> None:
    """A <- A / total, total (N, 1)."""
    xp.divide(A, total, out=A)


def softmax_forward(backend: Backend, Z: Array, rows: Array) -> None:
    """Z <- softmax of each row of Z (N, K). rows (N,) is scratch."""
    xp = backend.xp
    xp.max(Z, axis=1, out=rows)
    backend.elementwise(exp_shifted)(Z, rows[:, None])
    xp.sum(Z, axis=1, out=rows)
    backend.elementwise(divide_rows)(Z, rows[:, None])


def times(xp: Any, A: Array, B: Array, out: Array) -> None:
    """out <- A * B."""
    xp.multiply(A, B, out=out)


def softmax_jacobian(xp: Any, A: Array, rows: Array, dA: Array) -> None:
    """dA <- A * (dA - rows), rows (N, 1) the sums of dA * A."""
    xp.subtract(dA, rows, out=dA)
    xp.multiply(dA, A, out=dA)


def softmax_backward(backend: Backend, A: Array, dA: Array, scratch: Array, rows: Array) -> None:
    """dA becomes dZ_i = A_i (dA_i - sum_j dA_j A_j). All (N, K); scratch (N, K) and rows (N,) are overwritten."""
    backend.elementwise(times)(dA, A, scratch)
    backend.xp.sum(scratch, axis=1, out=rows)
    backend.elementwise(softmax_jacobian)(A, rows[:, None], dA)


# --- losses: forward gives one loss per sample; only `residual` divides by the batch size -----------------


def residual(xp: Any, A: Array, T: Array, out: Array, scale: float) -> None:
    """out <- (A - T) * scale with scale = 1/N.

    This is dA of the quadratic loss. It is dZ of a loss with its matching output, where f' cancels: cross-entropy
    with softmax (one class per sample) or sigmoid (independent outputs), Poisson with exp.
    """
    xp.subtract(A, T, out=out)
    xp.multiply(out, scale, out=out)


def half_square(xp: Any, A: Array, T: Array, out: Array) -> None:
    """out <- (A - T)^2 / 2."""
    xp.subtract(A, T, out=out)
    xp.multiply(out, out, out=out)
    xp.multiply(out, 0.5, out=out)


def sum_of_terms(
    backend: Backend, terms: Kernel, A: Array, T: Array, losses: Array, scratch: Array, *spare: Array
) -> None:
    """losses <- sum_k terms(A, T) per row. A, T, scratch, spare (N, K), losses (N,). scratch, spare are overwritten."""
    backend.elementwise(terms)(A, T, scratch, *spare)
    backend.xp.sum(scratch, axis=1, out=losses)


def quadratic_forward(backend: Backend, A: Array, T: Array, losses: Array, scratch: Array) -> None:
    """losses <- 1/2 sum_k (A - T)^2 per row. A, T, scratch (N, K), losses (N,). scratch is overwritten."""
    sum_of_terms(backend, half_square, A, T, losses, scratch)


def shift_and_pick(xp: Any, Z: Array, top: Array, T: Array, picked: Array) -> None:
    """Z <- Z - top, then picked <- Z * T: for one-hot T the target's shifted logit, the rest zero."""
    xp.subtract(Z, top, out=Z)
    xp.multiply(Z, T, out=picked)


def exponential(xp: Any, Z: Array) -> None:
    """Z <- exp(Z)."""
    xp.exp(Z, out=Z)


def log_minus(xp: Any, total: Array, losses: Array) -> None:
    """losses <- log(total) - losses. total is overwritten."""
    xp.log(total, out=total)
    xp.subtract(total, losses, out=losses)


def softmax_cross_entropy_forward(
    backend: Backend, Z: Array, T: Array, losses: Array, scratch: Array, rows: Array
) -> None:
    """losses <- -sum_k T_k log softmax(Z)_k, and Z <- softmax(Z). Rows of T sum to 1.

    Computed by log-sum-exp, log sum exp(Z - max) - sum T (Z - max): no epsilon, no clipping.
    Z, T, scratch (N, K), losses, rows (N,). Z, scratch and rows are overwritten. Backward: ``residual``.
    """
    xp = backend.xp
    xp.max(Z, axis=1, out=rows)
    backend.elementwise(shift_and_pick)(Z, rows[:, None], T, scratch)
    xp.sum(scratch, axis=1, out=losses)
    backend.elementwise(exponential)(Z)
    xp.sum(Z, axis=1, out=rows)
    backend.elementwise(divide_rows)(Z, rows[:, None])
    backend.elementwise(log_minus)(rows, losses)


def softplus(xp: Any, Z: Array, out: Array) -> None:
    """out <- log(1 + exp(Z)) without overflow."""
    xp.logaddexp(Z, 0.0, out=out)


def sigmoid_cross_entropy_forward(
    backend: Backend, Z: Array, T: Array, losses: Array, scratch: Array, rows: Array
) -> None:
    """losses <- sum_k log(1 + exp(Z_k)) - T_k Z_k, and Z <- sigmoid(Z).

    This is -sum T log A + (1 - T) log(1 - A) (Nielsen, chapter 3, equation 63) in a form that stays finite where the
    output saturates. Z, T, scratch (N, K), losses, rows (N,). scratch and rows are overwritten. Backward: ``residual``.
    """
    xp = backend.xp
    backend.elementwise(times)(Z, T, scratch)
    xp.sum(scratch, axis=1, out=rows)
    backend.elementwise(softplus)(Z, scratch)
    xp.sum(scratch, axis=1, out=losses)
    xp.subtract(losses, rows, out=losses)
    backend.elementwise(sigmoid_forward)(Z)


def poisson_terms(xp: Any, Z: Array, T: Array, out: Array) -> None:
    """out <- T (log T - Z - 1) + exp(Z), with 0 log 0 = 0, and Z <- exp(Z)."""
    xp.maximum(T, 1e-30, out=out)
    xp.log(out, out=out)
    xp.subtract(out, Z, out=out)
    xp.subtract(out, 1.0, out=out)
    xp.multiply(out, T, out=out)
    xp.exp(Z, out=Z)
    xp.add(out, Z, out=out)


def poisson_forward(backend: Backend, Z: Array, T: Array, losses: Array, scratch: Array, rows: Array) -> None:
    """losses <- sum_k T log(T / A) - T + A, and Z <- A = exp(Z): half the Poisson deviance of counts T >= 0.

    Z, T, scratch (N, K), losses (N,). Z and scratch are overwritten. Backward: ``residual``.
    """
    backend.elementwise(poisson_terms)(Z, T, scratch)
    backend.xp.sum(scratch, axis=1, out=losses)


# --- which loss goes with which output --------------------------------------------------------------------


class LossKernels(NamedTuple):
    """A loss with one output activation, on logits Z (N, K). All three functions may overwrite rows (N,) and
    scratch (N, K).

    ``outputs(backend, Z, rows)``: Z <- A, the outputs.
    ``losses(backend, Z, T, losses, scratch, rows)``: losses (N,) <- one loss per row, and Z <- A.
    ``delta(backend, A, dA, scratch, rows)``: dA, the ``residual``, becomes dZ. A is overwritten.
    ``onnx`` is the ONNX operator that computes A from Z ("": none is needed). ``gradient(xp, A, T, out, scale)``
    gives the dA of ``delta`` in place of ``residual``. With ``spare`` they and ``losses`` take one more (N, K) array.
    """

    outputs: Callable[..., None]
    losses: Callable[..., None]
    delta: Callable[..., None]
    onnx: str | None
    gradient: Kernel | None = None
    spare: bool = False


def _residual_is_delta(backend: Backend, A: Array, dA: Array, scratch: Array, rows: Array) -> None:
    """dZ = dA, because f' cancels."""


def _elementwise(kernel: Kernel) -> Callable[..., None]:
    """An ``outputs`` function: Z <- kernel(Z)."""
    return lambda backend, Z, rows: backend.elementwise(kernel)(Z)


def _of_outputs(terms: Kernel, **own: Any) -> dict[str, LossKernels]:
    """A loss that sums ``terms(xp, A, T, out)``, with every output but exp. The rest of its rows is ``own``."""

    def row(outputs: Callable[..., None], delta: Callable[..., None], onnx: str | None) -> LossKernels:
        def losses(
            backend: Backend, Z: Array, T: Array, losses: Array, scratch: Array, rows: Array, *spare: Array
        ) -> None:
            outputs(backend, Z, rows)
            sum_of_terms(backend, terms, Z, T, losses, scratch, *spare)

        return LossKernels(outputs, losses, delta, onnx, **own)

    def elementwise_delta(activation: Activation) -> Callable[..., None]:
        return lambda backend, A, dA, scratch, rows: backend.elementwise(activation.backward)(A, dA)

    by_name = {
        name: row(_elementwise(one.forward), elementwise_delta(one), one.onnx) for name, one in ACTIVATIONS.items()
    }
    first = {"sigmoid": by_name.pop("sigmoid")}
    return first | by_name | {"softmax": row(softmax_forward, softmax_backward, "Softmax")}


# loss -> output -> kernels. The first output of a loss is its default. Cross-entropy and Poisson allow only outputs
# whose derivative cancels; the quadratic loss allows any but exp.
LOSSES: Final[dict[str, dict[str, LossKernels]]] = {
    "cross-entropy": {
        "softmax": LossKernels(softmax_forward, softmax_cross_entropy_forward, _residual_is_delta, "Softmax"),
        "sigmoid": LossKernels(
            _elementwise(sigmoid_forward), sigmoid_cross_entropy_forward, _residual_is_delta, "Sigmoid"
        ),
    },
    "quadratic": _of_outputs(half_square),
    "poisson": {"exp": LossKernels(_elementwise(exponential), poisson_forward, _residual_is_delta, "Exp")},
}
Loss.taken = frozenset(LOSSES)


def loss_rows(loss: str) -> dict[str, LossKernels]:
    """The kernels of a loss by output, the default first: a row of the table, or those of a user's ``Loss``."""
    if not isinstance(loss, Loss):
        return LOSSES[loss]
    if not loss.rows:  # once: a device keeps what it binds by the function
        rows = _of_outputs(loss.forward, gradient=loss.gradient, spare=True)
        first = choice("output", loss.output, rows)
        loss.rows = {first: rows[first], **rows}
    return loss.rows
