"""Check the four equations of back-propagation against central differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np

from ..backend import Backend
from ..engine import kernels
from ..engine.kinds import Activation
from ..engine.layers import layer_views
from ..engine.mlp import MLP, backward, score
from ..engine.workspace import Buffers, Workspace
from .checks import Check, Report, relative_error

H: Final = 1e-5  # near the cube root of 2^-53: truncation (H^2) and rounding (2^-53 / H) are then both near 1e-11
GRADIENT_LIMIT: Final = 1e-7
GRADIENT_LAYERS: Final = (5, 4, 4, 3)

EQUATIONS: Final = {
    "BP1": ("dZ_L = dA_L * f'(Z_L)", "the output's delta: how the loss answers to each Z of the last layer"),
    "BP2": ("dZ_l = (dZ_(l+1) W_(l+1)^T) * f'(Z_l)", "a hidden delta: the next layer's, sent back through its weights"),
    "BP3": ("db_l = 1^T dZ_l", "a bias moves Z one for one: its slope is the delta, summed over the samples"),
    "BP4": ("dW_l = A_(l-1)^T dZ_l", "a weight's slope: what came in times the delta, summed over the samples"),
}


def verify_gradients(backend: Backend) -> Report:
    """Check the four equations against central differences, in float64, for all activations, losses and outputs."""
    checks: list[Check] = []
    kinds = [(a, loss, out) for a, (loss, outs) in product(kernels.ACTIVATIONS, kernels.LOSSES.items()) for out in outs]
    for activation, loss, output in kinds:
        checks += network_checks(backend, activation, loss, output)
    checks.sort(key=lambda check: check.what)  # stable: by layer, then by equation
    shape = "-".join(map(str, GRADIENT_LAYERS))
    formula = max(len(formula) for formula, _ in EQUATIONS.values())
    return Report(
        "grad",
        backend,
        "worst relative error",
        [
            f"back-propagation against (L(w + h) - L(w - h)) / 2h, h = {H:g}, float64: {len(kinds)} networks {shape}",
            *(f"{name}  {text:{formula}}  {words}" for name, (text, words) in EQUATIONS.items()),
            "relative error: ||backward - differences|| / the larger norm; deltas by way of one sample's biases",
        ],
        checks,
    )


def network_checks(backend: Backend, activation: str, loss: str, output: str) -> list[Check]:
    """The equations for one network, with one sample and with four."""
    checks, where = [], f"{activation}, {loss}, {output} output"
    for n in (1, 4):
        net, X, T = _smooth_batch(backend, activation, loss, output, n)
        workspace = Workspace(backend, net.layers, net.dtype, n, **net.own_arrays)
        buffers = workspace.rows(n)
        flat = np.array(backend.to_host(net.parameters))
        loss_at = partial(_loss, net, buffers, X, T)
        numeric = layer_views(_central_differences(loss_at, flat), net.layers)
        loss_at(flat)
        target = backend.xp.empty_like(net.parameters)
        target.fill(np.nan)  # beta = 0 must not read it
        backward(net, buffers, layer_views(target, net.layers), 1.0, 0.0, 0.0)
        found = layer_views(np.array(backend.to_host(target)), net.layers)
        for index, (ours, theirs) in enumerate(zip(found, numeric, strict=True)):
            layer, last = f"layer {index + 1}", index == len(found) - 1
            pairs = {"BP3": (ours.b, theirs.b), "BP4": (ours.W, theirs.W)}
            if n == 1:  # with one sample, the gradient of the biases is the delta
                delta = np.array(backend.to_host(buffers.dA[index]))
                pairs = {"BP1" if last else "BP2": (delta, theirs.b)}
            for name, pair in pairs.items():
                checks.append(Check(f"{layer}  {name}", where, relative_error(*pair), GRADIENT_LIMIT))
    return checks


def _loss(net: MLP, buffers: Buffers, X: Any, T: Any, flat: np.ndarray) -> float:
    """The mean loss of a batch with the parameters ``flat``, computed by the engine."""
    backend = net.backend
    for target, source in ((net.parameters, backend.asarray(flat)), (buffers.A[0], X), (buffers.T, T)):
        backend.xp.copyto(target, source)
    score(net, buffers, classes=False)
    return float(backend.to_host(buffers.losses).mean())


def _central_differences(loss: Callable[[np.ndarray], float], flat: np.ndarray) -> np.ndarray:
    slopes = np.empty_like(flat)
    for i, step in enumerate(H * np.eye(flat.size)):
        slopes[i] = (loss(flat + step) - loss(flat - step)) / (2 * H)
    return slopes


def _smooth_batch(backend: Backend, activation: Any, loss: Any, output: Any, n: int) -> tuple[MLP, Any, Any]:
    """A network and a batch on the device. Central differences are wrong across ReLU's kink, so this takes the first
    seed with all Z of ReLU layers away from 0 and, in each layer, an active unit for every sample."""
    for seed in range(1000):
        net = MLP(GRADIENT_LAYERS, activation, loss, seed, "float64", output=output, init="scaled-normal")
        rng = np.random.default_rng(seed)
        X, T = rng.uniform(-1, 1, (n, net.layers[0])), rng.uniform(0.1, 0.9, (n, net.layers[-1]))
        if output == "softmax":
            T /= T.sum(axis=1, keepdims=True)
        # A user's own may have a kink as well.
        kinked = [Z for Z, name in preactivations(net, X) if name == "relu" or isinstance(name, Activation)]
        if all(np.abs(Z).min() > 100 * H and (Z > 0).any(axis=1).all() for Z in kinked):
            return net.to(backend), backend.asarray(X), backend.asarray(T)
    raise AssertionError("no seed is clear of the kinks")


def preactivations(net: MLP, X: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Z of every layer, computed with plain NumPy, and the name of its activation."""
    found, names = [], [*[net.activation] * (len(net.layers) - 2), net.output]
    for layer, name in zip(net.views, names, strict=True):
        Z = X @ layer.W + layer.b
        found.append((Z, name))
        X = Z.copy()
        activation = name if isinstance(name, Activation) else kernels.ACTIVATIONS.get(name)
        if activation:
            activation.forward(np, *([] if activation.in_place else [Z]), X)
    return found
