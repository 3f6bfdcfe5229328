"""What a machine allows a training step: the rate of its best large product, and the traffic of the weights.

A step takes no less time than its operations at that rate, and no less than its weights need on their way through the
processor: read forward, read and written by the update (the roofline model, Williams, Waterman and Patterson, 2009).
A product that skips zeros does fewer operations, and reads fewer weights, than are counted here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from ..backend import Backend

SIZES: Final = (512, 1024, 2048, 4096)  # of square products: the first that takes PRODUCT_S; small ones are slower
PRODUCT_S, PASS_S, REPEATS = 0.01, 0.002, 7
SHARED: Final = 1 << 23  # bytes from which threads share a pass over the weights: more than a core's own cache
NEAR, BEYOND = 0.9, 1.1  # of the limit: from here on there is nothing left to gain; from here on it is noise


def step_flops(layers: Sequence[int], batch_size: int) -> int:
    """The floating-point operations in one step's matrix products; the first layer needs no dX."""
    weights = sum(fan_in * fan_out for fan_in, fan_out in pairwise(layers))
    return 2 * batch_size * (3 * weights - layers[0] * layers[1])


class Limits(NamedTuple):
    """Measured on one device with one number of threads."""

    layers: tuple[int, ...]
    product_gflops: float  # a large square product in float32 by the array module's own BLAS
    traffic_seconds: float  # all weights read once, then read and written once

    def at_best(self, other: Limits) -> Limits:
        """The better of two measurements of one network: no neighbour lowers a ceiling."""
        gflops = max(self.product_gflops, other.product_gflops)
        return Limits(self.layers, gflops, min(self.traffic_seconds, other.traffic_seconds))

    def of_step(self, batch_size: int, seconds: float) -> dict[str, Any]:
        """How near a step of ``seconds`` is: fractions of both limits, and the nearer one in words."""
        product = step_flops(self.layers, batch_size) / self.product_gflops / 1e9 / seconds
        traffic = self.traffic_seconds / seconds
        nearer, name = max((product, "product"), (traffic, "memory"))
        mark = "?" if nearer > BEYOND else "!" if nearer >= NEAR else ""
        return {
            "best_product_gflops": self.product_gflops,
            "best_product_fraction": product,
            "weights_traffic_seconds": self.traffic_seconds,
            "weights_traffic_fraction": traffic,
            "limit": name,
            "at_limit": mark == "!",
            "text": f"{nearer:.0%} {name}{mark}",
        }


def limits_of(backend: Backend, layers: Sequence[int]) -> Limits:
    """Measure them, in some tenths of a second, with the backend's threads. The fastest of a few blocks counts."""
    # The array module's own products too: a backend that computes products itself leaves it alone.
    with backend.active(), backend.array_module_held():
        return _measure(backend, layers)


def _measure(backend: Backend, layers: Sequence[int]) -> Limits:
    from concurrent.futures import ThreadPoolExecutor

    xp, random = backend.xp, np.random.default_rng(0)
    for size in SIZES:
        a, b, out = (backend.asarray(random.random((size, size), np.float32)) for _ in range(3))
        seconds = _fastest(backend, lambda a=a, b=b, out=out: xp.matmul(a, b, out=out), 1)  # type: ignore[misc]
        if seconds >= PRODUCT_S:
            break
    count = sum(fan_in * fan_out for fan_in, fan_out in pairwise(layers))
    weights = backend.asarray(random.random(count, np.float32))
    threads = (backend.threads or 1) if weights.nbytes >= SHARED else 1
    bounds = np.linspace(0, count, threads + 1).astype(int).tolist()
    parts = [weights[start:stop] for start, stop in pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:

        def each(work: Callable[[Any], Any]) -> Callable[[], Any]:
            return (lambda: work(parts[0])) if threads == 1 else lambda: list(pool.map(work, parts))

        passes = (each(lambda part: xp.dot(part, part)), each(lambda part: xp.multiply(part, 1.0, out=part)))
        traffic = sum(_fastest(backend, one) for one in passes)
    return Limits(tuple(layers), 2 * size**3 / seconds / 1e9, traffic)


def _fastest(backend: Backend, call: Callable[[], Any], least: int = 0) -> float:
    """Seconds of a call, in the fastest of a few blocks of ``least`` calls, or of as many as fill ``PASS_S``."""
    calls = least or 1
    _seconds(backend, call, calls)
    while not least and _seconds(backend, call, calls) < PASS_S:
        calls *= 2
    return min(_seconds(backend, call, calls) for _ in range(REPEATS)) / calls


def _seconds(backend: Backend, call: Callable[[], Any], calls: int) -> float:
    backend.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        call()
    backend.synchronize()
    return time.perf_counter() - started
