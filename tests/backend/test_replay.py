"""Whole epochs given to the device: CUDA graphs over a fake CuPy, the seam on the CPU, the real cuBLAS's interface."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.fake_graphs import FakeGraphs, GraphCublas, plant_fake_graphs
from tests.support.strict_device import FakeCublas, plant_fake_cupy
from twostroke import ConfigError, TrainConfig
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
Planted = tuple[Any, FakeGraphs]


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


def cupy_backend(monkeypatch: pytest.MonkeyPatch, mode: str) -> Any:
    monkeypatch.setenv("TWOSTROKE_CAPTURE", mode)
    from twostroke.backend.cuda.backend import CupyBackend

    return CupyBackend()


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    return plant_fake_graphs(monkeypatch)


# --- training by graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_captured_run_ends_in_the_bits_of_one_call_by_call(
    monkeypatch: pytest.MonkeyPatch, planted: Planted, optimizer: str, l2: float, dtype: str
) -> None:
    """A rate that changes at every step, a short last batch, four epochs, three of them one launch each; and NumPy."""
    settings = config(optimizer=optimizer, l2=l2, lr=0.05)
    _, gpu = planted
    captured = trained(cupy_backend(monkeypatch, "epoch"), settings, dtype)
    assert gpu.graph_launches >= 3
    plain = trained(cupy_backend(monkeypatch, "0"), settings, dtype)
    assert_same(outcome(captured), outcome(plain))
    host = trained(NumpyBackend(threads=1), settings, dtype)
    limit = 5e-6 if dtype == "float32" else 1e-12
    for name in ("parameters", "losses"):
        a, b = outcome(captured)[name], outcome(host)[name]
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(b)


def test_dropout_draws_the_same_masks_when_captured(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    """The keys are new in every epoch, at the addresses of the last."""
    settings = config(dropout=0.3)
    captured = trained(cupy_backend(monkeypatch, "epoch"), settings)
    assert planted[1].graph_launches >= 3
    assert_same(outcome(captured), outcome(trained(cupy_backend(monkeypatch, "0"), settings)))


def test_an_epoch_is_one_launch(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    """The first epoch compiles and captures; every later one is a launch, two copies to the tables, and a result."""
    _, gpu = planted
    run = TrainingRun(MLP(LAYERS), samples(), config(evaluate_test=False), cupy_backend(monkeypatch, "epoch"))
    launches, calls = [], []
    while not run.done:
        before = gpu.graph_launches, gpu.calls
        run.advance()
        launches.append(gpu.graph_launches - before[0])
        calls.append(gpu.calls - before[1] - sum(len(graph.calls) for graph in gpu.graphs[-1:]))
    assert launches[1:] == [1, 1, 1]
    whole = gpu.graphs[-1]
    assert len(whole.calls) > 20 * STEPS
    assert calls[-1] < 10  # what is not in the graph: order, scalars, the means of losses and of hits


def test_the_epoch_is_captured_when_that_pays(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    """A launch for each step first; the first step of each kind is none."""
    _, gpu = planted
    backend = cupy_backend(monkeypatch, "auto")
    assert backend._capture.pays == 100
    backend._capture.pays = 2
    run = TrainingRun(MLP(LAYERS), samples(), config(evaluate_test=False), backend)
    launches = []
    while not run.done:
        before = gpu.graph_launches
        run.advance()
        launches.append(gpu.graph_launches - before)
    assert launches == [STEPS - 2, STEPS, 1, 1]
    assert_same(outcome(run), outcome(trained(cupy_backend(monkeypatch, "0"), config(evaluate_test=False))))


def test_an_epoch_in_pieces_ends_in_the_same_bits(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    backend = cupy_backend(monkeypatch, "epoch")
    whole = trained(backend, config())
    run = TrainingRun(MLP(LAYERS), samples(), config(), backend)
    for most in (1, 5, None, 13, None, None, 2, 3, 8, 1):
        run.advance(most)
    assert run.done
    assert_same(outcome(run), outcome(whole))


def test_a_run_that_shall_stop_stops_between_two_launches(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    backend = cupy_backend(monkeypatch, "epoch")
    run = TrainingRun(MLP(LAYERS), samples(), config(), backend)
    captured = run._steps._captured
    monkeypatch.setattr(captured, "at_once", 5)
    waited, launch = [], captured.run

    def stop(first: int, stop: int) -> None:
        launch(first, stop)
        waited.append(stop)
        run.stopping = True

    monkeypatch.setattr(captured, "run", stop)
    assert run.advance() is None
    assert (run.batch, run.steps) == (5, 5)
    assert waited == [5]


def test_a_captured_step_is_one_launch_from_its_second_run_on(
    monkeypatch: pytest.MonkeyPatch, planted: Planted
) -> None:
    fake, gpu = planted
    backend = cupy_backend(monkeypatch, "auto")
    x, rate = fake.ones((2, 2), "float32"), backend.scalars(1, "float32")
    out = fake.zeros((2, 2), "float32")
    captured = backend.capture([Steps(lambda: backend.gemm(x, x, out, rate[0], 1.0))])
    totals = []
    for value in (1.0, 2.0, 4.0):
        rate.set(value)
        captured.run()
        totals.append(float(np.asarray(out)[0, 0]))
    assert totals == [2.0, 6.0, 14.0]
    assert (gpu.graph_launches, backend.describe()["graphs"]["launches"]) == (4, 2)  # two in the backend's own test


def test_a_graph_keeps_what_it_works_in(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    """The arrays of a step whose every other owner is gone."""
    fake, _ = planted
    backend = cupy_backend(monkeypatch, "auto")

    class Owner:
        x = fake.ones(3, "float32")

    owner = Owner()
    alive = weakref.ref(owner)
    launch = backend._capture.graph(partial(add_one, fake, owner))
    x = owner.x
    del owner
    gc.collect()
    assert alive() is not None
    launch()
    assert x.tolist() == [2, 2, 2]


def add_one(xp: Any, owner: Any) -> None:
    xp.add(owner.x, 1, out=owner.x)


# --- where nothing can be captured ----------------------------------------------------------------------------


def refused(backend: Any) -> str:
    graphs = backend.describe()["graphs"]
    assert graphs["used"] is False
    return str(graphs["reason"])


def test_without_a_library_training_goes_call_by_call_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _, gpu = plant_fake_graphs(monkeypatch, own_handle=False)
    backend = cupy_backend(monkeypatch, "auto")
    assert refused(backend) == "OSError: no libcublas is mapped into this process"
    run = trained(backend, config())
    assert gpu.graph_launches == 0
    assert_same(outcome(run), outcome(trained(cupy_backend(monkeypatch, "0"), config())))
    assert refused(cupy_backend(monkeypatch, "0")) == "TWOSTROKE_CAPTURE=0"


def test_a_cupy_without_graphs(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    fake, gpu = planted
    del fake.cuda.Stream
    backend = cupy_backend(monkeypatch, "auto")
    assert refused(backend).startswith("AttributeError: ")
    trained(backend, config())
    assert gpu.graph_launches == 0


@pytest.mark.parametrize("status", [1, 3])
def test_a_cublas_that_does_not_start(monkeypatch: pytest.MonkeyPatch, planted: Planted, status: int) -> None:
    monkeypatch.setattr(GraphCublas, "cublasCreate_v2", lambda *_: status)
    backend = cupy_backend(monkeypatch, "auto")
    assert refused(backend) == f"CUBLASError: CUBLAS_STATUS_{status}"
    trained(backend, config())


def test_a_device_that_replays_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    from tests.support.fake_graphs import FakeGraph

    monkeypatch.setattr(FakeGraph, "launch", lambda self: None)
    backend = cupy_backend(monkeypatch, "auto")
    assert refused(backend) == "ArithmeticError: a replayed product came back as [[9.0, 9.0], [9.0, 9.0]], not 63"
    assert_same(outcome(trained(backend, config())), outcome(trained(cupy_backend(monkeypatch, "0"), config())))


def test_a_device_that_reads_what_it_shall_overwrite_is_not_used(
    monkeypatch: pytest.MonkeyPatch, planted: Planted
) -> None:
    """With a factor 0 on the device a product must not touch what was there: a workspace's memory may hold NaN."""

    def product(self: Any, kind: Any, handle: int, *arguments: int) -> None:
        m, n, C = arguments[2], arguments[3], arguments[11]
        held = np.ctypeslib.as_array((kind * (m * n)).from_address(C))
        old = kind.from_address(arguments[10]).value * held
        blas(self, kind, handle, *arguments)
        if not kind.from_address(arguments[10]).value:
            held += old

    blas = FakeCublas._gemm
    monkeypatch.setattr(FakeCublas, "_gemm", product)
    backend = cupy_backend(monkeypatch, "auto")
    assert refused(backend) == "ArithmeticError: a replayed product came back as [[nan, nan], [nan, nan]], not 18"


@pytest.mark.parametrize("where", ["synchronises", "allocates", "goes down"])
def test_a_step_that_cannot_be_captured_runs_call_by_call(
    monkeypatch: pytest.MonkeyPatch, planted: Planted, where: str
) -> None:
    """Found while capturing: nothing has run then, so nothing is lost or done twice; no other graph is tried."""
    fake, _gpu = planted
    backend = cupy_backend(monkeypatch, "epoch")
    x = fake.zeros(3, "float32")
    faults: dict[str, Callable[[], object]] = {
        "synchronises": lambda: fake.cuda.get_current_stream().synchronize(),
        "allocates": lambda: fake.add(x, 1),
        "goes down": lambda: fake.asnumpy(x),
    }

    def step() -> None:
        backend.xp.add(x, 1, out=x)
        faults[where]()

    captured = backend.capture([Steps(step)])
    for _ in range(4):
        captured.run()
    assert x.tolist() == [4, 4, 4]
    assert "cudaErrorStreamCaptureUnsupported" in refused(backend)
    assert_same(outcome(trained(backend, config())), outcome(trained(cupy_backend(monkeypatch, "0"), config())))


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    with pytest.raises(
        ConfigError, match=r"^unknown mode: TWOSTROKE_CAPTURE: found 'always', expected 0 or auto or epoch"
    ):
        cupy_backend(monkeypatch, "always")


def test_the_stand_in_refuses_what_a_capture_refuses(planted: Planted) -> None:
    fake, gpu = planted
    from cupy_backends.cuda.libs import cublas

    with pytest.raises(RuntimeError, match="legacy"):
        gpu.current.begin_capture()
    x = fake.ones(3)
    stream = fake.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="during stream capture"):
            cublas.sgemm(1)
        fake.add(x, 1, out=x)
        assert len(stream.end_capture().calls) == 1
        assert x.tolist() == [1, 1, 1]
        for fault in (
            lambda: fake.zeros(3),
            lambda: fake.full(1, 2.0),
            lambda: fake.asarray(np.ones(3)),
            lambda: fake.asnumpy(x),
            lambda: fake.add(x, 1),
            stream.synchronize,
        ):
            stream.begin_capture()
            with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
                fault()
            with pytest.raises(RuntimeError, match="Invalidated"):
                stream.end_capture()


# --- nothing disturbs a capture -------------------------------------------------------------------------------


def test_an_old_backend_collected_during_a_capture_ends_after_it(
    monkeypatch: pytest.MonkeyPatch, planted: Planted
) -> None:
    """Its handle's destruction would wait for the device, which ends the capture."""
    fake, gpu = planted
    library: GraphCublas = gpu.library  # type: ignore[attr-defined]
    backend, old = (cupy_backend(monkeypatch, "auto") for _ in range(2))
    old.itself = old  # garbage that waits for the collector
    del old
    x = fake.ones(3, "float32")

    def step() -> None:
        fake.add(x, 1, out=x)
        gc.collect()
        assert library.destroyed == []

    run = backend._capture.graph(step)
    assert backend.describe()["graphs"]["reason"] == ""
    assert library.destroyed == [2]
    run()
    assert x.tolist() == [2, 2, 2]


def test_a_handle_that_nobody_holds_is_destroyed_at_once(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    library: GraphCublas = planted[1].library  # type: ignore[attr-defined]
    backend = cupy_backend(monkeypatch, "auto")
    del backend
    gc.collect()
    assert library.destroyed == [1]


@pytest.mark.parametrize("collecting", [True, False])
def test_no_garbage_is_collected_during_a_capture(
    monkeypatch: pytest.MonkeyPatch, planted: Planted, collecting: bool
) -> None:
    """Nor in one that fails; and afterwards it is as it was."""
    backend = cupy_backend(monkeypatch, "auto")
    found = []

    def step() -> None:
        found.append(gc.isenabled())
        if len(found) == 2:
            raise RuntimeError("for this test")

    was = gc.isenabled()
    try:
        gc.enable() if collecting else gc.disable()
        for _ in range(2):
            backend._capture.graph(step)
            assert gc.isenabled() is collecting
    finally:
        gc.enable() if was else gc.disable()
    assert found == [False, False]
    assert refused(backend) == "RuntimeError: for this test"


def test_two_captures_at_once_restore_the_collector_together(planted: Planted) -> None:
    from twostroke.backend.cuda.cublas import undisturbed

    first, second = undisturbed(), undisturbed()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


# --- the handle -----------------------------------------------------------------------------------------------


def test_the_handle_keeps_its_workspace_and_its_mode(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    fake, gpu = planted
    monkeypatch.setenv("TWOSTROKE_CAPTURE", "auto")
    from twostroke.backend.cuda.backend import CupyBackend

    exact, rounded = CupyBackend(), CupyBackend(tf32=True)
    library: GraphCublas = gpu.library  # type: ignore[attr-defined]
    assert [state["math"] for state in library.state.values()] == [0, 3]
    x = fake.ones((2, 2), "float32")
    out = fake.zeros((2, 2), "float32")
    exact.gemm(x, x, out)
    stream = fake.cuda.Stream(non_blocking=True)
    with stream:
        exact.gemm(x, x, out)
        address, size = library.state[1]["workspace"]
        assert (library.state[1]["stream"], size) == (stream.ptr, 32 << 20)
        assert address == exact._handle._local.workspace.data.ptr  # type: ignore[union-attr]
    assert rounded.describe()["tf32"] is True


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
def two_libraries(monkeypatch: pytest.MonkeyPatch, planted: Planted, tmp_path: Path) -> Callable[[bool], Any]:
    """Two libcublas in this process, which answer 11 and 22; ``open_library`` where CuPy is linked with the second."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/maps").exists():
        pytest.skip("needs a C compiler and /proc")
    monkeypatch.undo()
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
