"""The kernels one by one, on the arrays of a step of 784-128-10 and of a wide layer."""

from __future__ import annotations

from typing import Any

import pytest

from bench.conftest import Annotate, random_rows
from bench.timing import OPTIONS, roofline, synchronized_time
from twostroke.backend import Backend
from twostroke.engine import kernels

pytestmark = pytest.mark.benchmark(timer=synchronized_time, **OPTIONS)
WIDTHS = [(128, 784, 128), (1024, 784, 128), (1024, 512, 512)]


@pytest.mark.parametrize(("n", "fan_in", "fan_out"), WIDTHS)
@pytest.mark.parametrize("kind", ["XW", "XtdZ", "dZWt"])
def test_gemm(
    benchmark: Any, annotate: Annotate, active_backend: Backend, kind: str, n: int, fan_in: int, fan_out: int
) -> None:
    benchmark.group = f"gemm {n}x{fan_in}x{fan_out}"
    X, W, Z = (random_rows(active_backend, *shape) for shape in ((n, fan_in), (fan_in, fan_out), (n, fan_out)))
    arguments, shape = {
        "XW": ((X, W, Z), (n, fan_in, fan_out, kind)),
        "XtdZ": ((X.T, Z, W), (fan_in, n, fan_out, kind)),
        "dZWt": ((Z, W.T, X), (n, fan_out, fan_in, kind)),
    }[kind]
    benchmark(active_backend.gemm, *arguments)
    annotate(n, 2 * n * fan_in * fan_out, lambda: roofline(active_backend, [shape]))


@pytest.mark.parametrize("n", [128, 1024])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_activation(benchmark: Any, annotate: Annotate, active_backend: Backend, activation: str, n: int) -> None:
    benchmark.group = f"activation {n}x128"
    Z, b = random_rows(active_backend, n, 128), random_rows(active_backend, 1, 128)
    dA = random_rows(active_backend, n, 128)
    forward = active_backend.elementwise(kernels.ACTIVATIONS[activation].biased_forward)
    backward = active_backend.elementwise(kernels.ACTIVATIONS[activation].backward)

    def both() -> None:
        forward(Z, b)
        backward(Z, dA)

    dA *= 0  # 0 stays 0 however often it is multiplied: no denormal numbers creep in
    benchmark(both)
    annotate(n)


@pytest.mark.parametrize("n", [1, 128, 1024])
def test_softmax_cross_entropy(benchmark: Any, annotate: Annotate, active_backend: Backend, n: int) -> None:
    benchmark.group = f"softmax cross-entropy {n}x10"
    xp = active_backend.xp
    # Class by class in memory, as a workspace holds them.
    Z, T, dZ, scratch = (xp.ascontiguousarray(random_rows(active_backend, 10, n)).T for _ in range(4))
    losses, rows = random_rows(active_backend, n), random_rows(active_backend, n)
    xp.copyto(T, 0)
    T[:, 3] = 1
    residual = active_backend.elementwise(kernels.residual)

    def both() -> None:
        kernels.softmax_cross_entropy_forward(active_backend, Z, T, losses, scratch, rows)
        residual(Z, T, dZ, 1.0 / n)

    benchmark(both)
    annotate(n)
