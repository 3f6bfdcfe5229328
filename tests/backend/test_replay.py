"""Whole epochs given to the device: the seam on the CPU, and the real cuBLAS's interface. For CUDA graphs see
test_graphs.py."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import plant_fake_cupy
from twostroke import TrainConfig
from twostroke.backend import CallByCall, Captured, Steps
from twostroke.backend.cpu import player
from twostroke.backend.cpu.backend import NumpyBackend
from twostroke.backend.cpu.library import library
from twostroke.backend.cpu.player import Player
from twostroke.backend.cpu.program import Unplayable
from twostroke.backend.cpu.threads import ThreadGovernor
from twostroke.data.dataset import Dataset
from twostroke.engine import epoch as epochs
from twostroke.engine.mlp import MLP
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.training import TrainingRun

LAYERS = [12, 16, 3]
SAMPLES, BATCH = 106, 8  # 13 full batches and one of two
STEPS = 14


def samples() -> Dataset:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (SAMPLES, LAYERS[0])).astype("uint8")
    labels = images[:, :3].argmax(axis=1).astype("uint8")
    return Dataset(images, labels, images[:9], labels[:9], 3, (12,), "made")


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(batch_size=BATCH, **{"epochs": 4, **changes})


def outcome(run: TrainingRun) -> dict[str, Any]:
    """Everything that a run leaves behind, on the host."""
    with run.net.backend.active():
        arrays = {name: np.array(run.net.backend.to_host(array)) for name, array in run.state.items()}
    return arrays | {"losses of epochs": [(r.train_loss, r.test_loss, r.learning_rate) for r in run.history]}


def trained(backend: Any, settings: TrainConfig, dtype: str = "float32") -> TrainingRun:
    run = TrainingRun(MLP(LAYERS, dtype=dtype), samples(), settings, backend)
    while not run.done:
        run.advance()
    return run


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


# --- cuBLAS by its C interface -------------------------------------------------------------------------------


def test_the_real_cublas_has_these_functions() -> None:
    """Without a GPU it says so by its status, for each call, and reads every argument list as it is."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: there is no cuBLAS to ask")
    from twostroke.backend.cuda.probe import probe_cuda

    try:
        from twostroke.backend.cuda import cublas

        library = cublas.open_library()
    except Exception as error:
        pytest.skip(f"no cuBLAS: {error}")
    handle = cublas.HANDLE()
    assert cupy is not None
    not_initialized = 1
    if not probe_cuda().usable:
        assert library.cublasCreate_v2(ctypes.byref(handle)) == not_initialized
    numbers = np.ones(4, "float32")
    address = numbers.ctypes.data
    product = (0, 0, 2, 2, 2, address, address, 2, address, 2, address, address, 2)
    none = cublas.HANDLE()
    for name, arguments in {
        "cublasSetStream_v2": (0,),
        "cublasSetWorkspace_v2": (address, 16),
        "cublasSetMathMode": (0,),
        "cublasSetPointerMode_v2": (1,),
        "cublasSgemm_v2": product,
        "cublasDgemm_v2": product,
        "cublasDestroy_v2": (),
    }.items():
        assert len(cublas.SIGNATURES[name]) == 1 + len(arguments)
        assert getattr(library, name)(none, *arguments) == not_initialized
    assert numbers.tolist() == [1, 1, 1, 1]


SOURCE = "int cublasCreate_v2(void) { return %d; }" + "".join(
    f"int {name}(void) {{ return 0; }}"
    for name in (
        "cublasDestroy_v2",
        "cublasSetStream_v2",
        "cublasSetWorkspace_v2",
        "cublasSetMathMode",
        "cublasSetPointerMode_v2",
        "cublasSgemm_v2",
        "cublasDgemm_v2",
    )
)


@pytest.fixture
def two_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bool], Any]:
    """Two libcublas in this process, which answer 11 and 22; ``open_library`` where CuPy is linked with the second."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/maps").exists():
        pytest.skip("needs a C compiler and /proc")
    plant_fake_cupy(monkeypatch)
    from cupy_backends.cuda.libs import cublas as of_cupy

    from twostroke.backend.cuda import cublas

    def build(path: Path, source: str, *words: str) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".c").write_text(source)
        command = [compiler, "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".c")), *words]
        subprocess.run(command, check=True, timeout=60)
        return path

    libraries = [build(tmp_path / name / "libcublas.so.12", SOURCE % value) for name, value in (("a", 11), ("b", 22))]
    held = [ctypes.CDLL(str(path)) for path in libraries]

    def linked(known: bool) -> Any:
        # Against the file, which has no other name than its path: so that path is what is loaded.
        extension = build(tmp_path / f"{known}.so", "int x;", *(["-Wl,--no-as-needed", str(libraries[1])] * known))
        monkeypatch.setattr(of_cupy, "__file__", str(extension), raising=False)
        return cublas.open_library, held

    return linked


def test_of_two_libraries_the_one_that_cupy_calls_is_taken(two_libraries: Callable[[bool], Any]) -> None:
    open_library, held = two_libraries(True)
    assert [library.cublasCreate_v2() for library in held] == [11, 22]
    assert open_library().cublasCreate_v2(None) == 22


def test_of_two_libraries_none_is_taken_where_nobody_knows_which(two_libraries: Callable[[bool], Any]) -> None:
    with pytest.raises(OSError, match=r"libcublas are mapped into this process: /.*libcublas\.so\.12, /"):
        two_libraries(False)[0]()


# --- the seam -------------------------------------------------------------------------------------------------


class InPython(NumpyBackend):
    """The CPU, steps run as ``Captured`` says it."""

    def capture(self, parts: Sequence[Steps]) -> Captured:
        return CallByCall(np, parts)


class WithoutLibrary(NumpyBackend):
    """The CPU, tapes replayed from Python."""

    def capture(self, parts: Sequence[Steps]) -> Captured:
        return Player(parts, self._trace, self._governor, None)


def test_each_step_has_the_threads_that_its_governor_counts() -> None:
    """Two governors share the one number of threads of the process."""
    set_to: list[int] = []
    seconds: dict[int, float] = {}
    governors = [ThreadGovernor([1, 2], set_to.append, seconds) for _ in range(2)]
    for step in range(200):
        governor = governors[step % 2]
        counted = governor._count
        governor.run(partial(time.sleep, 2e-4 if step % 2 else 1e-4))
        assert set_to[-1] == counted


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_the_seam_gives_each_step_its_samples_and_its_rate(optimizer: str) -> None:
    settings = config(optimizer=optimizer, l2=0.001)
    reference, *others = (trained(kind(threads=1), settings) for kind in (InPython, WithoutLibrary, NumpyBackend))
    for other in others:
        assert_same(outcome(other), outcome(reference))


def test_a_step_that_cannot_be_played_is_replayed_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise Unplayable("for this test")

    whole = trained(InPython(threads=1), config())
    monkeypatch.setattr(player, "Program", refuse)
    assert_same(outcome(trained(NumpyBackend(threads=1), config())), outcome(whole))


def test_pieces_of_a_played_epoch_end_in_the_same_bits() -> None:
    whole = trained(InPython(threads=1), config())
    run = TrainingRun(MLP(LAYERS), samples(), config(), NumpyBackend(threads=1))
    for most in (1, 5, None, 13, None, None, 2, 3, 8, 1):
        run.advance(most)
    assert run.done
    assert_same(outcome(run), outcome(whole))


def test_the_player_does_as_many_steps_at_once_as_a_signal_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It doubles the number at most, and steps that take too long are taken one by one."""
    if library().native is None:
        pytest.skip(f"nothing is played here: {library().reason}")
    steps = Steps(lambda: None, 10**6, [])
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for seconds, expected in ((1e-9, [1, 2, 4, 8, 16]), (0.9e-3, [1, 2, 4, 5, 5]), (1.0, [1, 1, 1])):
        epoch = NumpyBackend(threads=1).capture([steps])
        found, first = [], 0

        def work(self: Any, part: int, first: int, stop: int, seconds: float = seconds) -> None:
            clock[0] += (stop - first) * seconds

        monkeypatch.setattr(Player, "run_part", work)
        for _ in expected:
            found.append(epoch.at_once)
            epoch.run(first, first + epoch.at_once)
            first += found[-1]
        assert found == expected


def test_batches_of_one_size_belong_together() -> None:
    assert list(epochs._same_size([(0, 4), (4, 8), (8, 9)])) == [(0, 2, 4), (2, 1, 1)]
    assert list(epochs._same_size([(0, 3)])) == [(0, 1, 3)]
