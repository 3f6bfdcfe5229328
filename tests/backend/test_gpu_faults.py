"""What goes wrong on a GPU, planted; and every fused kernel's CUDA source, compiled where NVRTC is installed."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import plant_fake_cupy
from twostroke import DeviceError, TrainConfig
from twostroke.cli import main
from twostroke.data.dataset import Dataset
from twostroke.engine.mlp import MLP
from twostroke.engine.training import TrainingRun


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, message: str = "cudaErrorX: something") -> None:
        super().__init__(message)
        self.status = status


class CUDADriverError(CUDARuntimeError):
    pass


class CUBLASError(CUDARuntimeError):
    pass


class FakePool:
    """CuPy's memory pool: a limit on one allocation, and what is freed."""

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.freed = limit, 0
        self.alive: list[bool] = []
        self.watched: weakref.ref[Any] | None = None

    def get_limit(self) -> int:
        return self.limit

    def used_bytes(self) -> int:
        return 24

    def total_bytes(self) -> int:
        return 48

    def free_all_blocks(self) -> None:
        self.freed += 1
        if self.watched is not None:
            self.alive.append(self.watched() is not None)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake CuPy with a pool, and enough of a module to train."""
    module, _ = plant_fake_cupy(monkeypatch)
    module.pool = FakePool()
    module.get_default_memory_pool = lambda: module.pool
    for name in ("dtype", "isfinite"):
        if not hasattr(module, name):
            setattr(module, name, getattr(np, name))
    return module


@pytest.fixture
def backend(fake: Any) -> Any:
    from twostroke.backend.cuda.backend import CupyBackend

    return CupyBackend()


def out_of_memory(fake: Any, size: int = 123456789) -> Exception:
    error: Exception = fake.cuda.memory.OutOfMemoryError(
        f"Out of memory allocating {size:,} bytes (allocated so far: 24 bytes)."
    )
    return error


# --- out of memory -------------------------------------------------------------------------------------------


def test_out_of_memory_says_how_much_and_what_to_do(fake: Any, backend: Any) -> None:
    with pytest.raises(DeviceError) as caught, backend.active():
        raise out_of_memory(fake)
    assert str(caught.value) == (
        "out of GPU memory: cuda:0: found 1,024 bytes free, expected 123,456,789 more. "
        "Use a smaller batch (half of it, say) or network, or --device cpu."
    )
    assert caught.value.exit_code == 3
    assert fake.pool.freed == 1


def test_a_limit_of_the_pool_counts_as_what_is_free(fake: Any, backend: Any) -> None:
    fake.pool.limit = 100
    with pytest.raises(DeviceError, match="found 76 bytes free"), backend.active():
        raise out_of_memory(fake)


@pytest.mark.parametrize("error", [CUDARuntimeError(2), CUDADriverError(2), CUBLASError(3)], ids=lambda e: str(type(e)))
def test_the_other_ways_cuda_says_it_is_full(backend: Any, error: Exception) -> None:
    with (
        pytest.raises(DeviceError, match=r"^out of GPU memory: cuda:0: .* expected room for the work"),
        backend.active(),
    ):
        raise error


def test_what_a_failed_call_held_is_free_before_the_pool_is_emptied(fake: Any, backend: Any) -> None:
    """The traceback keeps the failed frames and these their arrays: without care the pool has nothing to free."""

    def work() -> None:
        held = np.ones(10).view(type(backend.asarray(np.ones(1))))
        fake.pool.watched = weakref.ref(held)
        raise out_of_memory(fake)

    with pytest.raises(DeviceError), backend.active():
        work()
    assert fake.pool.alive == [False]


def test_blocks_within_blocks_free_once_more_on_the_way_out(fake: Any, backend: Any) -> None:
    def work() -> None:
        held = np.ones(10).view(type(backend.asarray(np.ones(1))))
        fake.pool.watched = weakref.ref(held)
        with backend.active():
            raise out_of_memory(fake)

    with pytest.raises(DeviceError) as caught, backend.active():
        work()
    assert fake.pool.alive == [True, False]
    assert str(caught.value).count("out of GPU memory") == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), CUDARuntimeError(1), CUBLASError(700)])
def test_other_exceptions_pass_untouched(fake: Any, backend: Any, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, backend.active():
        raise error
    assert caught.value is error
    assert not fake.pool.freed


def test_the_device_is_left_whatever_happens(fake: Any, backend: Any) -> None:
    steps: list[str] = []

    @contextlib.contextmanager
    def device(index: int) -> Iterator[None]:
        steps.append("enter")
        try:
            yield
        finally:
            steps.append("leave")

    fake.cuda.Device = device
    with backend.active():
        pass
    fake.pool.free_all_blocks = None  # calling it fails
    with pytest.raises(DeviceError), backend.active():
        raise out_of_memory(fake)
    assert steps == ["enter", "leave"] * 2


STICKY = [700, 716, 717, 718, 719]


@pytest.mark.parametrize("kind", [CUDARuntimeError, CUDADriverError])
@pytest.mark.parametrize("status", STICKY)
def test_a_fault_that_stays_says_that_the_process_must_end(
    fake: Any, backend: Any, status: int, kind: type[CUDARuntimeError]
) -> None:
    def gone(*_: object) -> None:
        raise CUDARuntimeError(status)

    fake.cuda.runtime.memGetInfo = fake.pool.free_all_blocks = gone
    with pytest.raises(DeviceError) as caught, backend.active():
        raise kind(status, "cudaErrorIllegalAddress: an illegal memory access was encountered")
    assert str(caught.value) == (
        "the GPU no longer works in this process: cuda:0: found cudaErrorIllegalAddress: an illegal memory access was "
        "encountered. End the process and start again; files that were saved before are whole."
    )


def test_cupys_own_classes_have_these_names() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    assert cupy.cuda.runtime.CUDARuntimeError.__name__ == "CUDARuntimeError"
    assert cupy.cuda.driver.CUDADriverError.__name__ == "CUDADriverError"
    message = str(cupy.cuda.memory.OutOfMemoryError(1234567, 5, 77))
    assert "allocating 1,234,567 bytes" in message
    for name in ("free_all_blocks", "get_limit", "used_bytes", "total_bytes"):
        assert callable(getattr(cupy.cuda.MemoryPool, name))


# --- a whole run ---------------------------------------------------------------------------------------------


def limit_allocations(fake: Any, most: int) -> None:
    """No array of more than ``most`` bytes can be made."""
    for name in ("empty", "zeros", "ones"):
        original = getattr(fake, name)

        def make(shape: Any, dtype: Any = float, *rest: Any, original: Any = original) -> Any:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            if size > most:
                raise out_of_memory(fake, size)
            return original(shape, dtype, *rest)

        setattr(fake, name, make)


def samples(n: int = 2000) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        train_images=rng.integers(0, 255, (n, 12), dtype=np.uint8),
        train_labels=rng.integers(0, 3, n).astype(np.uint8),
        test_images=rng.integers(0, 255, (9, 12), dtype=np.uint8),
        test_labels=rng.integers(0, 3, 9).astype(np.uint8),
        n_classes=3,
        name="samples",
        image_shape=(2, 6),
    )


def test_after_out_of_memory_a_smaller_batch_trains(fake: Any, backend: Any) -> None:
    limit_allocations(fake, 40_000)
    data, net = samples(), MLP([12, 16, 3])
    with pytest.raises(DeviceError, match=r"^out of GPU memory: .* more\. Use a smaller batch"):
        TrainingRun(net, data, TrainConfig(epochs=1, batch_size=2000), backend)
    assert fake.pool.freed
    run = TrainingRun(net, data, TrainConfig(epochs=1, batch_size=100), backend)
    record = run.advance()
    assert record is not None
    assert np.isfinite(record.train_loss)
    assert net.predict(data.test_images).shape == (9,)


def test_prediction_says_it_too(fake: Any, backend: Any) -> None:
    net = MLP([12, 16, 3]).to(backend)
    limit_allocations(fake, 100)
    with pytest.raises(DeviceError, match=r"^out of GPU memory"):
        net.predict(samples().train_images)


@pytest.fixture
def npz(tmp_path: Path) -> str:
    data = samples(600)
    images = np.zeros((609, 2, 6), np.uint8)
    images[:600], images[600:] = data.train_images.reshape(-1, 2, 6), data.test_images.reshape(-1, 2, 6)
    labels = np.concatenate([data.train_labels, data.test_labels])
    labels[:3] = labels[600:603] = range(3)
    path = tmp_path / "samples.npz"
    np.savez(path, x_train=images[:600], y_train=labels[:600], x_test=images[600:], y_test=labels[600:])
    return str(path)


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch, fake: Any, fresh_probe: None) -> Any:
    monkeypatch.setattr("twostroke.backend.cuda.probe.cupy_wheels", lambda: ["cupy-cuda12x 14.2.0"])
    return fake


@pytest.mark.parametrize("batch", ["full", "600"])
def test_the_command_line_leaves_nothing_half_written(
    visible: Any, npz: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: str
) -> None:
    limit_allocations(visible, 20_000)
    out = tmp_path / "run"
    words = ["train", npz, "--device", "cuda", "--layers", "12,16,3", "--epochs", "1", "--out", str(out), "-q"]
    assert main([*words, "--batch-size", batch]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: out of GPU memory: cuda:0: found 1,024 bytes free, expected ")
    assert printed.err.count("\n") == 1
    assert not [path for path in out.glob("*") if path.suffix in (".safetensors", ".json")]
    assert main([*words, "--batch-size", "50"]) == 0
    assert (out / "model.safetensors").exists()


def test_a_lost_gpu_ends_the_command_with_one_line(
    visible: Any, npz: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise CUDADriverError(700, "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")

    visible.argmax = lost
    out = tmp_path / "run"
    assert main(["train", npz, "--device", "cuda", "--layers", "12,16,3", "--out", str(out), "-q"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: the GPU no longer works in this process: cuda:0: found CUDA_ERROR_ILLEGAL")
    assert error.count("\n") == 1
    assert not list(out.glob("*.safetensors"))
