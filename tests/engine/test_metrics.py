"""Running loss and accuracy against sums done here."""

from __future__ import annotations

import math

import numpy as np
import pytest

import twostroke as ts
from twostroke.backend import Backend
from twostroke.engine.metrics import Running, check_finite
from twostroke.engine.mlp import predict_classes
from twostroke.engine.targets import Result
from twostroke.engine.workspace import Workspace
from twostroke.errors import ModelError


def feed(running: Running, backend: Backend, losses: list[float], outputs: list[list[float]], cuts: list[int]) -> None:
    """Hand ``running`` its samples in pieces, as a training loop does."""
    net = ts.MLP([2, 3], backend=backend)
    workspace = Workspace(backend, net.layers, net.dtype, len(losses))
    for start, stop in zip([0, *cuts], [*cuts, len(losses)], strict=True):
        buffers = workspace.rows(stop - start)
        backend.xp.copyto(buffers.losses, backend.asarray(np.array(losses[start:stop], np.float32)))
        backend.xp.copyto(buffers.A[-1], backend.asarray(np.array(outputs[start:stop], np.float32)))
        predict_classes(net, buffers)
        running.update(start, buffers)


LOSSES = [0.5, 1.5, 0.25, 3.0, 0.75]
OUTPUTS = [[0.1, 0.7, 0.2], [0.9, 0.0, 0.1], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3], [0.5, 0.5, 0.0]]  # 1 0 2 1 0


@pytest.mark.parametrize("cuts", [[], [2], [1, 2, 3, 4]])
def test_means_by_hand(backend: Backend, cuts: list[int]) -> None:
    running = Running(backend, 5, "float32")
    feed(running, backend, LOSSES, OUTPUTS, cuts)
    result = running.result(backend.asarray(np.array([1, 0, 2, 2, 1], np.uint8)))
    assert result == Result(loss=1.2, accuracy=0.6)  # a tie goes to the first class
    assert all(type(value) is float for value in result)
    assert running.first_nonfinite() is None


def test_the_next_epoch_overwrites_the_last(backend: Backend) -> None:
    running, labels = Running(backend, 5, "float32"), backend.asarray(np.zeros(5, np.uint8))
    feed(running, backend, [9.0] * 5, [[1.0, 0.0, 0.0]] * 5, [3])
    assert running.result(labels) == Result(9.0, 1.0)
    feed(running, backend, [2.0] * 5, [[0.0, 1.0, 0.0]] * 5, [1])
    assert running.result(labels) == Result(2.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_the_first_bad_loss_is_found(backend: Backend, bad: float, position: int) -> None:
    losses = [*LOSSES]
    losses[position] = bad
    losses[4] = bad  # a later one changes nothing
    running = Running(backend, 5, "float32")
    feed(running, backend, losses, OUTPUTS, [2])
    found = running.first_nonfinite()
    assert found is not None
    assert found[0] == position
    before = sum(LOSSES[:position]) / position if position else math.nan
    assert found[1] == pytest.approx(before, nan_ok=True)
    assert not math.isfinite(running.result(backend.asarray(np.zeros(5, np.uint8))).loss)


def test_means_of_many_samples_are_taken_in_float64() -> None:
    """In float32 a sum of 2^25 times 1 and then small ones would stand still; a mean of equal values is that value."""
    backend, n = ts.select_backend("cpu"), 1_000_003
    running = Running(backend, n, "float32")
    running.losses[:] = np.float32(0.1)
    assert running.result(np.zeros(n, np.uint8)).loss == pytest.approx(float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    check_finite("x", np.ones(3), 1.0)
    for results in ([value], [np.ones(2), np.array([1.0, value])]):
        with pytest.raises(ModelError, match="the model's outputs overflow: x: found NaN or infinity") as caught:
            check_finite("x", *results)
        assert "\n" not in str(caught.value)
