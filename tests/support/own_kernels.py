"""An activation, a loss and an optimiser as a user writes them, and some that repeat the built-in formulas."""

from __future__ import annotations

from typing import Any

import twostroke as ts


def swish_forward(xp: Any, Z: Any, out: Any) -> None:
    """Z sigmoid(Z)."""
    xp.multiply(Z, 0.5, out=out)
    xp.tanh(out, out=out)
    xp.multiply(out, 0.5, out=out)
    xp.add(out, 0.5, out=out)
    xp.multiply(out, Z, out=out)


def swish_backward(xp: Any, Z: Any, A: Any, dA: Any) -> None:
    """1 - (1 - A) (1 - sigmoid(Z))."""
    xp.multiply(Z, 0.5, out=Z)
    xp.tanh(Z, out=Z)
    xp.multiply(Z, 0.5, out=Z)
    xp.subtract(0.5, Z, out=Z)
    xp.subtract(1.0, A, out=A)
    xp.multiply(A, Z, out=A)
    xp.subtract(1.0, A, out=A)
    xp.multiply(dA, A, out=dA)


swish = ts.Activation("swish", swish_forward, swish_backward)


def huber_forward(xp: Any, A: Any, T: Any, out: Any, scratch: Any) -> None:
    """(d^2 - max(|d| - 1, 0)^2) / 2 with |d| = max(d, -d), d = A - T."""
    xp.subtract(A, T, out=out)
    xp.multiply(out, -1.0, out=scratch)
    xp.maximum(out, scratch, out=out)
    xp.subtract(out, 1.0, out=scratch)
    xp.maximum(scratch, 0.0, out=scratch)
    xp.multiply(out, out, out=out)
    xp.multiply(scratch, scratch, out=scratch)
    xp.subtract(out, scratch, out=out)
    xp.multiply(out, 0.5, out=out)


def huber_backward(xp: Any, A: Any, T: Any, out: Any, scratch: Any) -> None:
    """A - T, within -1..1; the minimum is -max(-x, -1)."""
    xp.subtract(T, A, out=out)
    xp.maximum(out, -1.0, out=out)
    xp.multiply(out, -1.0, out=out)
    xp.maximum(out, -1.0, out=out)


huber = ts.Loss("huber", huber_forward, huber_backward)


def rmsprop_update(xp: Any, p: Any, g: Any, square: Any, scratch: Any, lr: Any) -> None:
    """square <- 0.9 square + 0.1 g^2; p <- p - lr g / (sqrt(square) + 1e-8)."""
    xp.multiply(g, g, out=scratch)
    xp.multiply(scratch, 0.1, out=scratch)
    xp.multiply(square, 0.9, out=square)
    xp.add(square, scratch, out=square)
    xp.sqrt(square, out=scratch)
    xp.add(scratch, 1e-8, out=scratch)
    xp.divide(g, scratch, out=g)
    xp.multiply(g, lr, out=g)
    xp.subtract(p, g, out=p)


rmsprop = ts.Optimizer("rmsprop", rmsprop_update, state=["square"], scratch=1)


def my_tanh_forward(xp: Any, Z: Any, out: Any) -> None:
    xp.tanh(Z, out=out)


def my_tanh_backward(xp: Any, Z: Any, A: Any, dA: Any) -> None:
    xp.multiply(A, A, out=A)
    xp.subtract(1.0, A, out=A)
    xp.multiply(dA, A, out=dA)


my_tanh = ts.Activation("my-tanh", my_tanh_forward, my_tanh_backward, onnx="Tanh")


def my_quadratic_forward(xp: Any, A: Any, T: Any, out: Any, scratch: Any) -> None:
    xp.subtract(A, T, out=out)
    xp.multiply(out, out, out=out)
    xp.multiply(out, 0.5, out=out)


def my_quadratic_backward(xp: Any, A: Any, T: Any, out: Any, scratch: Any) -> None:
    xp.subtract(A, T, out=out)


my_quadratic = ts.Loss("my-quadratic", my_quadratic_forward, my_quadratic_backward, output="sigmoid")


def my_nesterov_update(xp: Any, p: Any, g: Any, velocity: Any, minus_lr: Any) -> None:
    xp.multiply(g, minus_lr, out=g)
    xp.multiply(velocity, 0.9, out=velocity)
    xp.add(velocity, g, out=velocity)
    xp.add(p, g, out=p)
    xp.multiply(velocity, 0.9, out=g)
    xp.add(p, g, out=p)


def minus(lr: float, step: int) -> tuple[float, ...]:
    return (-lr,)


my_nesterov = ts.Optimizer("my-nesterov", my_nesterov_update, state=["velocity"], numbers=minus, lr=0.3)
