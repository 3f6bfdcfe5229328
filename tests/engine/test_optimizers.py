"""Every update rule against the same rule written again in plain NumPy, over several steps; schedules by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.engine.test_kernels import LIMIT, Down, Up, dtypes
from tests.support.gradcheck import Engine, make_batch, relative_error, tensors, worst_error
from twostroke import MLP, ConfigError, TrainConfig, select_backend
from twostroke.backend import Backend, Steps
from twostroke.engine import optimizers
from twostroke.engine.mlp import backward, forward, loss_forward
from twostroke.engine.optimizers import OPTIMIZERS, Adam
from twostroke.engine.schedules import SCHEDULES, make_schedule
from twostroke.engine.training import make_optimizer

LAYERS = [6, 5, 4]
STEPS = 6
Rule = Iterator[np.ndarray]


def decayed(g: np.ndarray, p: np.ndarray, l2: float) -> np.ndarray:
    """The gradient of loss + l2/2 sum W^2: weights decay, biases do not."""
    g = g.copy()
    for (name, part), (_, old) in zip(tensors(g, LAYERS), tensors(p, LAYERS), strict=True):
        if name.startswith("W"):
            np.add(part, l2 * old, out=part)
    return g


# Each is a generator: it is sent (gradient of the loss, learning rate) and yields the parameters.


def sgd(p: np.ndarray, l2: float) -> Any:
    while True:
        g, lr = yield p
        p = p - lr * decayed(g, p, l2)


def momentum(p: np.ndarray, l2: float, mu: float = 0.9) -> Any:
    # Sutskever et al. 2013, equations 1 and 2: v' = mu v - lr grad(p); p' = p + v'
    v = np.zeros_like(p)
    while True:
        g, lr = yield p
        v = mu * v - lr * decayed(g, p, l2)
        p = p + v


def nesterov(p: np.ndarray, l2: float, mu: float = 0.9) -> Any:
    # Equations 3 and 4, v' = mu v - lr grad(q + mu v), q' = q + v', followed at the point p = q + mu v where the
    # gradient is taken.
    v = np.zeros_like(p)
    q = p.copy()
    while True:
        g, lr = yield q + mu * v
        v_next = mu * v - lr * decayed(g, q + mu * v, l2)
        q, v = q + v_next, v_next


def adam(p: np.ndarray, l2: float, decoupled: bool = False) -> Any:
    # Kingma & Ba 2015, algorithm 1, as printed; decoupled: Loshchilov & Hutter 2019, algorithm 2, line 12.
    m, v, t = np.zeros_like(p), np.zeros_like(p), 0
    while True:
        g, lr = yield p
        t += 1
        decay = decayed(np.zeros_like(p), p, l2)
        if not decoupled:
            g = g + decay
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
        p = p - lr * m_hat / (np.sqrt(v_hat) + 1e-8) - (lr * decay if decoupled else 0)


def adam_epsilon_hat(p: np.ndarray, l2: float) -> Any:
    # Kingma & Ba 2015, end of section 2: alpha_t = alpha sqrt(1 - beta2^t) / (1 - beta1^t), epsilon beside sqrt(v_t)
    m, v, t = np.zeros_like(p), np.zeros_like(p), 0
    while True:
        g, lr = yield p
        t += 1
        g = decayed(g, p, l2)
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        p = p - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)


KINDS = OPTIMIZERS | {"adam, epsilon hat": optimizers.AdamEpsilonHat}
REFERENCE: dict[str, Callable[[np.ndarray, float], Any]] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adam": adam,
    "adamw": lambda p, l2: adam(p, l2, decoupled=True),
    "adam, epsilon hat": adam_epsilon_hat,
}


@dtypes
@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(KINDS))
def test_updates_equal_the_textbook(backend: Backend, name: str, l2: float, dtype: str) -> None:
    net, X, T = make_batch(backend, LAYERS, "tanh", "cross-entropy", "softmax", 5, dtype)
    engine = Engine(net, X, T)
    start = np.array(backend.to_host(net.parameters), dtype="float64")
    # The textbook's gradients come from a float64 network on the CPU, at the textbook's own parameters.
    shadow_net = MLP(LAYERS, "tanh", dtype="float64")
    shadow = Engine(shadow_net, X, T)
    rule, textbook = KINDS[name](net, l2), REFERENCE[name](start, l2)
    expected = next(textbook)
    for step in range(STEPS):
        lr = 0.1 / (1 + step)  # a rate that changes at each step, as with a schedule
        engine.learn(rule, lr)
        shadow.set_parameters(expected)
        expected = textbook.send((shadow.gradient(), lr))
        found = np.array(backend.to_host(net.parameters))
        error, tensor = worst_error(found, expected, LAYERS)
        assert error <= LIMIT[dtype], f"step {step}, {tensor}: {error:.1e}"
    assert relative_error(expected, start) > 0.05, "the parameters hardly moved"


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_updates_by_hand(backend: Backend, up: Up, down: Down, name: str) -> None:
    """One weight and no bias to speak of: y = w x with x = 1, target 0, loss y^2 / 2, so g = w + b.

    From w = 1, b = 0, lr = 1/2, mu = 1/2:
    sgd       w = 1 - 1/2 = 1/2
    momentum  v = -1/2, w = 1/2 (b moves alike: -1/2), then g = 0, v = -1/4, w = 1/4
    nesterov  v = -1/2, w = 1 - 1/4 - 1/2 = 1/4
    adam      m_hat = g, v_hat = g^2: w = 1 - lr = 1/2 whatever g is (epsilon is 10^-8)
    """
    net = MLP([1, 1], "identity", "quadratic", output="identity", dtype="float64", backend=backend)
    backend.xp.copyto(net.parameters, up([1, 0]))
    engine = Engine(net, np.ones((1, 1)), np.zeros((1, 1)))
    rule = make_optimizer(net, TrainConfig(optimizer=name, momentum=0.5))
    seen = []
    for _ in range(2):
        engine.learn(rule, 0.5)
        seen.append(down(net.parameters)[0])
    first = {"sgd": 0.5, "momentum": 0.5, "nesterov": 0.25, "adam": 0.5, "adamw": 0.5}[name]
    assert abs(seen[0] - first) < 1e-7
    if name == "momentum":
        assert abs(seen[1] - 0.25) < 1e-15


def test_decoupled_decay_by_hand(backend: Backend, up: Up, down: Down) -> None:
    """A gradient of zero: adamw shrinks the weight by 1 - lr l2 = 0.9, the bias not at all."""
    net = MLP([1, 1], "identity", "quadratic", output="identity", dtype="float64", backend=backend)
    backend.xp.copyto(net.parameters, up([2, -2]))
    rule = OPTIMIZERS["adamw"](net, l2=0.2)
    rule.target.fill(0)
    rule.begin_step(0.5)
    rule.prepare()
    rule.update()
    assert np.allclose(down(net.parameters), [1.8, -2], rtol=1e-15)


KERNELS: dict[Any, tuple[int, list[float]]] = {  # arrays, scalars
    optimizers.add_to: (2, []),
    optimizers.add_to_scaled: (2, [0.9]),
    optimizers.scale_to: (2, [0.5]),
    optimizers.decay_velocity: (3, [0.9, 0.01]),
    optimizers.nesterov_update: (3, [-0.1, 0.9]),
    optimizers.adam_update: (4, [0.9, 0.1, 0.999, 0.1, 0.01, 1.5, 1e-8]),
}


@dtypes
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: str(kernel.__name__))
def test_parity_with_numpy(
    backend: Backend, up: Up, down: Down, rng: np.random.Generator, kernel: Any, dtype: str
) -> None:
    n_arrays, scalars = KERNELS[kernel]
    host = [rng.uniform(0.1, 1, 200).astype(dtype) for _ in range(n_arrays)]
    here = [up(array, dtype) for array in host]
    kernel(np, *host, *scalars)
    backend.elementwise(kernel)(*here, *scalars)
    for found, expected in zip(here, host, strict=True):
        assert relative_error(down(found), expected) <= LIMIT[dtype]


def test_state_is_what_carries_over(backend: Backend) -> None:
    """Every buffer of ``state`` is alive: it changes with a step and belongs to the optimiser."""
    expected = {"sgd": set(), "momentum": {"velocity"}, "nesterov": {"velocity"}}
    for name, kind in OPTIMIZERS.items():
        net, X, T = make_batch(backend, LAYERS, "tanh", "cross-entropy", "softmax", 5)
        rule, engine = kind(net), Engine(net, X, T)
        assert rule.state.keys() == expected.get(name, {"mean", "square"})
        engine.learn(rule, 0.1)
        for buffer in rule.state.values():
            assert buffer.shape == net.parameters.shape
            assert np.abs(np.array(backend.to_host(buffer))).max() > 0


@pytest.mark.parametrize("name", sorted(KINDS))
def test_l2_may_change_from_step_to_step(backend: Backend, name: str) -> None:
    """In a captured step, too: from the second on the calls are replayed."""
    results = []
    for l2s in ((0.1, 0.1, 0.5), (0.1, 0.1, 0.1)):
        net, X, T = make_batch(backend, LAYERS, "tanh", "cross-entropy", "softmax", 5)
        engine, rule = Engine(net, X, T), KINDS[name](net, 0.1)

        def step(engine: Engine = engine, net: MLP = net, rule: Any = rule) -> None:
            backend.xp.copyto(engine.buffers.A[0], engine._X)
            backend.xp.copyto(engine.buffers.T, engine._T)
            forward(net, engine.buffers)
            loss_forward(net, engine.buffers)
            backward(net, engine.buffers, rule.target_views, *rule.prepare())
            rule.update()

        captured = backend.capture([Steps(step)])
        for number, rule.l2 in enumerate(l2s, 1):
            before = np.array(backend.to_host(net.parameters))
            rule.begin_step(0.05, number)
            captured.run()
        results.append((np.array(backend.to_host(net.parameters)), before))
    (changed, before), (unchanged, before_too) = results
    assert np.array_equal(before, before_too)
    assert relative_error(changed, unchanged) > 1e-5


def test_the_gradient_alone(backend: Backend) -> None:
    net, X, T = make_batch(backend, LAYERS, "tanh", "cross-entropy", "softmax", 5)
    flat, plain = np.array(backend.to_host(net.parameters)), Engine(net, X, T).gradient()
    rule = optimizers.Gradient(net, 0.3)
    Engine(net, X, T).learn(rule, 0.1)
    assert np.array_equal(np.array(backend.to_host(net.parameters)), flat)
    assert relative_error(np.array(backend.to_host(rule.target)), decayed(plain, flat, 0.3)) < 1e-15


def test_adams_numbers_depend_on_the_step() -> None:
    """Kingma & Ba's bias corrections of step 3: 1 - 0.9^3 and 1 - 0.999^3."""
    rule = Adam(MLP([2, 2], dtype="float64", backend=select_backend("cpu")))
    expected = (0.25, 0.1 / 0.271, 1 / math.sqrt(0.002997001), 0.975)
    assert rule.numbers(0.1, 3, 0.25) == pytest.approx(expected, rel=1e-12)


# --- schedules -----------------------------------------------------------------------------------------------

# progress -> factor; one-cycle with warm-up 1/5: 0.1 is half way up, 0.2 the top, 0.6 half way down
BY_HAND = {
    "constant": {0.0: 1.0, 0.5: 1.0, 0.99: 1.0},
    "one-cycle": {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.6: 0.5, 0.8: 0.25},
    "step": {0.0: 1.0, 0.33: 1.0, 0.34: 0.1, 0.66: 0.1, 0.67: 0.01, 0.99: 0.01},
    "cosine": {0.0: 1.0, 0.5: 0.5, 1 / 3: 0.75, 2 / 3: 0.25},
}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_by_hand(name: str) -> None:
    schedule = make_schedule(name)
    for progress, factor in BY_HAND[name].items():
        assert schedule(progress) == pytest.approx(factor, abs=1e-12)
    assert all(0 <= schedule(i / 1000) <= 1 for i in range(1000))


def test_warm_up_moves_the_top() -> None:
    schedule = make_schedule("one-cycle", warmup=0.5)
    assert [schedule(progress) for progress in (0.0, 0.25, 0.5, 0.75)] == [0.0, 0.5, 1.0, 0.5]


def test_unknown_schedule() -> None:
    with pytest.raises(ConfigError, match=r"unknown schedule: schedule: found 'linear', expected constant or"):
        make_schedule("linear")


def test_make_optimizer_passes_its_settings(backend: Backend) -> None:
    net = MLP([2, 2], backend=backend)
    for name in OPTIMIZERS:
        rule = make_optimizer(net, TrainConfig(optimizer=name, momentum=0.7, l2=0.25))
        assert (rule.name, rule.l2) == (name, 0.25)
        assert getattr(rule, "momentum", 0.7) == 0.7
