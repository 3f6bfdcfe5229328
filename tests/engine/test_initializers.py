"""Initial weights: the moments their formulas promise, the same bits on every device."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from twostroke import MLP
from twostroke.backend import Backend
from twostroke.engine.initializers import INITIALIZERS, NORMAL_BIASES, initial_parameters
from twostroke.engine.kernels import ACTIVATIONS
from twostroke.engine.layers import layer_views

FAN_IN, FAN_OUT = 400, 250  # 100,000 draws: a standard deviation is known to about 1 / sqrt(2 n) = 0.2 %
DEVIATION = {
    "he": sqrt(2 / 400),
    "glorot": sqrt(2 / (400 + 250)),  # of U(-r, r): r / sqrt 3, with r = sqrt(6 / 650)
    "normal": 1.0,
    "scaled-normal": sqrt(1 / 400),
}


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_moments(name: str, rng: np.random.Generator) -> None:
    W = INITIALIZERS[name](rng, FAN_IN, FAN_OUT)
    assert W.shape == (FAN_IN, FAN_OUT)
    assert W.dtype == np.float64
    assert abs(W.std() / DEVIATION[name] - 1) < 0.01
    assert abs(W.mean()) < 5 * DEVIATION[name] / sqrt(W.size)
    kurtosis = ((W / W.std()) ** 4).mean()
    assert abs(kurtosis - (1.8 if name == "glorot" else 3.0)) < 0.1  # of a uniform, of a normal distribution
    if name == "glorot":
        limit = sqrt(6 / (FAN_IN + FAN_OUT))
        assert 0.999 * limit < np.abs(W).max() <= limit


def test_glorots_limit_by_hand() -> None:
    """r = sqrt(6 / (1 + 5)) = 1: the draw itself, rescaled to -1..1."""
    draws = INITIALIZERS["glorot"](np.random.default_rng(3), 1, 5)
    assert np.allclose(draws.ravel(), 2 * np.random.default_rng(3).random(5) - 1, rtol=1e-15)


@pytest.mark.parametrize("init", sorted(INITIALIZERS))
def test_the_flat_buffer_holds_w_and_b_layer_by_layer(init: str) -> None:
    layers = [30, 20, 10]
    flat = initial_parameters(layers, init, seed=5)
    assert flat.shape == (30 * 20 + 20 + 20 * 10 + 10,)
    first, second = layer_views(flat, layers)
    assert [first.W.shape, first.b.shape, second.W.shape, second.b.shape] == [(30, 20), (1, 20), (20, 10), (1, 10)]
    assert np.shares_memory(second.W, flat)
    assert np.array_equal(np.concatenate([part.ravel() for layer in (first, second) for part in layer]), flat)
    for layer in (first, second):
        assert layer.b.any() == (init in NORMAL_BIASES)
        assert np.unique(layer.W).size == layer.W.size


def test_weights_are_a_function_of_the_seed() -> None:
    assert np.array_equal(initial_parameters([5, 4], "he", 1), initial_parameters([5, 4], "he", 1))
    assert not np.array_equal(initial_parameters([5, 4], "he", 1), initial_parameters([5, 4], "he", 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_device_starts_from_the_same_bits(backend: Backend, dtype: str) -> None:
    net = MLP([20, 10, 5], seed=9, dtype=dtype, backend=backend)
    expected = initial_parameters([20, 10, 5], "he", 9).astype(dtype)
    assert np.array_equal(np.array(backend.to_host(net.parameters)), expected)


def test_every_activation_has_a_default() -> None:
    assert {activation.init for activation in ACTIVATIONS.values()} <= INITIALIZERS.keys()


def test_the_first_draws_never_change() -> None:
    """Part of the reproducibility contract: models are named by their seed."""
    assert initial_parameters([2, 2], "normal", 0).round(6).tolist() == FIRST_DRAWS


FIRST_DRAWS = [0.12573, -0.132105, 0.640423, 0.1049, -0.535669, 0.361595]
