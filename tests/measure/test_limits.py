"""The limits of a step: what is counted, and what a record says of it. No test asserts a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import threadpoolctl

from twostroke.backend import Backend, select_backend
from twostroke.measure import limits
from twostroke.measure.limits import Limits, limits_of
from twostroke.show import chart

LAYERS = (784, 128, 10)
WEIGHTS = 784 * 128 + 128 * 10


def test_the_nearer_limit_by_hand() -> None:
    """A product of 100 GFLOP/s; the weights take 20 us. One sample: 2 (3 * 101,632 - 100,352) operations, 4.1 us."""
    machine = Limits(LAYERS, 100.0, 20e-6)
    one = machine.of_step(1, 40e-6)
    assert one["best_product_fraction"] == pytest.approx(2 * (3 * WEIGHTS - 784 * 128) / 1e11 / 40e-6)
    assert (one["limit"], one["text"], one["at_limit"]) == ("memory", "50% memory", False)
    many = machine.of_step(1000, 4.2e-3)
    assert (many["limit"], many["text"], many["at_limit"]) == ("product", "97% product!", True)
    beyond = machine.of_step(1000, 2e-3)  # a neighbour slowed the limit down
    assert (beyond["text"], beyond["at_limit"]) == ("205% product?", False)
    assert many["weights_traffic_fraction"] == pytest.approx(20e-6 / 4.2e-3)


def test_the_better_of_two_measurements() -> None:
    found = Limits((2, 1), 90.0, 3.0).at_best(Limits((2, 1), 80.0, 2.0))
    assert found == Limits((2, 1), 90.0, 2.0)


def test_numpys_products_have_the_backends_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def look(backend: Backend, layers: Sequence[int]) -> Limits:
        pools = threadpoolctl.threadpool_info()
        found.extend(pool["num_threads"] for pool in pools if pool["user_api"] == "blas")
        return Limits(tuple(layers), 1.0, 1.0)

    monkeypatch.setattr(limits, "_measure", look)
    limits_of(select_backend("cpu", 1), LAYERS)
    assert set(found) == {1}


@pytest.mark.parametrize("shared", [1, limits.SHARED])
def test_limits_are_measured_on_all_weights(monkeypatch: pytest.MonkeyPatch, shared: int) -> None:
    """Each pass goes over every weight, in one part or in one for each thread."""
    monkeypatch.setattr(limits, "SHARED", shared)
    monkeypatch.setattr(limits, "SIZES", (8, 16))
    monkeypatch.setattr(limits, "PASS_S", 1e-4)
    backend = select_backend("cpu")
    parts: list[int] = []
    multiply = np.multiply

    class Spy:
        matmul, dot = staticmethod(np.matmul), staticmethod(np.dot)

        @staticmethod
        def multiply(part: np.ndarray, factor: float, out: np.ndarray) -> None:
            parts.append(part.size)
            multiply(part, factor, out=out)

    monkeypatch.setattr(type(backend), "xp", Spy)
    found = limits_of(backend, LAYERS)
    assert found.product_gflops > 0
    assert found.traffic_seconds > 0
    threads = backend.threads if shared == 1 else 1
    assert threads is not None
    assert set(parts) == {WEIGHTS // threads}


def test_the_table_says_which_limit_is_near() -> None:
    record = {
        "device": "cpu", "batch_size": 1, "threads": 1, "step_seconds": 40e-6, "step_seconds_quartiles": [4e-5, 4e-5],
        "roofline_suspect": False, "samples_per_second": 25e3, "gflops": 10.0, "roofline_gflops": 20.0,
        "roofline_fraction": 0.5, "blocks": 5, "limits": Limits(LAYERS, 100.0, 38e-6).of_step(1, 40e-6),
    }  # fmt: skip
    head, line = chart.table({"records": [record], "fits": {}})
    assert "of best" in head
    assert line.split()[-4:] == ["10%", "95%", "memory!", "5"]
    assert chart.table({"records": [record | {"limits": {}}], "fits": {}})[1].split()[-3:] == ["-", "-", "5"]
