"""Four proofs for every kernel: numbers worked by hand, central differences, invariants, parity of the backends."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gradcheck import central_differences, relative_error
from tests.support.strict_device import plant_fake_cupy
from twostroke import MLP, select_backend
from twostroke.backend import Backend
from twostroke.engine import kernels
from twostroke.engine.kernels import ACTIVATIONS
from twostroke.engine.layers import layer_views
from twostroke.engine.mlp import backward, forward, loss_forward
from twostroke.engine.workspace import Workspace

LIMIT = {"float32": 5e-6, "float64": 1e-12}
Up = Callable[..., Any]
Down = Callable[[Any], np.ndarray]
orders = pytest.mark.parametrize("order", ["C", "F"])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
activations = pytest.mark.parametrize("name", sorted(ACTIVATIONS))


def assert_close(found: np.ndarray, expected: Any, limit: float = 1e-15) -> None:
    assert relative_error(found, np.array(expected)) <= limit, f"{found} is not {expected}"


# --- 1. numbers worked by hand ----------------------------------------------------------------------------


def test_scale_pixels_by_hand(backend: Backend, up: Up, down: Down) -> None:
    X = up(np.full((1, 4), np.nan))
    backend.elementwise(kernels.scale_pixels)(up([[0, 51, 204, 255]], "uint8"), X, np.float64(255))
    assert down(X).tolist() == [[0.0, 0.2, 0.8, 1.0]]  # 51 / 255 = 1 / 5


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_one_hot_by_hand(backend: Backend, up: Up, down: Down, dtype: str) -> None:
    T = up(np.full((2, 3), np.nan), order="F")
    backend.elementwise(kernels.one_hot)(up([[2], [0]], dtype), up([[0, 1, 2]], dtype), T)
    assert down(T).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_copy_to_by_hand(backend: Backend, up: Up, down: Down) -> None:
    out = up(np.full((2, 3), np.nan), order="F")
    backend.elementwise(kernels.copy_to)(up([[1, 2, 3], [4, 5, 6]]), out)
    assert down(out).tolist() == [[1, 2, 3], [4, 5, 6]]


def lowbias32(x: int) -> int:
    """The published hash, on Python's integers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ x >> shift) * factor % 2**32
    return x


@orders
def test_dropout_mask_by_hand(backend: Backend, up: Up, down: Down, order: str) -> None:
    """Each element from the definition; sums of key and unit wrap around at 2^32."""
    keys, units = [1, 2**32 - 1, 123456789], [0, 7, 2**31]
    hashes = [[lowbias32((key + unit) % 2**32) for unit in units] for key in keys]
    threshold = sorted(x for row in hashes for x in row)[4]
    mask, *bits = (up(np.zeros((3, 3)), dtype, order) for dtype in ("float64", "uint32", "uint32"))
    row, column = up([[key] for key in keys], "uint32"), up([units], "uint32")
    backend.elementwise(kernels.dropout_mask)(row, column, mask, *bits, threshold, up([[4]]))
    assert down(mask).tolist() == [[4.0 * (x >= threshold) for x in row] for row in hashes]


def test_dropout_backward_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # keep = 1/2, mask 0 or 2: A = 6 was 3 before it was scaled, dA = 5 becomes 10; the other unit was left out
    A, dA = up([[6, 0]]), up([[5, 7]])
    backend.elementwise(kernels.dropout_backward)(up([[2, 0]]), up([[0.5]]), A, dA)
    assert (down(A).tolist(), down(dA).tolist()) == ([[3, 0]], [[10, 0]])


def test_poisson_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # A = exp(ln 2) = 2: T = 4: 4 ln(4/2) - 4 + 2; T = 0: 0 - 0 + 2. A = T = 1: 0
    Z, losses, scratch = up([[log(2), 0.0], [log(2), 0.0]], order="F"), up([0, 0]), up(np.zeros((2, 2)), order="F")
    kernels.poisson_forward(backend, Z, up([[4, 1], [0, 1]], order="F"), losses, scratch, up([0, 0]))
    assert_close(down(losses), [4 * log(2) - 2, 2])
    assert_close(down(Z), [[2, 1], [2, 1]])


def test_affine_forward_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # (1, 2) [[1, 2, 3], [4, 5, 6]] = (1 + 8, 2 + 10, 3 + 12); (0, -1) picks minus the second row
    Z = up(np.full((2, 3), np.nan))
    kernels.affine_forward(backend, up([[1, 2], [0, -1]]), up([[1, 2, 3], [4, 5, 6]]), Z)
    assert down(Z).tolist() == [[9, 12, 15], [-4, -5, -6]]


def test_affine_backward_input_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # (1, 0, -1) W^T = (1 - 3, 4 - 6)
    dX = up(np.full((1, 2), np.nan))
    kernels.affine_backward_input(backend, up([[1, 0, -1]]), up([[1, 2, 3], [4, 5, 6]]), dX)
    assert down(dX).tolist() == [[-2, -2]]


def test_affine_backward_parameters_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # X^T dZ = [[1 + 3 * 10], [2 + 4 * 10]] = [[31], [42]]; 1^T dZ = 11
    # dW = -1/2 (31, 42) + 2 (100, 200) = (184.5, 379);  db = -1/2 11 + 3 * 7 = 15.5
    dW, db = up([[100], [200]]), up([[7]])
    X, dZ, ones = up([[1, 2], [3, 4]]), up([[1], [10]]), up([[1, 1]])
    kernels.affine_backward_parameters(backend, X, dZ, ones, dW, db, -0.5, 2.0, 3.0)
    assert down(dW).tolist() == [[184.5], [379.0]]
    assert down(db).tolist() == [[15.5]]


# z = -2, 0 and ln 3: sigmoid(ln 3) = 1 / (1 + 1/3) = 3/4, tanh(ln 3) = (3 - 1/3) / (3 + 1/3) = 4/5,
# sigmoid' = 3/4 * 1/4 = 3/16, tanh' = 1 - 16/25 = 9/25. ReLU's derivative at 0 is taken as 0.
BY_HAND = {
    "identity": ([-2.0, 0.0, log(3)], [1, 1, 1]),
    "relu": ([0.0, 0.0, log(3)], [0, 0, 1]),
    "sigmoid": ([1 / (1 + np.exp(2)), 1 / 2, 3 / 4], [np.exp(2) / (1 + np.exp(2)) ** 2, 1 / 4, 3 / 16]),
    "tanh": ([-np.tanh(2), 0, 4 / 5], [1 - np.tanh(2) ** 2, 1, 9 / 25]),
}


@activations
def test_activations_by_hand(backend: Backend, up: Up, down: Down, name: str) -> None:
    assert name in BY_HAND, f"add to BY_HAND the values and slopes of {name} at -2, 0 and ln 3, worked by hand"
    value, slope = BY_HAND[name]
    activation = ACTIVATIONS[name]
    A, dA = up([[-2.0, 0.0, log(3)]]), up([[10.0, 10.0, 10.0]])
    backend.elementwise(activation.forward)(A)
    assert_close(down(A), [value])
    backend.elementwise(activation.backward)(A, dA)
    assert_close(down(dA), 10 * np.array([slope]))
    # The same with a bias: z = (-3 + 1, -1 + 1, ln 3 - 1 + 1), in two rows that share it.
    Z, b = up([[-3.0, -1.0, log(3) - 1]] * 2), up([[1.0, 1.0, 1.0]])
    backend.elementwise(activation.biased_forward)(Z, b)
    assert_close(down(Z), [value] * 2)
    assert down(b).tolist() == [[1, 1, 1]]


def test_softmax_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # exp(0) : exp(ln 3) = 1 : 3; exp(ln 2) : exp(ln 6) = 2 : 6, the same
    Z, rows = up([[0, log(3)], [log(2), log(6)]], order="F"), up([0, 0])
    kernels.softmax_forward(backend, Z, rows)
    assert_close(down(Z), [[1 / 4, 3 / 4]] * 2)
    # dA = (1, 0): sum dA A = 1/4, dZ = (1/4 (1 - 1/4), 3/4 (0 - 1/4)) = (3/16, -3/16)
    dA, scratch = up([[1, 0]] * 2, order="F"), up(np.full((2, 2), np.nan))
    kernels.softmax_backward(backend, Z, dA, scratch, rows)
    assert_close(down(dA), [[3 / 16, -3 / 16]] * 2)


def test_softmax_parts_by_hand(backend: Backend, up: Up, down: Down) -> None:
    Z = up([[1, 1 + log(2)]])
    backend.elementwise(kernels.exp_shifted)(Z, up([[1]]))
    assert_close(down(Z), [[1, 2]])
    backend.elementwise(kernels.divide_rows)(Z, up([[4]]))
    assert_close(down(Z), [[1 / 4, 1 / 2]])
    out = up(np.full((1, 2), np.nan))
    backend.elementwise(kernels.times)(Z, up([[8, 10]]), out)
    assert_close(down(out), [[2, 5]])
    backend.elementwise(kernels.softmax_jacobian)(out, up([[1]]), Z)  # 2 (1/4 - 1), 5 (1/2 - 1)
    assert_close(down(Z), [[-3 / 2, -5 / 2]])


def test_loss_parts_by_hand(backend: Backend, up: Up, down: Down) -> None:
    out = up(np.full((1, 2), np.nan))
    backend.elementwise(kernels.residual)(up([[3, 5]]), up([[1, 9]]), out, 0.5)  # (3 - 1) / 2, (5 - 9) / 2
    assert down(out).tolist() == [[1, -2]]
    backend.elementwise(kernels.half_square)(up([[3, 5]]), up([[1, 9]]), out)  # 4 / 2, 16 / 2
    assert down(out).tolist() == [[2, 8]]
    Z = up([[1, 3]])
    backend.elementwise(kernels.shift_and_pick)(Z, up([[3]]), up([[1, 0]]), out)
    assert (down(Z).tolist(), down(out).tolist()) == ([[-2, 0]], [[-2, 0]])
    backend.elementwise(kernels.exponential)(Z)
    assert_close(down(Z), [[np.exp(-2), 1]])
    losses = up([[2, 3]])
    backend.elementwise(kernels.log_minus)(up([[1, np.exp(5)]]), losses)  # 0 - 2, 5 - 3
    assert_close(down(losses), [[-2, 2]])
    backend.elementwise(kernels.softplus)(up([[0, log(3)]]), out)  # log(1 + 1), log(1 + 3)
    assert_close(down(out), [[log(2), log(4)]])


def test_quadratic_loss_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # 1/2 ((1 - 0)^2 + (2 - 4)^2) = 5/2; residuals of both signs do not cancel: 1/2 (1 + 1) = 1
    losses = up([0, 0])
    A, T = up([[1, 2], [1, -1]], order="F"), up([[0, 4], [0, 0]], order="F")
    kernels.quadratic_forward(backend, A, T, losses, up(np.full((2, 2), np.nan), order="F"))
    assert down(losses).tolist() == [2.5, 1.0]
    assert down(A).tolist() == [[1, 2], [1, -1]]


def test_softmax_cross_entropy_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # softmax = (1/4, 3/4): -log 1/4 = log 4 for class 0, log 4/3 for class 1, half of each for a half target
    Z = up([[0, log(3)]] * 3, order="F")
    T = up([[1, 0], [0, 1], [0.5, 0.5]], order="F")
    losses, scratch, rows = up([0, 0, 0]), up(np.full((3, 2), np.nan), order="F"), up([0, 0, 0])
    kernels.softmax_cross_entropy_forward(backend, Z, T, losses, scratch, rows)
    assert_close(down(losses), [log(4), log(4 / 3), (log(4) + log(4 / 3)) / 2])
    assert_close(down(Z), [[1 / 4, 3 / 4]] * 3)


def test_sigmoid_cross_entropy_by_hand(backend: Backend, up: Up, down: Down) -> None:
    # sigmoid = (1/2, 3/4), T = (1, 0): -log 1/2 - log(1 - 3/4) = log 2 + log 4 = log 8
    Z, T, losses = up([[0, log(3)]]), up([[1, 0]]), up([0])
    kernels.sigmoid_cross_entropy_forward(backend, Z, T, losses, up(np.full((1, 2), np.nan)), up([0]))
    assert_close(down(losses), [log(8)])
    assert_close(down(Z), [[1 / 2, 3 / 4]])


def test_the_seeds_chain_by_hand(backend: Backend, up: Up, down: Down) -> None:
    """One neuron per layer, sigmoid, quadratic loss: the four equations of the seed text (S6).

    x = 2, w_h = ln(3) / 2, b_h = 0:  z_h = ln 3, y_h = 3/4, f'(z_h) = 3/4 * 1/4 = 3/16
    w_o = 4, b_o = -3:                z_o = 0,    y_o = 1/2, f'(z_o) = 1/4
    target 1:                         loss = 1/2 (1/2 - 1)^2 = 1/8
    delta_o = (y_o - 1) f'(z_o) = -1/2 * 1/4 = -1/8
    dL/dw_o = delta_o y_h = -1/8 * 3/4 = -3/32        dL/db_o = delta_o = -1/8
    delta_h = w_o delta_o f'(z_h) = 4 * -1/8 * 3/16 = -3/32
    dL/dw_h = delta_h x = -3/16                       dL/db_h = delta_h = -3/32
    """
    net = MLP([1, 1, 1], "sigmoid", "quadratic", dtype="float64", backend=backend)
    backend.xp.copyto(net.parameters, up([log(3) / 2, 0, 4, -3]))
    buffers = Workspace(backend, net.layers, net.dtype, 1).rows(1)
    buffers.A[0][...] = up([[2]])
    buffers.T[...] = up([[1]])
    forward(net, buffers)
    assert_close(down(buffers.A[1]), [[3 / 4]])
    assert down(buffers.A[2]).tolist() == [[0]]  # z_o: the loss turns logits into outputs
    loss_forward(net, buffers)
    assert_close(down(buffers.A[2]), [[1 / 2]])
    assert_close(down(buffers.losses), [1 / 8])
    gradient = up([0, 0, 0, 0])
    backward(net, buffers, layer_views(gradient, net.layers), 1.0, 0.0, 0.0)
    assert_close(down(gradient), [-3 / 16, -3 / 32, -3 / 32, -1 / 8])  # w_h, b_h, w_o, b_o
    assert_close(down(buffers.dA[0]), [[-3 / 32]])  # delta_h
    assert_close(down(buffers.dA[1]), [[-1 / 8]])  # delta_o


# --- 2. central differences in float64 ---------------------------------------------------------------------

ROWS, CLASSES = 4, 3


def weighted(backend: Backend, up: Up, down: Down, G: np.ndarray, run: Callable[[Any], Any]) -> Callable[..., float]:
    """v -> sum(G * run(v)): a scalar whose derivative with respect to run's result is G."""
    return lambda v: float((G * down(run(up(v)))).sum())


@activations
def test_activation_backward_is_the_derivative(
    backend: Backend, up: Up, down: Down, rng: np.random.Generator, name: str
) -> None:
    Z, G = rng.uniform(0.1, 2, (2, ROWS, CLASSES))
    Z[::2] *= -1  # both signs, and no |z| < 0.1: a difference across ReLU's kink means nothing
    activation = ACTIVATIONS[name]

    def run(A: Any) -> Any:
        backend.elementwise(activation.forward)(A)
        return A

    A, dA = run(up(Z)), up(G)
    backend.elementwise(activation.backward)(A, dA)
    assert_close(down(dA), central_differences(weighted(backend, up, down, G, run), Z), 1e-9)


def test_affine_backward_is_the_derivative(backend: Backend, up: Up, down: Down, rng: np.random.Generator) -> None:
    X, W, b = rng.standard_normal((ROWS, 5)), rng.standard_normal((5, CLASSES)), rng.standard_normal((1, CLASSES))
    G = rng.standard_normal((ROWS, CLASSES))

    def run(X: Any, W: Any, b: Any) -> Any:
        Z = up(np.full((ROWS, CLASSES), np.nan))
        kernels.affine_forward(backend, X, W, Z)
        backend.elementwise(ACTIVATIONS["identity"].biased_forward)(Z, b)
        return Z

    dX, dW, db = up(np.full(X.shape, np.nan)), up(np.full(W.shape, np.nan)), up(np.full(b.shape, np.nan))
    kernels.affine_backward_input(backend, up(G), up(W), dX)
    kernels.affine_backward_parameters(backend, up(X), up(G), up(np.ones((1, ROWS))), dW, db, 1.0, 0.0, 0.0)
    differences = {
        "dX": (dX, central_differences(weighted(backend, up, down, G, lambda v: run(v, up(W), up(b))), X)),
        "dW": (dW, central_differences(weighted(backend, up, down, G, lambda v: run(up(X), v, up(b))), W)),
        "db": (db, central_differences(weighted(backend, up, down, G, lambda v: run(up(X), up(W), v)), b)),
    }
    for found, expected in differences.values():
        assert_close(down(found), expected, 1e-9)


@orders
def test_softmax_backward_is_the_derivative(
    backend: Backend, up: Up, down: Down, rng: np.random.Generator, order: str
) -> None:
    Z, G = rng.standard_normal((2, ROWS, CLASSES))
    rows, scratch = up(np.full(ROWS, np.nan)), up(np.full((ROWS, CLASSES), np.nan))

    def run(A: Any) -> Any:
        kernels.softmax_forward(backend, A, rows)
        return A

    A, dA = run(up(Z, order=order)), up(G, order=order)
    kernels.softmax_backward(backend, A, dA, scratch, rows)
    assert_close(down(dA), central_differences(weighted(backend, up, down, G, run), Z), 1e-9)


@pytest.mark.parametrize("loss", ["quadratic", "softmax", "sigmoid"])
def test_residual_is_the_derivative_of_the_mean_loss(
    backend: Backend, up: Up, down: Down, rng: np.random.Generator, loss: str
) -> None:
    Z, T = rng.standard_normal((ROWS, CLASSES)), rng.uniform(0.1, 0.9, (ROWS, CLASSES))
    if loss == "softmax":
        T /= T.sum(axis=1, keepdims=True)
    losses, scratch, rows = up(np.full(ROWS, np.nan)), up(np.full((ROWS, CLASSES), np.nan)), up(np.full(ROWS, np.nan))

    def run(Z: Any) -> Any:
        if loss == "quadratic":
            kernels.quadratic_forward(backend, Z, up(T), losses, scratch)
        elif loss == "softmax":
            kernels.softmax_cross_entropy_forward(backend, Z, up(T), losses, scratch, rows)
        else:
            kernels.sigmoid_cross_entropy_forward(backend, Z, up(T), losses, scratch, rows)
        return losses

    A, dZ = up(Z), up(np.full((ROWS, CLASSES), np.nan))
    run(A)  # A becomes the output
    backend.elementwise(kernels.residual)(A, up(T), dZ, 1.0 / ROWS)
    expected = central_differences(weighted(backend, up, down, np.full(ROWS, 1 / ROWS), run), Z)
    assert_close(down(dZ), expected, 1e-9)


# --- 3. invariants -----------------------------------------------------------------------------------------


@orders
@dtypes
def test_softmax_rows_sum_to_one_and_their_residual_to_zero(
    backend: Backend, up: Up, down: Down, rng: np.random.Generator, order: str, dtype: str
) -> None:
    Z = rng.standard_normal((50, 10)) * np.geomspace(1e-3, 1e4, 50)[:, None]  # from flat rows to saturated ones
    A, rows = up(Z, dtype, order), up(np.full(50, np.nan), dtype)
    kernels.softmax_forward(backend, A, rows)
    tiny = 10 * np.finfo(dtype).eps
    assert np.abs(down(A).sum(axis=1, dtype="float64") - 1).max() <= tiny
    assert down(A).min() >= 0
    T, dZ = up(np.eye(10)[rng.integers(0, 10, 50)], dtype, order), up(np.full((50, 10), np.nan), dtype, order)
    backend.elementwise(kernels.residual)(A, T, dZ, 1.0 / 50)
    assert np.abs(down(dZ).sum(axis=1, dtype="float64")).max() <= tiny / 50
    # A softmax does not see a constant added to a row, nor does its backward answer to one.
    dA = up(np.full((50, 10), 3.0), dtype, order)
    kernels.softmax_backward(backend, A, dA, up(np.full((50, 10), np.nan), dtype), rows)
    assert np.abs(down(dA)).max() <= 3 * tiny


def test_softmax_ignores_a_shift_of_a_row(backend: Backend, up: Up, down: Down) -> None:
    A, B, rows = up([[1.0, 2.0, 4.0]]), up([[1025.0, 1026.0, 1028.0]]), up([0])
    kernels.softmax_forward(backend, A, rows)
    kernels.softmax_forward(backend, B, rows)
    assert np.array_equal(down(A), down(B))


@dtypes
def test_relu_is_idempotent(backend: Backend, up: Up, down: Down, rng: np.random.Generator, dtype: str) -> None:
    Z = up(rng.standard_normal((9, 7)), dtype)
    backend.elementwise(kernels.relu_forward)(Z)
    once = down(Z)
    backend.elementwise(kernels.relu_forward)(Z)
    assert np.array_equal(down(Z), once)
    assert once.min() == 0


@dtypes
def test_relus_mask_begins_right_above_zero(backend: Backend, up: Up, down: Down, dtype: str) -> None:
    tiny = np.finfo(dtype).tiny
    A, dA = up([[0.0, -0.0, tiny, 1e-3, 1.0]], dtype), up([[2.0] * 5], dtype)
    backend.elementwise(kernels.relu_backward)(A, dA)
    assert down(dA).tolist() == [[0, 0, 2, 2, 2]]


@dtypes
def test_sigmoid_and_tanh_are_symmetric_and_exact_at_the_ends(backend: Backend, up: Up, down: Down, dtype: str) -> None:
    Z = np.array([[0.0, 0.5, 3.0, 50.0, 1e4, 1e30, np.inf]])
    for name, centre in (("sigmoid", 0.5), ("tanh", 0.0)):
        above, below = up(Z, dtype), up(-Z, dtype)
        backend.elementwise(ACTIVATIONS[name].forward)(above)
        backend.elementwise(ACTIVATIONS[name].forward)(below)
        plus, minus = down(above), down(below)
        assert np.abs(plus + minus - 2 * centre).max() <= np.finfo(dtype).eps
        assert plus[0, 0] == centre
        assert plus[0, 3:].tolist() == [1] * 4
        assert minus[0, 3:].tolist() == [2 * centre - 1] * 4
        # A saturated neuron learns nothing, and nothing becomes NaN.
        dA = up(np.ones((1, 7)), dtype)
        backend.elementwise(ACTIVATIONS[name].backward)(above, dA)
        assert down(dA)[0, 3:].tolist() == [0] * 4


@dtypes
@orders
def test_saturated_logits_have_a_finite_loss(backend: Backend, up: Up, down: Down, dtype: str, order: str) -> None:
    # The loss of a target whose logit is 10^4 below the largest is 10^4; of the largest itself 0.
    Z = [[1e4, 0, -1e4], [1e4, 0, -1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0, 0, 0]]
    T = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    losses, rows, scratch = up([0] * 5, dtype), up([0] * 5, dtype), up(np.full((5, 3), np.nan), dtype, order)
    A = up(Z, dtype, order)
    kernels.softmax_cross_entropy_forward(backend, A, up(T, dtype, order), losses, scratch, rows)
    assert_close(down(losses), [0, 1e4, log(3), log(3), log(3)], LIMIT[dtype])
    assert np.isfinite(down(A)).all()
    A = up(Z, dtype, order)
    kernels.sigmoid_cross_entropy_forward(backend, A, up(T, dtype, order), losses, scratch, rows)
    # Row by row: (0 + ln 2 + 0), (10^4 + ln 2 + 0), (10^4 + 10^4 + 0), (0 + 10^4 + 0), (3 ln 2).
    expected = [log(2), 1e4 + log(2), 2e4, 1e4, 3 * log(2)]
    assert_close(down(losses), expected, LIMIT[dtype])
    assert down(A)[0].tolist() == [1, 0.5, 0]


@dtypes
def test_a_loss_of_a_perfect_answer_is_zero_and_none_is_negative(
    backend: Backend, up: Up, down: Down, rng: np.random.Generator, dtype: str
) -> None:
    Z, T = rng.standard_normal((20, 5)) * 30, np.eye(5)[rng.integers(0, 5, 20)]
    losses, rows, scratch = (
        up(np.full(20, np.nan), dtype),
        up(np.full(20, np.nan), dtype),
        up(np.full((20, 5), np.nan), dtype),
    )
    kernels.softmax_cross_entropy_forward(backend, up(Z, dtype), up(T, dtype), losses, scratch, rows)
    assert down(losses).min() >= 0
    kernels.softmax_cross_entropy_forward(backend, up(1e4 * T, dtype), up(T, dtype), losses, scratch, rows)
    assert down(losses).max() == 0
    kernels.quadratic_forward(backend, up(T, dtype), up(T, dtype), losses, scratch)
    assert down(losses).max() == 0


@dtypes
def test_pixels_become_zero_to_one_exactly_at_both_ends(backend: Backend, up: Up, down: Down, dtype: str) -> None:
    X = up(np.full((1, 256), np.nan), dtype)
    backend.elementwise(kernels.scale_pixels)(up(np.arange(256)[None], "uint8"), X, np.dtype(dtype).type(255))
    found = down(X)[0]
    assert (found[0], found[255]) == (0, 1)
    assert np.array_equal(np.rint(found * 255), np.arange(256))
    assert (np.diff(found) > 0).all()


# --- 4. parity: every kernel, both layouts, against NumPy --------------------------------------------------

N, K, D = 33, 10, 21
# One letter for each argument: M (N, K) of both signs, P (N, K) positive, r (N, 1), v (N,), b (1, K), c (1, 1),
# s scalar; of uint32: k (N, 1), u (1, K), B (N, K), t a number.
ELEMENTWISE: dict[Any, str] = {
    kernels.identity_forward: "M", kernels.identity_backward: "MM",
    kernels.relu_forward: "M", kernels.relu_backward: "MM",
    kernels.sigmoid_forward: "M", kernels.sigmoid_backward: "PM",
    kernels.tanh_forward: "M", kernels.tanh_backward: "PM",
    kernels.exp_shifted: "Mr", kernels.divide_rows: "Mr", kernels.times: "MMM", kernels.softmax_jacobian: "PrM",
    kernels.residual: "PPMs", kernels.half_square: "PPM", kernels.shift_and_pick: "MrPM", kernels.exponential: "M",
    kernels.log_minus: "vv", kernels.softplus: "MM", kernels.copy_to: "MM", kernels.poisson_terms: "MPM",
    kernels.dropout_mask: "kuMBBtc", kernels.dropout_backward: "PcMM",
} | {activation.biased_forward: "Mb" for activation in ACTIVATIONS.values()}  # fmt: skip
WHOLE: dict[Any, str] = {
    kernels.softmax_forward: "Mv", kernels.softmax_backward: "PMMv", kernels.quadratic_forward: "MPvM",
    kernels.softmax_cross_entropy_forward: "MPvMv", kernels.sigmoid_cross_entropy_forward: "MPvMv",
    kernels.poisson_forward: "MPvMv",
}  # fmt: skip
ELSEWHERE = {  # compared with NumPy by gemm's property test below and by the tests by hand above
    kernels.affine_forward, kernels.affine_backward_input, kernels.affine_backward_parameters,
    kernels.scale_pixels, kernels.one_hot,
    kernels.loss_rows, kernels.sum_of_terms,  # the rows of losses, which are checked one by one
}  # fmt: skip


def test_no_kernel_is_forgotten() -> None:
    functions = inspect.getmembers(kernels, inspect.isfunction)
    public = {f for name, f in functions if not name.startswith("_") and f.__module__ == kernels.__name__}
    biased = {activation.biased_forward for activation in ACTIVATIONS.values()}
    known, found = ELEMENTWISE.keys() | WHOLE.keys() | ELSEWHERE, public | biased
    names = sorted(kernel.__name__ for kernel in found - known)
    assert not names, f"add to ELEMENTWISE, or to WHOLE, the letters of the arguments of {names}"
    assert found == known


def make(letter: str, rng: np.random.Generator, n: int = N, k: int = K) -> Any:
    if letter in "kuB":
        return rng.integers(0, 2**32, {"k": (n, 1), "u": (1, k), "B": (n, k)}[letter], "uint32")
    positive = rng.uniform(0.1, 0.9, (n, k))
    values = {"M": rng.standard_normal((n, k)), "P": positive, "r": positive[:, :1], "v": positive[:, 0]}
    values |= {"b": positive[:1] - 0.5, "c": positive[:1, :1]}
    return values.get(letter, 3 << 30 if letter == "t" else 0.125)


def in_type(value: Any, dtype: str) -> Any:
    """Arrays of floats in the type that is tested."""
    return np.array(value, dtype, order="C") if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


@pytest.mark.parametrize("kernel", [*ELEMENTWISE, *WHOLE], ids=lambda kernel: str(kernel.__name__))
@orders
@dtypes
def test_parity_with_numpy(
    backend: Backend, up: Up, down: Down, rng: np.random.Generator, kernel: Any, order: str, dtype: str
) -> None:
    letters = ELEMENTWISE.get(kernel) or WHOLE[kernel]
    host = [make(letter, rng) for letter in letters]
    host = [in_type(value, dtype) for value in host]
    here = [
        up(value, str(value.dtype), order if value.shape == (N, K) else "C") if np.ndim(value) else value
        for value in host
    ]
    if kernel in ELEMENTWISE:
        kernel(np, *host)
        backend.elementwise(kernel)(*here)
    else:
        kernel(select_backend("cpu"), *host)
        kernel(backend, *here)
    for position, (found, expected) in enumerate(zip(here, host, strict=True)):
        if isinstance(expected, np.ndarray):
            error = relative_error(down(found), expected)
            assert error <= LIMIT[dtype], f"argument {position}: {error:.1e}"


# --- gemm ----------------------------------------------------------------------------------------------------

EDGES = [(1, 1, 1), (1, 5, 1), (5, 1, 1), (1, 1, 5), (1, 5, 3), (5, 1, 3), (5, 3, 1)]  # M, K or N of 1
sizes = st.sampled_from([1, 1, 2, 3, 8, 33])
factors = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.03125, 3.0])


def check_gemm(
    backend: Backend, dtype: str, m: int, k: int, n: int, alpha: float, beta: float, a_T: bool, b_T: bool, out_T: bool
) -> None:
    """One product into the middle of a larger buffer, all of it compared with NumPy's."""
    rng = np.random.default_rng([m, k, n])
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    flat = rng.standard_normal(m * n + 4).astype(dtype)
    device_a = backend.asarray(np.ascontiguousarray(a.T)).T if a_T else backend.asarray(a)
    device_b = backend.asarray(np.ascontiguousarray(b.T)).T if b_T else backend.asarray(b)
    if beta == 0:
        flat[2:-2] = np.nan  # beta = 0 must not read out
    device_flat = backend.asarray(flat.copy())
    middle = device_flat[2:-2]
    backend.gemm(device_a, device_b, middle.reshape(n, m).T if out_T else middle.reshape(m, n), alpha, beta)
    found = np.array(backend.to_host(device_flat))
    assert np.array_equal(found[[0, 1, -2, -1]], flat[[0, 1, -2, -1]]), "written outside of out"
    inner, old = found[2:-2], flat[2:-2].astype("float64")
    inner, old = (x.reshape(n, m).T if out_T else x.reshape(m, n) for x in (inner, old))
    product = alpha * (a.astype("float64") @ b.astype("float64"))
    expected = product + beta * old if beta else product
    # Relative to the sum of the magnitudes added up: a sum that cancels has no digits to compare.
    scale = np.linalg.norm(alpha * np.abs(a).astype("float64") @ np.abs(b)) + np.linalg.norm(beta * old if beta else 0)
    assert np.linalg.norm(inner - expected) <= LIMIT[dtype] * scale
    assert np.array_equal(np.array(backend.to_host(device_a)), a)
    assert np.array_equal(np.array(backend.to_host(device_b)), b)


@dtypes
@given(sizes, sizes, sizes, factors, factors, st.booleans(), st.booleans(), st.booleans())
def test_gemm_equals_numpy(
    backend: Backend, dtype: str, m: int, k: int, n: int, alpha: float, beta: float, a_T: bool, b_T: bool, out_T: bool
) -> None:
    check_gemm(backend, dtype, m, k, n, alpha, beta, a_T, b_T, out_T)


@dtypes
@pytest.mark.parametrize("layout", range(8))
@pytest.mark.parametrize("shape", [*EDGES, (5, 4, 3)])
def test_gemm_in_every_layout(backend: Backend, dtype: str, shape: tuple[int, int, int], layout: int) -> None:
    for alpha, beta in ((1.0, 0.0), (-0.5, 1.0), (2.0, 0.25)):
        check_gemm(backend, dtype, *shape, alpha, beta, bool(layout & 1), bool(layout & 2), bool(layout & 4))


@pytest.mark.parametrize("layout", range(8))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_cublas_call_equals_numpy(monkeypatch: pytest.MonkeyPatch, dtype: str, layout: int) -> None:
    """CupyBackend itself, over a cuBLAS that computes on host addresses: order of arguments, leading dimensions."""
    _, library = plant_fake_cupy(monkeypatch)
    from twostroke.backend.cuda.backend import CupyBackend

    backend = CupyBackend()
    shapes = [*EDGES, (5, 4, 3), (33, 8, 17)]
    for shape in shapes:
        for alpha, beta in ((1.0, 0.0), (-0.5, 1.0), (2.0, 0.25)):
            check_gemm(backend, dtype, *shape, alpha, beta, bool(layout & 1), bool(layout & 2), bool(layout & 4))
    assert library.calls == 3 * len(shapes)


@dtypes
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 5, 4), (3, 5, 1), (1, 1, 4), (3, 1, 4)])
def test_gemm_refuses_an_out_it_would_have_to_copy(
    backend: Backend, up: Up, down: Down, dtype: str, shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    a, b = up(np.ones((m, k)), dtype), up(np.ones((k, n)), dtype)
    big = up(np.full((2 * m + 1, 2 * n), 7.0), dtype)
    out = big[1::2, ::2]
    assert not out.flags.c_contiguous
    assert not out.flags.f_contiguous
    with pytest.raises(ValueError, match="contiguous"):
        backend.gemm(a, b, out)
    assert (down(big) == 7).all()


def test_take_rows(backend: Backend, up: Up, down: Down, rng: np.random.Generator) -> None:
    for values in (rng.integers(0, 256, (7, 5)).astype("uint8"), rng.standard_normal((7, 5)), np.arange(7)):
        indices = [6, 0, 3, 3]
        out = up(np.zeros((4, *values.shape[1:])), values.dtype.name)
        backend.take_rows(up(values, values.dtype.name), up(indices, "int64"), out)
        assert np.array_equal(down(out), values[indices])
