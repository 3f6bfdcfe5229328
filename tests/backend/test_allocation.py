"""After the first step nothing is allocated, nothing crosses, nothing moves."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.engine.test_kernels import dtypes
from tests.support.strict_device import StrictArray, StrictBackend, traffic
from twostroke import MLP, TrainConfig, select_backend
from twostroke.backend import Backend
from twostroke.engine.batches import epoch_order
from twostroke.engine.epoch import Epoch
from twostroke.engine.evaluation import upload
from twostroke.engine.metrics import Running
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.step import TrainingStep
from twostroke.engine.training import make_optimizer

Figure = Callable[[str, float], None]
every_optimizer = pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
both_decays = pytest.mark.parametrize("l2", [0.0, 0.01])
LAYERS, CAPACITY, SAMPLES = [200, 150, 10], 512, 662
BATCHES = [(0, 512), (512, 662)]  # a full one and a ragged one
# NumPy's own scratch. A ufunc that converts (uint8 to float, bool to float) does so in buffers of 8192 elements,
# one for each operand; argmax over the rows of a Fortran-ordered array works on a copy of it in C order.
UFUNC_BUFFER = 8192
OBJECTS = 6 * 1024  # views, tuples, 0-d scalars: no array data


def array_address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


class Run:
    """A training step that has run twice for each batch size."""

    def __init__(
        self, backend: Backend, optimizer: str, l2: float = 0.0, dtype: str = "float32", *, everything: bool = False
    ) -> None:
        rng = np.random.default_rng(0)
        X = rng.integers(0, 256, (SAMPLES, LAYERS[0])).astype("uint8")
        y = rng.integers(0, LAYERS[-1], SAMPLES).astype("uint8")
        self.backend = backend
        self.net = MLP(LAYERS, dtype=dtype, backend=backend)
        self.rule = make_optimizer(self.net, TrainConfig(optimizer=optimizer, l2=l2))
        self.running = Running(backend, SAMPLES, dtype)
        images, labels = upload(backend, X, y, self.net)
        self.step = TrainingStep(
            self.net,
            images,
            backend.asarray(np.eye(LAYERS[-1], dtype=dtype)[y]) if everything else labels,
            self.rule,
            CAPACITY,
            self.running,
            weights=backend.asarray(rng.random(SAMPLES), dtype) if everything else None,
            dropout=0.5 if everything else 0.0,
        )
        self.epoch = Epoch(self.step, BATCHES)
        self.epoch.begin(epoch_order(SAMPLES, 0, 0), [self.rule.numbers(0.01, 1, l2)] * len(BATCHES))
        for _ in range(2):
            self.epoch.run(0, len(BATCHES))

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Every array a step works in."""
        yield "parameters", self.net.parameters
        yield "target", self.rule.target
        yield from self.rule.state.items()
        yield "running losses", self.running.losses
        for owner in (self.step.workspace, self.running):
            for name, value in vars(owner).items():
                for array in value if isinstance(value, list) else [value]:
                    if isinstance(array, np.ndarray | StrictArray):
                        yield name, array
        for start, stop in BATCHES:
            buffers = self.step.workspace.rows(stop - start)
            for name, value in buffers._asdict().items():
                for array in value if isinstance(value, list) else [value]:
                    yield f"{name} of {stop - start}", array
        for layer in [*self.net.views, *self.rule.target_views]:
            yield from layer._asdict().items()


def peak_and_growth(work: Callable[[], object], times: int) -> tuple[int, int]:
    """Bytes at the highest point, and bytes still held, after doing ``work`` so many times."""
    gc.collect()
    gc.disable()  # a collection empties Python's free lists, which then look like growth
    tracemalloc.start()
    try:
        for _ in range(10):
            work()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(times):
            work()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    return peak - before, after - before


@dtypes
@both_decays
@every_optimizer
def test_a_step_allocates_nothing_on_the_cpu(figure: Figure, optimizer: str, l2: float, dtype: str) -> None:
    # The default chooses the number of threads as it goes: one optimiser shows that this allocates nothing either.
    run = Run(select_backend("cpu", "auto" if optimizer == "momentum" else 1), optimizer, l2, dtype)
    size = np.dtype(dtype).itemsize
    with run.backend.active():
        for batch, (start, stop) in enumerate(BATCHES):
            n = stop - start
            peak, growth = peak_and_growth(lambda b=batch: run.epoch.run(b, b + 1), 50)  # type: ignore[misc]
            figure(f"peak of a step, {dtype}, {n} rows, bytes", peak)
            figure("growth over 50 steps, bytes", growth)
            # 50 objects of the smallest kind would be 2,800 bytes.
            assert growth < 2000
            bound = max(UFUNC_BUFFER, n * LAYERS[-1]) * size + OBJECTS
            assert peak < bound
            # So no array of the network's was made: the smallest of them that grows with n is larger.
            assert bound < n * LAYERS[1] * size


@dtypes
def test_weights_rows_and_dropout_allocate_nothing_either(dtype: str) -> None:
    """On the CPU NumPy's own scratch (a comparison of uint32 has two buffers), on a device nothing; nothing moves."""
    run = Run(select_backend("cpu", 1), "adam", 0.01, dtype, everything=True)
    with run.backend.active():
        for batch, (start, stop) in enumerate(BATCHES):
            peak, growth = peak_and_growth(lambda b=batch: run.epoch.run(b, b + 1), 50)  # type: ignore[misc]
            assert growth < 2000
            bound = max(2 * UFUNC_BUFFER, (stop - start) * LAYERS[-1]) * np.dtype(dtype).itemsize + OBJECTS
            assert peak < bound < (stop - start) * LAYERS[1] * 8
    device = Run(StrictBackend(), "adam", 0.01, dtype, everything=True)
    before, addresses = traffic.counts(), [array_address(array) for _, array in device.arrays()]
    for _ in range(3):
        device.epoch.run(0, len(BATCHES))
    assert traffic.counts() == before
    assert [array_address(array) for _, array in device.arrays()] == addresses


@pytest.mark.parametrize("n", [100, 1000, 4000])
def test_what_numpys_argmax_copies(figure: Figure, n: int) -> None:
    """The one copy of array data in a step, the size of the outputs; a CuPy reduction has none."""
    A, out = np.zeros((10, n), "float32").T, np.zeros(n, "int64")
    peak, growth = peak_and_growth(lambda: np.argmax(A, axis=1, out=out), 3)
    figure(f"numpy.argmax of a Fortran-ordered ({n}, 10) float32, bytes", peak)
    assert peak <= A.nbytes + 1024
    assert growth < 500


@pytest.mark.parametrize("layout", range(8))
def test_a_product_copies_nothing(layout: int) -> None:
    """Whichever of the three is transposed: a copy of a matrix would be 120,000 bytes or more."""
    backend = select_backend("cpu")
    for m, k, n in ((150, 100, 200), (1, 200, 300), (300, 200, 1), (150, 1, 200)):
        a = np.ones((k, m)).T if layout & 1 else np.ones((m, k))
        b = np.ones((n, k)).T if layout & 2 else np.ones((k, n))
        out = np.zeros((n, m)).T if layout & 4 else np.zeros((m, n))
        peak, growth = peak_and_growth(lambda a=a, b=b, out=out: backend.gemm(a, b, out, 0.5, 1.0), 3)  # type: ignore[misc]
        assert peak < 2000
        assert growth < 500
        assert (out == 13 * 0.5 * k).all()  # 10 + 3 products into the same out


@both_decays
@every_optimizer
def test_nothing_crosses_and_nothing_is_allocated_on_a_device(optimizer: str, l2: float) -> None:
    """The strict device counts every upload, download and new array; views are free."""
    run = Run(StrictBackend(), optimizer, l2)
    before = traffic.counts()
    for _ in range(3):
        run.epoch.run(0, len(BATCHES))
    assert traffic.counts() == before
    # The sync point: one download of two numbers.
    run.running.result(run.step.labels[run.epoch.order])
    assert traffic.downloads == before[1] + 1


@pytest.mark.parametrize("device", ["numpy", "strict"])
@both_decays
@every_optimizer
def test_nothing_moves(device: str, optimizer: str, l2: float) -> None:
    """A captured graph replays addresses: every array stays where it was, also after both batch sizes."""
    run = Run(StrictBackend() if device == "strict" else select_backend("cpu", 1), optimizer, l2)
    before = [(name, array_address(array)) for name, array in run.arrays()]
    assert len(before) > 50
    parameters = np.array(run.backend.to_host(run.net.parameters))
    for _ in range(5):
        run.epoch.run(0, len(BATCHES))
    assert [(name, array_address(array)) for name, array in run.arrays()] == before
    assert not np.array_equal(np.array(run.backend.to_host(run.net.parameters)), parameters)


def test_nothing_moves_on_the_gpu(cuda: Backend) -> None:
    import cupy

    for optimizer in OPTIMIZERS:
        run = Run(cuda, optimizer)
        pool = cupy.get_default_memory_pool()
        used = pool.used_bytes()
        address = run.net.parameters.data.ptr
        for _ in range(5):
            run.epoch.run(0, len(BATCHES))
        cuda.synchronize()
        assert run.net.parameters.data.ptr == address
        assert pool.used_bytes() == used


def test_the_memory_check_sees_a_temporary() -> None:
    """A step with one temporary the size of an activation is over the bound."""
    A = np.zeros((1024, LAYERS[1]), "float32")
    peak, _ = peak_and_growth(lambda: A + 1, 3)
    assert peak > UFUNC_BUFFER * 4 + OBJECTS
