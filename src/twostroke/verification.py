"""Checks that anyone can run on their own machine: gradients, agreement of devices, exact resume.

Each returns a ``Report`` of rows, every one with what was found and the limit it is held against.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from . import kernels
from .backend import Backend, select_backend
from .batches import batch_bounds, epoch_order
from .checkpoint import restore, save_checkpoint
from .dataset import Dataset, load_dataset
from .errors import ConfigError, VerificationError
from .mlp import DTYPES, MLP, OUTPUTS, backward, forward, layer_views, loss_forward
from .optimizers import OPTIMIZERS
from .record import versions
from .training import TrainConfig, TrainingRun, TrainingStep, make_optimizer, upload
from .workspace import Buffers, Workspace

H: Final = 1e-5  # near the cube root of 2^-53: truncation (H^2) and rounding (2^-53 / H) are then both near 1e-11
GRADIENT_LIMIT: Final = 1e-7
PARITY_LIMITS: Final = {"float32": 5e-6, "float64": 1e-12}
GRADIENT_LAYERS, PARITY_LAYERS = (5, 4, 4, 3), (784, 64, 32, 10)
PARITY_NETWORKS: Final = (("relu", "cross-entropy"), ("tanh", "cross-entropy"), ("sigmoid", "quadratic"))
PARITY_BATCH, PARITY_STEPS = 64, 10
KINK: Final = 1e-5  # a Z of ReLU nearer to 0 than this may fall on either side of it on another device

EQUATIONS: Final = {
    "BP1": ("dZ_L = dA_L * f'(Z_L)", "the output's delta: how the loss answers to each Z of the last layer"),
    "BP2": ("dZ_l = (dZ_(l+1) W_(l+1)^T) * f'(Z_l)", "a hidden delta: the next layer's, sent back through its weights"),
    "BP3": ("db_l = 1^T dZ_l", "a bias moves Z one for one: its slope is the delta, summed over the samples"),
    "BP4": ("dW_l = A_(l-1)^T dZ_l", "a weight's slope: what came in times the delta, summed over the samples"),
}


@dataclass(frozen=True)
class Check:
    """One row: what was compared, in which setting, the error found and its limit. NaN never passes."""

    what: str
    where: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class Report:
    """The outcome of one verification: text to explain it, the rows to show, and every single check."""

    name: str
    backend: Backend
    unit: str  # of the errors
    text: list[str]
    checks: list[Check]
    closing: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def rows(self) -> list[Check]:
        """The worst check of each kind, in the order in which the kinds came."""
        worst: dict[str, Check] = {}
        for check in self.checks:
            if check.what not in worst or _badness(check) > _badness(worst[check.what]):
                worst[check.what] = check
        return list(worst.values())

    def lines(self) -> list[str]:
        """The report as text; the last line says how it ended."""
        width = max(len(row.what) for row in self.rows)
        head = f"{'':{width}}  {self.unit:>22}  {'limit':>7}  worst in"
        table = [
            f"{row.what:{width}}  {row.error:22.2g}  {row.limit:7.0e}  {row.where}{'' if row.passed else '  FAILED'}"
            for row in self.rows
        ]
        failed = sum(not check.passed for check in self.checks)
        end = f"{failed} of {len(self.checks)} checks FAILED" if failed else f"all {len(self.checks)} checks passed"
        return [*self.text, head, *table, *self.closing, f"verify {self.name}: {end} on {self.backend.device}"]

    def record(self) -> dict[str, Any]:
        """The report as the dictionary that ``--json`` prints."""
        return {
            "verification": self.name,
            "passed": self.passed,
            "backend": self.backend.name,
            **{name: getattr(self.backend, name) for name in ("device", "reason", "threads")},
            "unit": self.unit,
            "notes": self.closing,
            "checks": [asdict(check) | {"passed": check.passed} for check in self.checks],
            "machine": self.backend.describe(),
            "versions": versions(),
        }

    def require(self) -> None:
        """Raise ``VerificationError`` with the worst row unless everything passed."""
        if not self.passed:
            worst = max(self.checks, key=_badness)
            raise VerificationError(
                f"verify {self.name} failed on {self.backend.device}",
                where=f"{worst.what}, {worst.where}",
                found=f"{worst.error:.3g}",
                expected=f"<= {worst.limit:.0e}",
                remedy="Please report it with: twostroke doctor --json.",
            )


def _badness(check: Check) -> float:
    if np.isnan(check.error):
        return float("inf")
    return check.error / check.limit if check.limit else check.error


def verify(name: str, backend: Backend) -> Report:
    """The verification called ``name`` on ``backend``. Raises ``ConfigError`` if there is no such one."""
    if name not in VERIFICATIONS:
        raise ConfigError("unknown check", where="CHECK", found=repr(name), expected=" or ".join(VERIFICATIONS))
    with backend.active():
        return VERIFICATIONS[name](backend)


def relative_error(found: Any, expected: Any) -> float:
    """||found - expected|| / max(||found||, ||expected||), in float64; 0 where both are zero."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"shapes {found.shape} and {expected.shape}")
    # A difference that overflows is NaN, and NaN passes no limit.
    with np.errstate(all="ignore"):
        scale = np.maximum(np.linalg.norm(found), np.linalg.norm(expected))
        return float(np.linalg.norm(found - expected) / scale) if scale else 0.0


# --- gradients -------------------------------------------------------------------------------------------


def verify_gradients(backend: Backend) -> Report:
    """The four equations of back-propagation against central differences, in float64, for every kind of network."""
    checks: list[Check] = []
    kinds = [(a, loss, out) for a, (loss, outs) in product(kernels.ACTIVATIONS, OUTPUTS.items()) for out in outs]
    for activation, loss, output in kinds:
        checks += _gradient_checks(backend, activation, loss, output)
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


def _gradient_checks(backend: Backend, activation: str, loss: str, output: str) -> list[Check]:
    checks, where = [], f"{activation}, {loss}, {output} output"
    for n in (1, 4):
        net, X, T = _smooth_batch(backend, activation, loss, output, n)
        workspace = Workspace(backend, net.layers, net.dtype, n)
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
            if n == 1:  # with one sample the slope of the loss along the biases is the delta itself
                delta = np.array(backend.to_host(buffers.dA[index]))
                pairs = {"BP1" if last else "BP2": (delta, theirs.b)}
            for name, pair in pairs.items():
                checks.append(Check(f"{layer}  {name}", where, relative_error(*pair), GRADIENT_LIMIT))
    return checks


def _loss(net: MLP, buffers: Buffers, X: Any, T: Any, flat: np.ndarray) -> float:
    """The engine's mean loss of a batch with these parameters."""
    backend = net.backend
    for target, source in ((net.parameters, backend.asarray(flat)), (buffers.A[0], X), (buffers.T, T)):
        backend.xp.copyto(target, source)
    forward(net, buffers)
    loss_forward(net, buffers)
    return float(backend.to_host(buffers.losses).mean())


def _central_differences(loss: Callable[[np.ndarray], float], flat: np.ndarray) -> np.ndarray:
    slopes = np.empty_like(flat)
    for i, step in enumerate(H * np.eye(flat.size)):
        slopes[i] = (loss(flat + step) - loss(flat - step)) / (2 * H)
    return slopes


def _smooth_batch(backend: Backend, activation: str, loss: str, output: str, n: int) -> tuple[MLP, Any, Any]:
    """A network and a batch on the device. The difference quotient across the kink of a ReLU is no derivative: the
    first seed is taken with every Z of a ReLU away from it, and with a live unit for every sample in every layer."""
    for seed in range(1000):
        net = MLP(GRADIENT_LAYERS, activation, loss, seed, "float64", output=output, init="scaled-normal")
        rng = np.random.default_rng(seed)
        X, T = rng.uniform(-1, 1, (n, net.layers[0])), rng.uniform(0.1, 0.9, (n, net.layers[-1]))
        if output == "softmax":
            T /= T.sum(axis=1, keepdims=True)
        kinked = [Z for Z, name in _preactivations(net, X) if name == "relu"]
        if all(np.abs(Z).min() > 100 * H and (Z > 0).any(axis=1).all() for Z in kinked):
            return net.to(backend), backend.asarray(X), backend.asarray(T)
    raise AssertionError("no seed is clear of the kinks")


def _preactivations(net: MLP, X: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Every layer's Z on the host, in plain NumPy, with the name of its activation."""
    found, names = [], [*[net.activation] * (len(net.layers) - 2), net.output]
    for layer, name in zip(net.views, names, strict=True):
        Z = X @ layer.W + layer.b
        found.append((Z, name))
        X = Z.copy()
        if name in kernels.ACTIVATIONS:
            kernels.ACTIVATIONS[name].forward(np, X)
    return found


# --- agreement of devices --------------------------------------------------------------------------------


def verify_parity(backend: Backend) -> Report:
    """The same networks, samples and steps on one thread of the CPU and on ``backend``, tensor by tensor.

    Where ``backend`` is the CPU itself: against all its threads, and against a step that is not recorded.
    """
    reference = select_backend("cpu", 1)
    compared = [(f"{backend.device}", backend, True)]
    closing: tuple[str, ...] = ()
    if backend.threads is not None:
        every = select_backend("cpu", select_backend("cpu").threads or 1)
        compared = [(f"cpu, {every.threads} threads", every, True), ("cpu, not recorded", reference, False)]
        closing = (f"NO GPU WAS COMPARED: the CPU with itself only ({backend.reason})",)
    data = load_dataset("mnist")
    checks = []
    for (activation, loss), dtype in product(PARITY_NETWORKS, DTYPES):
        ours = _pass_and_steps(reference, activation, loss, dtype, data)
        for name, other, recorded in compared:
            theirs = _pass_and_steps(other, activation, loss, dtype, data, recorded=recorded)
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
    backend: Backend, activation: str, loss: str, dtype: str, data: Dataset, *, recorded: bool = True
) -> dict[str, np.ndarray]:
    """Every tensor of one pass by name, on the host; and the weights after some steps."""
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
        step = TrainingStep(net, pixels, labels, optimizer, PARITY_BATCH)
        order = backend.asarray(epoch_order(len(images), 0, 0))
        for start, stop in batch_bounds(len(images), PARITY_BATCH):
            if recorded:
                step.run(order, start, stop, 0.1)
                continue
            backend.xp.copyto(buffers.indices, order[start:stop])
            optimizer.set_rate(0.1)
            workspace.gather_inputs(pixels, buffers)
            workspace.gather_targets(labels, buffers)
            step.learn(buffers)
        for index, view in enumerate(net.views, 1):
            note(f"W{index} after {PARITY_STEPS} steps", view.W)
            note(f"b{index} after {PARITY_STEPS} steps", view.b)
    return found


def _parity_network(activation: str, loss: str, dtype: str, images: Any) -> MLP:
    """The first seed whose Z are clear of ReLU's kink: rounding must not decide whether a unit is on."""
    X = images.reshape(len(images), -1) / 255.0
    for seed in range(1000):
        net = MLP(PARITY_LAYERS, activation, loss, seed, dtype)
        kinked = [Z for Z, name in _preactivations(net, X) if name == "relu"]
        if all(np.abs(Z).min() > KINK for Z in kinked):
            return net
    raise AssertionError("no seed keeps clear of the kinks")


# --- exact resume ----------------------------------------------------------------------------------------


def verify_resume(backend: Backend) -> Report:
    """Training stopped, saved and continued in a new run, against the same training unbroken: byte for byte."""
    data = load_dataset("mnist")
    data = replace(data, train_images=data.train_images[:320], train_labels=data.train_labels[:320])
    data = replace(data, test_images=data.test_images[:100], test_labels=data.test_labels[:100])
    checks, per_epoch = [], 5
    for optimizer in OPTIMIZERS:
        config = TrainConfig(epochs=3, batch_size=64, optimizer=optimizer, l2=1e-4, evaluate_test=True)

        def new_run(config: TrainConfig = config) -> TrainingRun:
            return TrainingRun(MLP([data.n_features, 32, 16, data.n_classes]), data, config, backend)

        unbroken = _finish(new_run())
        for moment, steps in (("in the middle of an epoch", per_epoch + 2), ("at an epoch's end", per_epoch)):
            with tempfile.TemporaryDirectory(prefix="twostroke-verify-") as folder:
                path = Path(folder) / "checkpoint.safetensors"
                first = new_run()
                while first.steps < steps:
                    first.advance(steps - first.steps)
                save_checkpoint(first, data, path)
                second = new_run()
                restore(second, data, path)
                resumed = _finish(second)
            for name, expected in unbroken.items():
                found = resumed[name]
                different = sum(a != b for a, b in zip(found, expected, strict=True)) if found != expected else 0
                checks.append(Check(f"{optimizer:8}  {moment}, after step {steps}", name, different, 0.0))
    threads = "" if backend.threads is None else f", {backend.threads} thread{'s' if backend.threads != 1 else ''}"
    return Report(
        "resume",
        backend,
        "bytes that differ",
        [
            f"stopped, saved, continued in a new run against unbroken: {', '.join(OPTIMIZERS)} on"
            f" {backend.device}{threads}; {3 * per_epoch} steps, momenta and losses too",
        ],
        checks,
    )


def _finish(run: TrainingRun) -> dict[str, bytes]:
    """Work to the end; the bytes of everything that training made, by name."""
    while not run.done:
        run.advance()
    host = run.net.backend.to_host
    found = {name: np.ascontiguousarray(host(array)).tobytes() for name, array in run.state.items()}
    losses = [(e.train_loss, e.train_accuracy, e.test_loss, e.test_accuracy) for e in run.history]
    return found | {"history": np.array(losses, dtype=np.float64).tobytes()}


VERIFICATIONS: Final[dict[str, Callable[[Backend], Report]]] = {
    "grad": verify_gradients,
    "parity": verify_parity,
    "resume": verify_resume,
}
