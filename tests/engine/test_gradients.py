"""Back-propagation through the whole network against central differences, in float64, on every device."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.gradcheck import (
    Engine,
    central_differences,
    make_batch,
    reference_loss,
    relative_error,
    tensors,
    worst_error,
)
from twostroke.backend import Backend
from twostroke.engine.kernels import ACTIVATIONS, LOSSES
from twostroke.engine.optimizers import OPTIMIZERS

LIMIT = 1e-7
HIDDEN = {0: [4, 3], 1: [4, 5, 3], 2: [4, 5, 4, 3]}
PAIRS = [(loss, output) for loss, outputs in LOSSES.items() for output in outputs]
Figure = Callable[[str, float], None]


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(("loss", "output"), PAIRS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_network_against_central_differences(
    backend: Backend, figure: Figure, activation: str, loss: str, output: str, hidden: int, n: int
) -> None:
    net, X, T = make_batch(backend, HIDDEN[hidden], activation, loss, output, n)
    flat = np.array(backend.to_host(net.parameters))
    # A workspace for 7: both batches are ragged ones in it.
    engine = Engine(net, X, T, capacity=7)

    assert relative_error(np.array(engine.forward()), np.array(reference_loss(net, flat, X, T))) <= 1e-14
    numeric = central_differences(engine.loss, flat)
    engine.set_parameters(flat)
    for name, tensor in tensors(numeric, net.layers):
        assert np.linalg.norm(tensor) > 1e-4, f"{name}: a gradient near zero proves nothing"

    error, name = worst_error(engine.gradient(), numeric, net.layers)
    figure(f"gradients against central differences, {backend.name}, worst relative error", error)
    assert error <= LIMIT, f"{name}: {error:.1e}"


@pytest.mark.parametrize(("loss", "output"), PAIRS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_what_each_optimiser_accumulates(
    backend: Backend, figure: Figure, activation: str, loss: str, output: str
) -> None:
    """The target after ``backward``, with the gradient solved for, against central differences.

    sgd's target is the parameters: p - lr (g + l2 W); momentum's its velocity: -lr (g + l2 W) from rest; that of
    the others g + l2 W (adamw: g alone, its decay is not part of the gradient). Biases do not decay.
    """
    net, X, T = make_batch(backend, HIDDEN[2], activation, loss, output, 5)
    flat = np.array(backend.to_host(net.parameters))
    engine, lr = Engine(net, X, T), 0.25
    of_the_loss = central_differences(engine.loss, flat)
    for optimizer, l2 in itertools.product(OPTIMIZERS, (0.0, 0.5)):
        expected = of_the_loss.copy()
        if optimizer != "adamw":
            for (name, g), (_, p) in zip(tensors(expected, net.layers), tensors(flat, net.layers), strict=True):
                np.add(g, l2 * p if name.startswith("W") else 0.0, out=g)
        engine.set_parameters(flat)
        rule = OPTIMIZERS[optimizer](net, l2)
        for _ in range(2):  # the second time finds whatever the first left in the target
            engine.set_parameters(flat)
            engine.forward()
            if optimizer == "momentum":
                rule.target.fill(0)
            rule.begin_step(lr)
            engine.backward(rule.target, *rule.prepare())
            found = np.array(backend.to_host(rule.target))
            if optimizer == "sgd":
                found = (flat - found) / lr
            elif optimizer == "momentum":
                found = -found / lr
            error, name = worst_error(found, expected, net.layers)
            figure(f"optimiser targets against central differences, {backend.name}, worst relative error", error)
            assert error <= LIMIT, f"{optimizer}, l2 {l2}, {name}: {error:.1e}"


def test_the_check_sees_a_wrong_gradient(backend: Backend) -> None:
    """One element of one tensor wrong by one part in a thousand is found."""
    net, X, T = make_batch(backend, HIDDEN[1], "tanh", "cross-entropy", "softmax", 5)
    engine, flat = Engine(net, X, T), np.array(backend.to_host(net.parameters))
    numeric, wrong = central_differences(engine.loss, flat), engine.gradient()
    largest = np.abs(wrong).argmax()
    wrong[largest] *= 1.001
    assert worst_error(wrong, numeric, net.layers)[0] > 1000 * LIMIT


def test_a_gradient_of_a_batch_is_the_mean_over_its_samples(backend: Backend) -> None:
    """The 1/N lives in one place: ragged batches weigh their samples alike."""
    net, X, T = make_batch(backend, HIDDEN[2], "tanh", "cross-entropy", "softmax", 5)
    together = Engine(net, X, T).gradient()
    single = [Engine(net, X[i : i + 1], T[i : i + 1], capacity=5).gradient() for i in range(5)]
    assert relative_error(together, np.mean(single, axis=0)) <= 1e-14


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "output"), [pair for pair in PAIRS if pair[1] != "relu"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS.keys() - {"relu"}))  # dropout moves the kinks of ReLU
def test_with_weights_and_dropout(
    backend: Backend, activation: str, loss: str, output: str, weighted: bool, dropout: float
) -> None:
    """Masks and weights held still, the loss is a function of the parameters like any other."""
    net, X, T = make_batch(backend, HIDDEN[2], activation, loss, output, 5)
    flat = np.array(backend.to_host(net.parameters))
    weights = np.array([0.5, 2.0, 1.5, 0.0, 1.0]) if weighted else None
    engine = Engine(net, X, T, capacity=7, weights=weights, dropout=dropout)
    numeric = central_differences(engine.loss, flat)
    engine.set_parameters(flat)
    error, name = worst_error(engine.gradient(), numeric, net.layers)
    assert error <= LIMIT, f"{name}: {error:.1e}"
    plain = Engine(net, X, T).gradient()
    assert (relative_error(plain, numeric) > 0.01) == bool(weighted or dropout), "no weight and no mask was applied"
