"""Checks a user's own activation, loss or optimiser: its derivative, and the rules that let a step be replayed."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..backend import Array, Backend, Steps
from ..data.dataset import Dataset
from ..engine.config import TrainConfig
from ..engine.kernels import copy_to
from ..engine.kinds import Activation, Loss, Named, Optimizer
from ..engine.mlp import MLP
from ..engine.optimizers import Own
from ..engine.training import TrainingRun
from ..errors import VerificationError
from ..models.checkpoint import restore, save_checkpoint
from .checks import Check, Report, relative_error
from .gradients import H, network_checks
from .resume import finish

SAME: Final = 1e-12  # between two orders of the same sums, and between the exp of two devices, in float64
SLOPE_LIMIT: Final = 1e-6
MANY: Final = 1 << 16  # elements of an array that is seen among what Python itself allocates
BOWL_STEPS: Final = 2000
RANGES: Final = {"sigmoid": (0.02, 0.98), "softmax": (0.02, 0.98), "tanh": (-0.98, 0.98), "relu": (0.02, 30.0)}
USER_ERRORS: Final = (TypeError, AttributeError, ValueError, LookupError, NameError, ArithmeticError)

Call = Callable[..., Any]


def verify_kernel(backend: Backend, kernel: Named) -> Report:
    """Check a user's kernel in float64. Raises ``VerificationError`` if one of its functions raises an error."""
    kind = type(kernel).__name__
    checks_of: dict[type, Call] = {Activation: _activation, Loss: _loss, Optimizer: _optimizer}
    try:
        with np.errstate(all="ignore"):  # an overflow is said as a value that is not finite
            checks = checks_of[type(kernel)](backend, kernel)
    except USER_ERRORS as error:
        found, remedy = f"{type(error).__name__}: {error}", f"The rules are in the docstring of twostroke.{kind}."
        raise VerificationError(f"a function of the {kind} fails", where=kernel, found=found, remedy=remedy) from error
    text = [f"{kind} {kernel} in float64; derivatives against (f(x + h) - f(x - h)) / 2h, h = {H:g} max(1, |x|)"]
    return Report("grad", backend, "worst error", text, checks, remedy="The kernel is wrong at this place.")


# --- activations and losses: f(x), and its derivative ----------------------------------------------------------


def _activation(backend: Backend, kernel: Activation) -> list[Check]:
    def forward(bind: Call, X: Array, kept: Array, out: Array) -> None:
        bind(copy_to)(X, out if kernel.in_place else kept)
        bind(kernel.forward)(*([] if kernel.in_place else [kept]), out)

    def backward(bind: Call, X: Array, kept: Array, out: Array, scratch: Array) -> None:
        forward(bind, X, kept, scratch)
        bind(one)(out)
        bind(kernel.backward)(*([] if kernel.in_place else [kept]), scratch, out)

    x = _points(None)
    return [
        *_elementwise_checks(backend, "z", x, [], forward, backward, 1),
        *network_checks(backend, kernel, "quadratic", "tanh"),
    ]


def _loss(backend: Backend, kernel: Loss) -> list[Check]:
    def forward(bind: Call, A: Array, T: Array, scratch: Array, out: Array) -> None:
        bind(kernel.forward)(A, T, out, scratch)

    def backward(bind: Call, A: Array, T: Array, scratch: Array, out: Array, unused: Array) -> None:
        bind(kernel.backward)(A, T, out, scratch)

    A = _points(kernel.output)
    T = np.random.default_rng(1).uniform(0.1, 0.9, A.shape)
    return [
        *_elementwise_checks(backend, "a", A, [T], forward, backward, 1),
        *(_reads(name, one, A, T) for name, one in (("forward", kernel.forward), ("backward", kernel.backward))),
        *network_checks(backend, "tanh", kernel, kernel.output),
    ]


def _reads(name: str, kernel: Call, A: np.ndarray, T: np.ndarray) -> Check:
    """A and T are as they were: the output's activation needs A afterwards."""
    outputs, targets = A.copy(), T.copy()
    kernel(np, outputs, targets, np.zeros_like(A), np.zeros_like(A))
    return _worst(f"{name} only reads its inputs", "a", A, np.abs(outputs - A) + np.abs(targets - T), 0.0)


def one(xp: Any, out: Array) -> None:
    """out <- 1, for an array of any finite numbers: x * 0 + 1."""
    xp.multiply(out, 0.0, out=out)
    xp.add(out, 1.0, out=out)


def _points(output: str | None) -> np.ndarray:
    """Arguments (n, 4): near 0, where most are, and large ones of both signs; within the range of an output."""
    near = np.linspace(-4.0, 4.0, 96) + 1e-3 * np.sqrt(2.0)
    large = np.outer([-1.0, 1.0], [6.1, 10.1, 20.3, 30.7, 50.9, 100.1, 300.3, 1000.7]).ravel()
    found = np.concatenate([near, large])
    if output in RANGES:
        found = np.linspace(*RANGES[output], len(found))
    return found.reshape(-1, 4)


def _elementwise_checks(
    backend: Backend, name: str, x: np.ndarray, others: Sequence[np.ndarray], forward: Call, backward: Call, work: int
) -> list[Check]:
    """``forward(bind, x, *others, *work, out)`` and ``backward(bind, x, *others, *work, out, scratch)``."""
    bind = lambda kernel: partial(kernel, np)  # noqa: E731

    def value(x: np.ndarray, start: float = 0.0, others: Sequence[np.ndarray] = others) -> np.ndarray:
        out = np.full_like(x, start)
        forward(bind, x.copy(), *others, *(np.zeros_like(x) for _ in range(work)), out)
        return out

    def slope(x: np.ndarray) -> np.ndarray:
        out = np.zeros_like(x)
        backward(bind, x.copy(), *others, *(np.zeros_like(x) for _ in range(work)), out, np.zeros_like(x))
        return out

    found, again, step = value(x), value(x, 0.5), H * np.maximum(1.0, np.abs(x))
    numeric = (value(x + step) - value(x - step)) / ((x + step) - (x - step))
    half = value(x[1::2].copy(), others=[other[1::2].copy() for other in others])
    inputs = [x, *others]
    return [
        _worst("forward writes all of out", name, x, np.abs(again - found), 0.0),
        _worst("forward is finite", name, x, (~np.isfinite(found)).astype(float), 0.0),
        _worst("forward is elementwise", name, x[1::2], _gap(half, found[1::2]), SAME),
        _worst("backward = differences", name, x, _gap(slope(x), numeric), SLOPE_LIMIT),
        _allocation("forward", lambda *a: forward(bind, *a), 2 + len(others) + work),
        _allocation("backward", lambda *a: backward(bind, *a), 3 + len(others) + work),
        _replayed(backend, "forward", forward, inputs, work, 0),
        _replayed(backend, "backward", backward, inputs, work, 1),
    ]


def _gap(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    gap: np.ndarray = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    return gap


def _worst(what: str, name: str, x: np.ndarray, errors: np.ndarray, limit: float) -> Check:
    """The check of the worst element, and its argument."""
    flat = np.where(np.isnan(errors), np.inf, errors).ravel()
    at = int(flat.argmax())
    return Check(what, f"{name} = {x.ravel()[at]:.6g}", float(flat[at]), limit)


def _allocation(what: str, run: Call, count: int) -> Check:
    """Bytes that a call on large arrays allocates: fewer than a quarter of one of them."""
    arrays = [np.full((MANY // 4, 4), 0.5) for _ in range(count)]
    tracemalloc.start()
    try:
        run(*arrays)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return Check(f"{what} allocates nothing", f"arrays of {MANY * 8} bytes", float(peak), MANY * 2.0)


def _replayed(backend: Backend, what: str, run: Call, inputs: Sequence[np.ndarray], work: int, scratch: int) -> Check:
    """A captured call on other numbers against a plain call on the same: what a tape has not noted is not replayed."""
    arrays = [backend.copy_of(x, "float64") for x in inputs]
    rest = [backend.copy_of(np.zeros_like(inputs[0]), "float64") for _ in range(work + 1 + scratch)]
    out = rest[work]

    def step() -> None:
        run(backend.elementwise, *arrays, *rest)

    captured = backend.capture([Steps(step)])
    captured.run()
    captured.run()  # a device may capture the second step
    results = []
    for call in (captured.run, step):
        for array, x in zip(arrays, inputs, strict=True):
            backend.xp.copyto(array, backend.asarray(np.ascontiguousarray(x[::-1])))
        call()
        results.append(np.nan_to_num(np.array(backend.to_host(out))))
    return Check(f"{what} is replayed", "captured against called", relative_error(*results), SAME)


# --- optimisers ------------------------------------------------------------------------------------------------


def _optimizer(backend: Backend, kernel: Optimizer) -> list[Check]:
    return [*_update_checks(backend, kernel), *_resume_checks(backend, kernel)]


def _update_checks(backend: Backend, kernel: Optimizer) -> list[Check]:
    def finished(count: int, *, replay: bool, bowl: bool) -> tuple[np.ndarray, np.ndarray]:
        """The parameters before and after steps on the bowl p^2 / 2, or with random gradients."""
        net, rng = MLP([3, 4, 2], dtype="float64", backend=backend), np.random.default_rng(0)
        optimizer, gradient = Own(net, 0.0, kernel), backend.copy_of(np.zeros(net.parameters.size), "float64")
        before = np.array(backend.to_host(net.parameters))

        def step() -> None:
            optimizer.prepare()
            backend.elementwise(copy_to)(net.parameters if bowl else gradient, optimizer.target)
            optimizer.update()

        run = backend.capture([Steps(step)]).run if replay else step
        for number in range(1, count + 1):
            backend.xp.copyto(gradient, backend.asarray(rng.normal(size=before.size)))
            optimizer.begin_step(kernel.lr, number)
            run()
        return before, np.array(backend.to_host(net.parameters))

    (start, plain), (_, replayed) = (finished(20, replay=replay, bowl=False) for replay in (False, True))
    before, after = finished(BOWL_STEPS, replay=True, bowl=True)
    lowered = np.linalg.norm(after) / np.linalg.norm(before)
    unmoved = float((plain == start).all())
    operands = 2 + len(kernel.state) + kernel.scratch
    numbers = [np.array(value) for value in kernel.numbers(kernel.lr, 1)]
    return [
        Check("update writes into p", "20 steps", unmoved, 0.0),
        Check("update is replayed", "20 steps, captured against called", relative_error(replayed, plain), SAME),
        Check("update lowers p^2 / 2", f"|p| / |p before| after {BOWL_STEPS} steps", float(lowered), 0.9),
        _allocation("update", lambda *arrays: kernel.update(np, *arrays, *numbers), operands),
    ]


def _resume_checks(backend: Backend, kernel: Optimizer) -> list[Check]:
    """A run that is stopped within an epoch, saved and resumed, against one that is not: bytes that differ."""
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(96, 5)).astype("float32"), rng.integers(0, 3, 96)
    data = Dataset.from_arrays(X, labels, X[:16], labels[:16], name="verify")
    config = TrainConfig(epochs=2, batch_size=32, optimizer=kernel, l2=1e-4)

    def new_run() -> TrainingRun:
        return TrainingRun(MLP([5, 4, 3]), data, config, backend)

    whole, first, second = finish(new_run()), new_run(), new_run()
    first.advance(2)
    with tempfile.TemporaryDirectory(prefix="twostroke-verify-") as folder:
        restore(second, data, save_checkpoint(first, data, Path(folder) / "checkpoint.safetensors"))
    resumed = finish(second)
    return [
        Check(
            "resume, bytes that differ", name, sum(a != b for a, b in zip(whole[name], resumed[name], strict=True)), 0.0
        )
        for name in whole
    ]
