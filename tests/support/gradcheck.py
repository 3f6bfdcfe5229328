"""Central differences, and the whole network written a second time in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from twostroke.backend import Backend
from twostroke.engine.layers import Layer, layer_views
from twostroke.engine.mlp import MLP, backward, forward, loss_forward
from twostroke.engine.optimizers import OptimizerState
from twostroke.engine.workspace import Buffers, Workspace

H = 1e-5  # near the cube root of 2^-53: truncation (H^2) and rounding (2^-53 / H) are then both near 1e-11


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / max(||found||, ||expected||), in float64; 0 where both are zero."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"shapes {found.shape} and {expected.shape}")
    scale = max(np.linalg.norm(found), np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected) / scale) if scale else 0.0


def central_differences(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = H) -> np.ndarray:
    """df/dx by (f(x + h) - f(x - h)) / 2h for every element; x (float64) is left as it was."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + h
        above = f(x)
        x[i] = old - h
        below = f(x)
        x[i] = old
        gradient[i] = (above - below) / (2 * h)
    return gradient


# --- the reference: textbook formulas, one sample after another where that is clearer ----------------------


def reference_activation(name: str, Z: np.ndarray) -> np.ndarray:
    if name == "softmax":
        E = np.exp(Z - Z.max(axis=1, keepdims=True))
        return np.asarray(E / E.sum(axis=1, keepdims=True))
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "relu": lambda z: np.where(z > 0, z, 0.0),
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
        "identity": lambda z: z,
        "exp": np.exp,
    }
    assert name in functions, f"add to reference_activation in {__file__} the formula of {name}"
    return functions[name](Z)


def reference_forward(net: MLP, flat: np.ndarray, X: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Every Z, and the outputs, of a network with these parameters."""
    Zs, A = [], X
    for layer in layer_views(flat, net.layers):
        Zs.append(A @ layer.W + layer.b)
        last = len(Zs) == len(net.layers) - 1
        A = reference_activation(net.output if last else net.activation, Zs[-1])
    return Zs, A


def reference_loss(net: MLP, flat: np.ndarray, X: np.ndarray, T: np.ndarray) -> float:
    """The mean loss of the batch, by the definitions."""
    A = reference_forward(net, flat, X)[1]
    if net.loss == "quadratic":
        per_sample = 0.5 * ((A - T) ** 2).sum(axis=1)
    elif net.output == "softmax":
        per_sample = -(T * np.log(A)).sum(axis=1)
    elif net.loss == "poisson":
        per_sample = (T * np.log(T / A) - T + A).sum(axis=1)
    else:
        per_sample = -(T * np.log(A) + (1 - T) * np.log(1 - A)).sum(axis=1)
    return float(per_sample.mean())


# --- the engine on any backend ---------------------------------------------------------------------------


class Engine:
    """The engine's own loss and gradient for one batch, as functions of parameters on the host."""

    def __init__(
        self,
        net: MLP,
        X: np.ndarray,
        T: np.ndarray,
        capacity: int | None = None,
        *,
        weights: np.ndarray | None = None,
        dropout: float = 0.0,
    ) -> None:
        self.net, self.backend, self.steps = net, net.backend, 0
        workspace = Workspace(
            self.backend, net.layers, net.dtype, capacity or len(X), weighted=weights is not None, dropout=dropout
        )
        self.buffers: Buffers = workspace.rows(len(X))
        if weights is not None:
            self.backend.xp.copyto(self.buffers.weights, self.backend.asarray(weights, net.dtype))
        if dropout:
            keys = np.random.default_rng(1).integers(0, 2**32, len(X), "uint32")
            self.backend.xp.copyto(self.buffers.indices, self.backend.asarray(np.arange(len(X))))
            workspace.draw_masks(self.backend.asarray(keys), self.buffers)
        self._X, self._T = self.backend.asarray(X, net.dtype), self.backend.asarray(T, net.dtype)

    def set_parameters(self, flat: np.ndarray) -> None:
        self.backend.xp.copyto(self.net.parameters, self.backend.asarray(flat, self.net.dtype))

    def forward(self) -> float:
        """Both the forward pass and the loss; the mean loss of the batch."""
        self.buffers.A[0][...] = self._X
        self.buffers.T[...] = self._T
        forward(self.net, self.buffers)
        loss_forward(self.net, self.buffers)
        return float(self.backend.to_host(self.buffers.losses).mean(dtype=np.float64))

    def loss(self, flat: np.ndarray) -> float:
        self.set_parameters(flat)
        return self.forward()

    def backward(self, target: Any, alpha: float, beta: float, beta_b: float) -> None:
        backward(self.net, self.buffers, layer_views(target, self.net.layers), alpha, beta, beta_b)

    def learn(self, rule: OptimizerState, lr: float) -> None:
        """One step of an optimiser, as ``TrainingStep`` takes it, not captured."""
        self.steps += 1
        rule.begin_step(lr, self.steps)
        self.forward()
        backward(self.net, self.buffers, rule.target_views, *rule.prepare())
        rule.update()

    def gradient(self) -> np.ndarray:
        """The gradient at the network's parameters, into a buffer full of NaN: beta = 0 must not read it."""
        self.forward()
        target = self.backend.xp.empty_like(self.net.parameters)
        target.fill(np.nan)
        self.backward(target, 1.0, 0.0, 0.0)
        return np.array(self.backend.to_host(target))


def tensors(flat: np.ndarray, layers: Sequence[int]) -> list[tuple[str, np.ndarray]]:
    """("W1", ...), ("b1", ...), ... of a flat host buffer."""
    views: list[Layer] = layer_views(flat, layers)
    return [(f"{name}{n}", getattr(view, name)) for n, view in enumerate(views, 1) for name in ("W", "b")]


def worst_error(found: np.ndarray, expected: np.ndarray, layers: Sequence[int]) -> tuple[float, str]:
    """The largest relative error over the tensors of two flat buffers, and the tensor's name."""
    pairs = zip(tensors(found, layers), tensors(expected, layers), strict=True)
    return max((relative_error(a, b), name) for (name, a), (_, b) in pairs)


def make_batch(
    backend: Backend, layers: Sequence[int], activation: str, loss: str, output: str, n: int, dtype: str = "float64"
) -> tuple[MLP, np.ndarray, np.ndarray]:
    """A network, X (n, D) and T (n, K), away from every kink of ReLU.

    Central differences straddle the kink of a ReLU whose Z lies within reach of a step of H: there the
    difference quotient is a mean of two slopes and disagrees with any derivative. So the first seed is taken
    with every such |Z| > 100 H and a live unit for every sample in every ReLU layer (a dead one would prove nothing).
    """
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        net = MLP(
            layers, activation, loss, seed=seed, dtype=dtype, output=output, init="scaled-normal", backend=backend
        )
        flat = np.array(backend.to_host(net.parameters), dtype=np.float64)
        X = rng.uniform(-1, 1, (n, layers[0]))
        T = rng.uniform(0.1, 0.9, (n, layers[-1]))
        if output == "softmax":
            T /= T.sum(axis=1, keepdims=True)
        Zs = reference_forward(net, flat, X)[0]
        kinked = Zs[:-1] if activation == "relu" else []
        kinked = kinked + Zs[-1:] if output == "relu" else kinked
        if any(np.abs(Z).min() < 100 * H or not (Z > 0).any(axis=1).all() for Z in kinked):
            continue
        return net, X, T
    raise AssertionError("no seed keeps clear of the kinks")
