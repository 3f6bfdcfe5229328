"""Parity: the same training on two devices, compared tensor by tensor."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np

from ..backend import Backend, CallByCall, select_backend
from ..data.dataset import Dataset, load_dataset
from ..engine.batches import batch_bounds, epoch_order
from ..engine.config import TrainConfig
from ..engine.epoch import Epoch
from ..engine.evaluation import upload
from ..engine.layers import layer_views
from ..engine.mlp import DTYPES, MLP, backward, forward, loss_forward
from ..engine.step import TrainingStep
from ..engine.training import make_optimizer
from ..engine.workspace import Workspace
from .checks import Check, Report, relative_error
from .gradients import preactivations

PARITY_LIMITS: Final = {"float32": 5e-6, "float64": 1e-12}
PARITY_LAYERS: Final = (784, 64, 32, 10)
PARITY_NETWORKS: Final = (("relu", "cross-entropy"), ("tanh", "cross-entropy"), ("sigmoid", "quadratic"))
PARITY_BATCH, PARITY_STEPS = 64, 10
KINK: Final = 1e-5  # if a ReLU's |Z| is smaller than this, its sign may differ on another device


def verify_parity(backend: Backend) -> Report:
    """Compare the same networks, samples and steps on one CPU thread and on ``backend``, tensor by tensor.

    If ``backend`` is the CPU, compare with all its threads, and with steps that are not captured.
    """
    reference = select_backend("cpu", 1)
    compared = [(f"{backend.device}", backend, True)]
    closing: tuple[str, ...] = ()
    if backend.threads is not None:
        every = select_backend("cpu", select_backend("cpu").threads or 1)
        compared = [(f"cpu, {every.threads} threads", every, True), ("cpu, not captured", reference, False)]
        closing = (f"NO GPU WAS COMPARED: the CPU with itself only ({backend.reason})",)
    data = load_dataset("mnist")
    checks = []
    for (activation, loss), dtype in product(PARITY_NETWORKS, DTYPES):
        ours = _pass_and_steps(reference, activation, loss, dtype, data)
        for name, other, captured in compared:
            theirs = _pass_and_steps(other, activation, loss, dtype, data, captured=captured)
            where = f"{activation}, {loss}, {name}"
            for tensor, expected in ours.items():
                error = relative_error(theirs[tensor], expected)
                checks.append(Check(f"{dtype}  {tensor}", where, error, PARITY_LIMITS[dtype]))
    checks.sort(key=lambda check: check.what.split()[0])  # stable: float32 first
    names, shape = " and ".join(name for name, *_ in compared), "-".join(map(str, PARITY_LAYERS))
    return Report(
        "parity",
        backend,
        "worst relative L2",
        [
            f"one thread of the CPU against {names}: MNIST, networks {shape}, batch {PARITY_BATCH}",
            f"one pass forward and back, then the weights after {PARITY_STEPS} steps of momentum (not ReLU's: a Z that",
            "falls on the other side of its kink is no fault); relative L2: ||a - b|| / the larger norm, per tensor",
        ],
        checks,
        closing,
    )


def _pass_and_steps(
    backend: Backend, activation: str, loss: str, dtype: str, data: Dataset, *, captured: bool = True
) -> dict[str, np.ndarray]:
    """All tensors of one pass, and the weights after some steps: by name, on the host."""
    images = data.train_images[: PARITY_BATCH * PARITY_STEPS]
    net = _parity_network(activation, loss, dtype, images[:PARITY_BATCH]).to(backend)
    found: dict[str, np.ndarray] = {}

    def note(name: str, array: Any) -> None:
        found[name] = np.array(backend.to_host(array))

    with backend.active():
        pixels, labels = upload(backend, images, data.train_labels[: len(images)], net)
        workspace = Workspace(backend, net.layers, dtype, PARITY_BATCH)
        buffers = workspace.rows(PARITY_BATCH)
        workspace.load_inputs(pixels[:PARITY_BATCH], buffers)
        workspace.load_targets(labels[:PARITY_BATCH], buffers)
        forward(net, buffers)
        for index, A in enumerate(buffers.A[1:-1], 1):
            note(f"A{index}", A)
        loss_forward(net, buffers)
        note("outputs", buffers.A[-1])
        note("losses", buffers.losses)
        gradient = backend.xp.empty_like(net.parameters)
        views = layer_views(gradient, net.layers)
        backward(net, buffers, views, 1.0, 0.0, 0.0)
        for index, (delta, view) in enumerate(zip(buffers.dA, views, strict=True), 1):
            for name, array in ((f"dZ{index}", delta), (f"dW{index}", view.W), (f"db{index}", view.b)):
                note(name, array)
        if activation == "relu":
            return found
        optimizer = make_optimizer(net, TrainConfig())
        capture = None if captured else partial(CallByCall, backend.xp)
        bounds = list(batch_bounds(len(images), PARITY_BATCH))
        epoch = Epoch(TrainingStep(net, pixels, labels, optimizer, PARITY_BATCH, capture=capture), bounds)
        numbers = [optimizer.numbers(0.1, step + 1, optimizer.l2) for step in range(len(bounds))]
        epoch.begin(epoch_order(len(images), 0, 0), numbers)
        epoch.run(0, len(bounds))
        for index, view in enumerate(net.views, 1):
            note(f"W{index} after {PARITY_STEPS} steps", view.W)
            note(f"b{index} after {PARITY_STEPS} steps", view.b)
    return found


def _parity_network(activation: Any, loss: Any, dtype: Any, images: Any) -> MLP:
    """A network with the first seed that keeps all Z away from ReLU's kink, so that rounding cannot switch a unit."""
    X = images.reshape(len(images), -1) / 255.0
    for seed in range(1000):
        net = MLP(PARITY_LAYERS, activation, loss, seed, dtype)
        kinked = [Z for Z, name in preactivations(net, X) if name == "relu"]
        if all(np.abs(Z).min() > KINK for Z in kinked):
            return net
    raise AssertionError("no seed keeps clear of the kinks")
