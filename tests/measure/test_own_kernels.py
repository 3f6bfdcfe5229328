"""``verify grad --kernel`` passes right kernels and names what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support import own_kernels as own
from twostroke.backend.base import Backend
from twostroke.measure.verification import verify

RIGHT = [own.swish, own.huber, own.rmsprop, own.my_tanh, own.my_quadratic, own.my_nesterov]
SIGMOID_BY_HAND = ts.Activation(
    "in-place",
    lambda xp, Z: xp.tanh(Z, out=Z),
    lambda xp, A, dA: own.my_tanh_backward(xp, A, A, dA),
    in_place=True,
)


def wrong_slope(xp: Any, Z: Any, A: Any, dA: Any) -> None:
    own.swish_backward(xp, Z, A, dA)
    xp.multiply(dA, 1.00001, out=dA)


def makes_an_array(xp: Any, Z: Any, out: Any) -> None:
    xp.multiply(Z, xp.exp(Z * 0), out=out)


def writes_nothing(xp: Any, Z: Any, out: Any) -> None:
    xp.tanh(Z)


def with_an_operator(xp: Any, Z: Any, out: Any) -> None:
    own.swish_forward(xp, Z, out)
    out *= 2.0


def doubled_slope(xp: Any, Z: Any, A: Any, dA: Any) -> None:
    xp.multiply(A, 0.5, out=A)
    own.swish_backward(xp, Z, A, dA)
    xp.multiply(dA, 2.0, out=dA)


def over_the_rows(xp: Any, Z: Any, out: Any) -> None:
    xp.subtract(Z, Z.mean(), out=out)


def constant_slope(xp: Any, Z: Any, A: Any, dA: Any) -> None:
    pass


def overflows(xp: Any, Z: Any, out: Any) -> None:
    xp.exp(Z, out=out)


def exp_slope(xp: Any, Z: Any, A: Any, dA: Any) -> None:
    xp.multiply(dA, A, out=dA)


WRONG: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
    "backward = differences": (own.swish_forward, wrong_slope),
    "forward allocates nothing": (makes_an_array, constant_slope),
    "forward writes all of out": (writes_nothing, own.my_tanh_backward),
    "forward is replayed": (with_an_operator, doubled_slope),
    "forward is elementwise": (over_the_rows, constant_slope),
    "forward is finite": (overflows, exp_slope),
}


def failed(kernel: Any, backend: Backend) -> set[str]:
    report = verify("grad", backend, kernel)
    if not report.passed:
        with pytest.raises(ts.VerificationError, match="The kernel is wrong at this place"):
            report.require()
    return {check.what for check in report.checks if not check.passed}


@pytest.mark.parametrize("kernel", [*RIGHT, SIGMOID_BY_HAND])
def test_a_right_kernel_passes(backend: Backend, kernel: Any) -> None:
    assert failed(kernel, backend) == set()


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_activation_fails_under_its_name(what: str) -> None:
    cpu = ts.select_backend("cpu", 1)
    assert what in failed(ts.Activation("wrong", *WRONG[what]), cpu)


def test_a_wrong_gradient_is_named_with_its_argument() -> None:
    def backward(xp: Any, Z: Any, A: Any, dA: Any) -> None:
        own.my_tanh_backward(xp, Z, A, dA)
        xp.greater(Z, 2.5, out=A)
        xp.multiply(A, 0.1, out=A)
        xp.add(dA, A, out=dA)

    report = verify("grad", ts.select_backend("cpu", 1), ts.Activation("wrong", own.my_tanh_forward, backward))
    (worst,) = [check for check in report.rows if check.what == "backward = differences"]
    assert not worst.passed
    assert float(worst.where.removeprefix("z = ")) > 2.5
    assert 0.09 < worst.error < 0.11


def test_a_wrong_loss_is_seen() -> None:
    wrong = ts.Loss("wrong", own.my_quadratic_forward, own.huber_backward)
    assert {"backward = differences"} <= failed(wrong, ts.select_backend("cpu", 1))


def overwrites_a(xp: Any, A: Any, T: Any, out: Any, scratch: Any) -> None:
    xp.subtract(A, T, out=A)
    xp.multiply(A, 1.0, out=out)


@pytest.mark.parametrize(
    ("functions", "what"),
    [
        ((overwrites_a, own.my_quadratic_backward), "forward only reads its inputs"),
        ((own.my_quadratic_forward, overwrites_a), "backward only reads its inputs"),
    ],
)
def test_a_loss_that_overwrites_the_outputs_is_seen(functions: Any, what: str) -> None:
    assert what in failed(ts.Loss("wrong", *functions), ts.select_backend("cpu", 1))


@pytest.mark.parametrize(
    ("update", "what"),
    [
        (lambda xp, p, g, lr: xp.multiply(g, lr, out=g), "update writes into p"),
        (lambda xp, p, g, lr: xp.add(p, g, out=p), "update lowers p^2 / 2"),
        (lambda xp, p, g, lr: xp.subtract(p, g * lr, out=p), "update allocates nothing"),
    ],
)
def test_a_wrong_optimizer_is_seen(update: Any, what: str) -> None:
    assert what in failed(ts.Optimizer("wrong", update, lr=0.01), ts.select_backend("cpu", 1))


def test_state_that_is_not_declared_is_lost_on_resume() -> None:
    memory: dict[tuple[int, int], Any] = {}

    def update(xp: Any, p: Any, g: Any, lr: Any) -> None:
        velocity = memory.setdefault((id(p), p.size), np.zeros(p.shape, p.dtype))  # an id may come again
        xp.multiply(velocity, 0.9, out=velocity)
        xp.add(velocity, g, out=velocity)
        xp.multiply(velocity, lr, out=g)
        xp.subtract(p, g, out=p)

    assert "resume, bytes that differ" in failed(ts.Optimizer("wrong", update, lr=0.01), ts.select_backend("cpu", 1))


@pytest.mark.parametrize("error", [TypeError, ZeroDivisionError, AttributeError])
def test_a_function_that_fails_is_one_line(error: type[Exception]) -> None:
    def forward(xp: Any, Z: Any, out: Any) -> None:
        raise error("no good")

    with pytest.raises(ts.VerificationError, match=rf"^a function of the Activation fails: a: found {error.__name__}"):
        verify("grad", ts.select_backend("cpu", 1), ts.Activation("a", forward, own.swish_backward))


def test_other_checks_take_no_kernel() -> None:
    with pytest.raises(ts.ConfigError, match="no check of a kernel: CHECK: found 'parity', expected grad"):
        verify("parity", ts.select_backend("cpu", 1), own.swish)
