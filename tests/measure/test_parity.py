"""The same work on two devices, in two precisions, twice in a row.

Per tensor, by relative L2 norm: 5e-6 in float32, 1e-12 in float64. Element by element would fail on elements
near zero, where the order of a sum is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.engine.test_kernels import LIMIT, dtypes
from tests.support.gradcheck import Engine, relative_error, tensors
from tests.support.strict_device import StrictBackend, plant_fake_cupy
from twostroke import MLP, TrainConfig, select_backend
from twostroke.backend import Backend, CallByCall, Captured, Steps
from twostroke.backend.cpu.backend import NumpyBackend
from twostroke.backend.machine import available_cores
from twostroke.engine.batches import batch_bounds, dropout_keys, epoch_order
from twostroke.engine.epoch import Epoch
from twostroke.engine.evaluation import upload
from twostroke.engine.metrics import Running
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.step import TrainingStep
from twostroke.engine.training import make_optimizer

Figure = Callable[[str, float], None]
STEPS, SAMPLES, BATCH = 10, 50, 16  # every fourth batch is a ragged one of 2
every_optimizer = pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
NETWORKS = {
    "relu": ("relu", "cross-entropy", None, 0.0),
    "relu, decay": ("relu", "cross-entropy", None, 0.01),
    "sigmoid": ("sigmoid", "quadratic", None, 0.0),
    "tanh": ("tanh", "cross-entropy", "sigmoid", 0.0),
    "quadratic softmax": ("tanh", "quadratic", "softmax", 0.01),
    "dropout": ("sigmoid", "cross-entropy", None, 0.0),
    "poisson": ("tanh", "poisson", None, 0.0),
}
every_network = pytest.mark.parametrize("network", NETWORKS)


def cpu(threads: int | str = 1) -> Backend:
    """One thread, so that every sum has one order: the number of threads may change the last bit."""
    return select_backend("cpu", threads)


BOUNDS = list(batch_bounds(SAMPLES, BATCH))


def run_steps(
    backend: Backend, dtype: str, optimizer: str, network: str = "relu", images: str = "uint8"
) -> dict[str, np.ndarray]:
    """Every tensor that ten steps of training leave behind, on the host."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (SAMPLES, 20)) * (rng.random((SAMPLES, 20)) < 0.4)
    X = pixels.astype("uint8") if images == "uint8" else (pixels / 255).astype(dtype)
    y = rng.integers(0, 7, SAMPLES).astype("uint8")
    activation, loss, output, l2 = NETWORKS[network]
    net = MLP([20, 16, 12, 7], activation, loss, seed=3, dtype=dtype, output=output, backend=backend)
    before = np.array(backend.to_host(net.parameters))
    rule = make_optimizer(net, TrainConfig(optimizer=optimizer, l2=l2))
    running = Running(backend, SAMPLES, dtype)
    step = TrainingStep(net, *upload(backend, X, y, net), rule, BATCH, running, dropout=0.3 * (network == "dropout"))
    with backend.active():
        epoch = Epoch(step, BOUNDS)
        for number in range(-(-STEPS // len(BOUNDS))):
            first = number * len(BOUNDS)
            steps = range(first, first + len(BOUNDS))
            numbers = [rule.numbers(0.01 / (1 + count), count + 1, rule.l2) for count in steps]
            epoch.begin(epoch_order(SAMPLES, 0, number), numbers)
            if step.keys is not None:
                backend.xp.copyto(step.keys, backend.asarray(dropout_keys(SAMPLES, 0, number)))
            epoch.run(0, min(len(BOUNDS), STEPS - first))
        backend.synchronize()
    after = np.array(backend.to_host(net.parameters))
    assert relative_error(after, before) > 1e-4, "nothing was learnt"
    result = dict(tensors(after, net.layers)) | {"losses": np.array(backend.to_host(running.losses))}
    return result | {name: np.array(backend.to_host(array)) for name, array in rule.state.items()}


def worst(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[float, str]:
    assert found.keys() == expected.keys()
    return max((relative_error(found[name], expected[name]), name) for name in expected)


def assert_equal_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), name


# --- to the bit ----------------------------------------------------------------------------------------------


@dtypes
@every_optimizer
@every_network
def test_ten_steps_are_equal_to_the_bit_on_the_strict_device(network: str, optimizer: str, dtype: str) -> None:
    """NumPy's recorded step against the strict device's, which runs it anew each time."""
    host = run_steps(cpu(), dtype, optimizer, network)
    assert_equal_bits(run_steps(StrictBackend(), dtype, optimizer, network), host)


@dtypes
@every_optimizer
def test_ten_steps_are_equal_to_the_bit_from_run_to_run(optimizer: str, dtype: str) -> None:
    first = run_steps(cpu(), dtype, optimizer)
    assert_equal_bits(run_steps(cpu(), dtype, optimizer), first)


@dtypes
@pytest.mark.parametrize("threads", [min(2, available_cores()), "auto"])
def test_the_number_of_threads_changes_rounding_only(figure: Figure, threads: int | str, dtype: str) -> None:
    for what, found, expected in (
        ("ten steps", run_steps(cpu(threads), dtype, "momentum"), run_steps(cpu(), dtype, "momentum")),
        ("gradients", mnist_like_gradient(cpu(threads), 128, dtype), mnist_like_gradient(cpu(), 128, dtype)),
    ):
        error, name = worst(found, expected)
        figure(f"{what}, {dtype}, threads {threads} against 1, worst relative error", error)
        assert error <= LIMIT[dtype], f"{name}: {error:.1e}"


@dtypes
def test_pixels_and_scaled_floats_train_alike(dtype: str) -> None:
    """uint8 pixels are divided by 255 on the device; the same division beforehand gives the same bits."""
    backend = cpu()
    pixels, floats = run_steps(backend, dtype, "sgd"), run_steps(backend, dtype, "sgd", images="float")
    assert worst(floats, pixels)[0] <= LIMIT[dtype]


@dtypes
@every_optimizer
def test_cupys_backend_over_a_fake_cupy(monkeypatch: pytest.MonkeyPatch, optimizer: str, dtype: str) -> None:
    """All of ``CupyBackend`` but the device: NumPy's ufuncs, and a cuBLAS that works on host addresses."""
    expected = run_steps(cpu(), dtype, optimizer)
    plant_fake_cupy(monkeypatch)
    from twostroke.backend.cuda.backend import CupyBackend

    error, name = worst(run_steps(CupyBackend(), dtype, optimizer), expected)
    assert error <= LIMIT[dtype], f"{name}: {error:.1e}"


# --- a GPU ---------------------------------------------------------------------------------------------------


@dtypes
@every_optimizer
@every_network
def test_ten_steps_on_the_gpu(cuda: Backend, figure: Figure, network: str, optimizer: str, dtype: str) -> None:
    expected = run_steps(cpu(), dtype, optimizer, network)
    found = run_steps(cuda, dtype, optimizer, network)
    error, name = worst(found, expected)
    figure(f"ten steps, GPU against CPU, {dtype}, worst relative error", error)
    assert error <= LIMIT[dtype], f"{name}: {error:.1e}"
    assert np.abs(found["losses"] - expected["losses"]).max() <= 1e-5


# --- rounding: float32 against float64, and what must fail -----------------------------------------------------

BATCHES = [1, 2, 3, 16, 128, 1024, 4096]
every_batch = pytest.mark.parametrize("n", BATCHES)


class AnotherOrder(NumpyBackend):
    """Products added up in float64 and rounded once: as far from float32 BLAS as another BLAS would be."""

    def capture(self, parts: Sequence[Steps]) -> Captured:
        return CallByCall(np, parts)

    def gemm(self, a: Any, b: Any, out: Any, alpha: float = 1.0, beta: float = 0.0) -> None:
        product = float(alpha) * (a.astype("float64") @ b.astype("float64"))
        out[...] = product + float(beta) * out.astype("float64") if beta else product


class EmulatedTF32(AnotherOrder):
    """What a GPU's TF32 does: the inputs of a product rounded to a mantissa of 10 bits, sums in more."""

    def gemm(self, a: Any, b: Any, out: Any, alpha: float = 1.0, beta: float = 0.0) -> None:
        super().gemm(to_10_bits(a), to_10_bits(b), out, alpha, beta)


def to_10_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to nearest at 10 of its 23 bits of mantissa."""
    bits = np.ascontiguousarray(x, dtype="float32").view("uint32")
    rounded: np.ndarray = ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view("float32")
    return rounded


def test_the_emulation_rounds_to_10_bits() -> None:
    step = 2.0**-10
    x = np.array([1, 1 + step, 1 + 0.49 * step, 1 + 0.51 * step, -3.0, 0, 1e-30], dtype="float32")
    assert to_10_bits(x)[:-1].tolist() == [1, 1 + step, 1, 1 + step, -3, 0]
    assert abs(to_10_bits(x)[-1] / x[-1] - 1) <= step / 2


def mnist_like_gradient(backend: Backend, n: int, dtype: str) -> dict[str, np.ndarray]:
    """The gradient of a 784-128-10 network for n images, from weights and pixels that float32 holds exactly."""
    rng = np.random.default_rng(n)
    X = (rng.integers(0, 256, (n, 784)) * (rng.random((n, 784)) < 0.2) / 255).astype("float32")
    T = np.eye(10, dtype="float32")[rng.integers(0, 10, n)]
    net = MLP([784, 128, 10], seed=1, dtype=dtype, backend=backend)
    engine = Engine(net, X, T)
    engine.set_parameters(np.asarray(MLP([784, 128, 10], seed=1).parameters))
    with backend.active():
        return dict(tensors(engine.gradient(), net.layers))


@every_batch
def test_float32_gradients_against_float64(figure: Figure, n: int) -> None:
    expected = mnist_like_gradient(cpu(), n, "float64")
    for name, backend in (("its BLAS", cpu()), ("sums in another order", AnotherOrder())):
        found = mnist_like_gradient(backend, n, "float32")
        error, tensor = worst(found, expected)
        figure(f"float32 gradients against float64, {name}, worst relative error", error)
        assert error <= LIMIT["float32"], f"{tensor}: {error:.1e}"
        for tensor, g in expected.items():
            assert np.abs(found[tensor] - g).max() <= 1e-5 * np.abs(g).max(), tensor


@every_batch
def test_tf32_fails_the_limit(figure: Figure, n: int) -> None:
    """The limit is a real one: a GPU that rounds its inputs in silence is found at every batch size."""
    expected = mnist_like_gradient(cpu(), n, "float64")
    found = mnist_like_gradient(EmulatedTF32(), n, "float32")
    errors = {name: relative_error(found[name], expected[name]) for name in expected}
    figure("emulated TF32 gradients against float64, 1 / smallest worst error", 1 / max(errors.values()))
    assert max(errors.values()) > 20 * LIMIT["float32"]


@every_optimizer
def test_ten_steps_in_another_order_of_sums(figure: Figure, optimizer: str) -> None:
    """What the float32 limit of the GPU test leaves to a device that adds in another order."""
    expected = run_steps(cpu(), "float32", optimizer)
    error, name = worst(run_steps(AnotherOrder(), "float32", optimizer), expected)
    figure("ten steps, float32, sums in another order, worst relative error", error)
    assert error <= LIMIT["float32"], f"{name}: {error:.1e}"
    tf32, _ = worst(run_steps(EmulatedTF32(), "float32", optimizer), expected)
    assert tf32 > 10 * LIMIT["float32"]


@every_batch
def test_gradients_on_the_gpu(cuda: Backend, figure: Figure, n: int) -> None:
    exact = mnist_like_gradient(cpu(), n, "float64")
    for dtype in ("float32", "float64"):
        error, name = worst(mnist_like_gradient(cuda, n, dtype), exact)
        figure(f"gradients, GPU {dtype} against CPU float64, worst relative error", error)
        assert error <= LIMIT[dtype], f"{name}: {error:.1e}"


def test_tf32_on_the_gpu_fails_the_limit(cuda: Backend) -> None:
    capability = str(cuda.describe()["compute_capability"])
    if float(capability) < 8.0:
        pytest.skip(f"compute capability {capability} has no TF32")
    exact = mnist_like_gradient(cpu(), 1024, "float64")
    rounded = mnist_like_gradient(select_backend("cuda", tf32=True), 1024, "float32")
    assert worst(rounded, exact)[0] > 10 * LIMIT["float32"]
    # Switching it on for one backend leaves the other exact.
    assert worst(mnist_like_gradient(cuda, 1024, "float32"), exact)[0] <= LIMIT["float32"]
