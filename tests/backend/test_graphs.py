"""CUDA graphs: what is one launch, what is refused, and that nothing disturbs a capture."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.backend.test_replay import BATCH, LAYERS, STEPS, assert_same, config, outcome, samples, trained
from twostroke import ConfigError
from twostroke.backend import Backend, Steps
from twostroke.engine.mlp import MLP
from twostroke.engine.training import TrainingRun

Make = Callable[..., Any]


@pytest.fixture
def make(cuda: Backend, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A new backend for the GPU, in this mode of capture."""

    def new(mode: str, **options: Any) -> Any:
        from twostroke.backend.cuda.backend import CupyBackend

        monkeypatch.setenv("TWOSTROKE_CAPTURE", mode)
        return CupyBackend(**options)

    return new


def launches(backend: Any) -> int:
    return int(backend.describe()["graphs"]["launches"])


# --- launches ---------------------------------------------------------------------------------------------------------


def launches_of_epochs(backend: Any) -> list[int]:
    run = TrainingRun(MLP(LAYERS), samples(), config(evaluate_test=False), backend)
    found = []
    while not run.done:
        before = launches(backend)
        run.advance()
        found.append(launches(backend) - before)
    return found


def test_an_epoch_is_one_launch(make: Make) -> None:
    """The first step of each kind is run kernel by kernel."""
    assert launches_of_epochs(make("epoch")) == [STEPS - 2, 1, 1, 1]


def test_the_epoch_is_captured_when_that_pays(make: Make) -> None:
    backend = make("auto")
    assert backend._capture.pays == 100
    backend._capture.pays = 2
    assert launches_of_epochs(backend) == [STEPS - 2, STEPS, 1, 1]


def test_an_epoch_in_pieces_ends_in_the_same_bits(make: Make) -> None:
    backend = make("epoch")
    whole = trained(backend, config())
    run = TrainingRun(MLP(LAYERS), samples(), config(), backend)
    for most in (1, 5, None, 13, None, None, 2, 3, 8, 1):
        run.advance(most)
    assert run.done
    assert_same(outcome(run), outcome(whole))


def test_a_run_that_shall_stop_stops_between_two_launches(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun(MLP(LAYERS), samples(), config(), make("epoch"))
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


def test_a_captured_step_is_one_launch_from_its_second_run_on(make: Make) -> None:
    backend = make("auto")
    with backend.active():
        x, rate = backend.copy_of(np.ones((2, 2)), "float32"), backend.scalars(1, "float32")
        out = backend.copy_of(np.zeros((2, 2)), "float32")
        captured = backend.capture([Steps(lambda: backend.gemm(x, x, out, rate[0], 1.0))])
        totals = []
        for value in (1.0, 2.0, 4.0):
            rate.set(value)
            captured.run()
            totals.append(float(backend.to_host(out)[0, 0]))
    assert totals == [2.0, 6.0, 14.0]
    assert launches(backend) == 2


def add_one(xp: Any, owner: Any) -> None:
    xp.add(owner.x, 1, out=owner.x)


def test_a_graph_keeps_what_it_works_in(make: Make) -> None:
    """The arrays of a step whose every other owner is gone."""
    import cupy

    class Owner:
        x = cupy.ones(3, "float32")

    owner = Owner()
    add_one(cupy, owner)  # compiled
    alive = weakref.ref(owner)
    launch = make("auto")._capture.graph(partial(add_one, cupy, owner))
    x = owner.x
    del owner
    gc.collect()
    assert alive() is not None
    launch()
    assert x.get().tolist() == [3, 3, 3]


# --- where nothing can be captured ------------------------------------------------------------------------------------


def refused(backend: Any) -> str:
    graphs = backend.describe()["graphs"]
    assert graphs["used"] is False
    return str(graphs["reason"])


def trains_without_graphs(backend: Any) -> None:
    """As the CPU does it, to rounding, and without a launch."""
    found, expected = (outcome(trained(one, config())) for one in (backend, on_cpu()))
    assert launches(backend) == 0
    away = np.linalg.norm(found["parameters"] - expected["parameters"]) / np.linalg.norm(expected["parameters"])
    assert away < 5e-6


def on_cpu() -> Backend:
    from twostroke.backend.cpu.backend import NumpyBackend

    return NumpyBackend(threads=1)


def test_without_a_library_training_goes_on_and_says_why(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from twostroke.backend.cuda import cublas

    def none() -> Any:
        raise OSError("no libcublas is mapped into this process")

    monkeypatch.setattr(cublas, "open_library", none)
    backend = make("auto")
    assert refused(backend) == "OSError: no libcublas is mapped into this process"
    trains_without_graphs(backend)
    assert refused(make("0")) == "TWOSTROKE_CAPTURE=0"


def test_a_cupy_without_graphs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    monkeypatch.delattr(cupy.cuda, "Stream")
    backend = make("auto")
    assert refused(backend).startswith("AttributeError: ")
    trains_without_graphs(backend)


class Watched:
    """The cuBLAS that CuPy calls; ``instead`` are other functions, ``calls`` all calls with their arguments."""

    def __init__(self, library: Any, **instead: Callable[..., int]) -> None:
        self._library, self._instead = library, instead
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = self._instead.get(name) or getattr(self._library, name)

        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            return int(function(*arguments))

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


@pytest.fixture
def watch(cuda: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watched]:
    """Stand between backends made from now on and cuBLAS."""
    from twostroke.backend.cuda import cublas

    real = cublas.open_library()

    def stand(**instead: Callable[..., int]) -> Watched:
        watched = Watched(real, **instead)
        monkeypatch.setattr(cublas, "open_library", lambda: watched)
        return watched

    return stand


@pytest.mark.parametrize(("status", "name"), [(1, "NOT_INITIALIZED"), (3, "ALLOC_FAILED")])
def test_a_cublas_that_does_not_start(make: Make, watch: Callable[..., Watched], status: int, name: str) -> None:
    watch(cublasCreate_v2=lambda *_: status)
    backend = make("auto")
    assert refused(backend) == f"CUBLASError: CUBLAS_STATUS_{name}"
    trains_without_graphs(backend)


def test_a_device_that_replays_wrong_is_not_used(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from twostroke.backend.cuda.graphs import Capture

    with monkeypatch.context() as patched:
        patched.setattr(Capture, "graph", lambda self, work: lambda: None)
        backend = make("auto")
    assert refused(backend) == "ArithmeticError: a replayed product came back as [[9.0, 9.0], [9.0, 9.0]], not 63"
    trains_without_graphs(backend)


def test_a_device_that_reads_what_it_shall_overwrite_is_not_used(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a factor 0 on the device a product must not touch what was there: a workspace's memory may hold NaN."""
    from twostroke.backend.cuda.backend import CupyBackend

    product = CupyBackend.gemm

    def reads(self: Any, a: Any, b: Any, out: Any, alpha: float = 1.0, beta: float = 0.0) -> None:
        product(self, a, b, out, alpha, beta or 1.0)

    monkeypatch.setattr(CupyBackend, "gemm", reads)
    backend = make("auto")
    assert refused(backend) == "ArithmeticError: a replayed product came back as [[nan, nan], [nan, nan]], not 18"


@pytest.mark.parametrize(
    ("where", "said"),
    [("synchronises", "cudaErrorStreamCaptureUnsupported"), ("goes down", "D2H transfers are disallowed")],
)
def test_a_step_that_cannot_be_captured_runs_call_by_call(make: Make, where: str, said: str) -> None:
    """Found while capturing: nothing has run then, so nothing is lost or done twice; no other graph is tried."""
    import cupy

    backend = make("epoch")
    with backend.active():
        x = backend.copy_of(np.ones(3), "float32")
        faults: dict[str, Callable[[], object]] = {
            "synchronises": lambda: cupy.cuda.get_current_stream().synchronize(),
            "goes down": lambda: cupy.asnumpy(x),
        }

        def step() -> None:
            backend.xp.negative(x, out=x)  # unknown to the compiler, so it is run
            faults[where]()

        captured = backend.capture([Steps(step)])
        for _ in range(5):
            captured.run()
        assert backend.to_host(x).tolist() == [-1, -1, -1]
    assert said in refused(backend)
    trains_without_graphs(backend)


def test_an_unknown_mode_is_refused(make: Make) -> None:
    with pytest.raises(
        ConfigError, match=r"^unknown mode: TWOSTROKE_CAPTURE: found 'always', expected 0 or auto or epoch"
    ):
        make("always")


# --- nothing disturbs a capture ---------------------------------------------------------------------------------------


def test_an_old_backend_collected_during_a_capture_ends_after_it(make: Make, watch: Callable[..., Watched]) -> None:
    """Its handle's destruction would wait for the device, which ends the capture."""
    import cupy

    library = watch()
    backend, old = make("auto"), make("auto")
    old.itself = old  # garbage that waits for the collector
    handle = old._handle._local.handle.value
    del old
    x = cupy.zeros(3, "float32")
    cupy.add(x, 1, out=x)

    def step() -> None:
        cupy.add(x, 1, out=x)
        gc.collect()
        assert library.named("cublasDestroy_v2") == []

    run = backend._capture.graph(step)
    assert backend.describe()["graphs"]["reason"] == ""
    assert [arguments[0].value for arguments in library.named("cublasDestroy_v2")] == [handle]
    run()
    assert x.get().tolist() == [2, 2, 2]


def test_a_handle_that_nobody_holds_is_destroyed_at_once(make: Make, watch: Callable[..., Watched]) -> None:
    library = watch()
    backend = make("auto")
    handle = backend._handle._local.handle.value
    del backend
    gc.collect()
    assert [arguments[0].value for arguments in library.named("cublasDestroy_v2")] == [handle]


@pytest.mark.parametrize("collecting", [True, False])
def test_no_garbage_is_collected_during_a_capture(make: Make, collecting: bool) -> None:
    """Nor in one that fails; and afterwards it is as it was."""
    backend = make("auto")
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


def test_two_captures_at_once_restore_the_collector_together(cuda: Backend) -> None:
    from twostroke.backend.cuda.cublas import undisturbed

    first, second = undisturbed(), undisturbed()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


# --- the handle -------------------------------------------------------------------------------------------------------


def test_the_handle_keeps_its_workspace_and_its_mode(make: Make, watch: Callable[..., Watched]) -> None:
    import cupy

    library = watch()
    exact, rounded = make("auto"), make("auto", tf32=True)
    assert [arguments[1] for arguments in library.named("cublasSetMathMode")] == [0, 3]
    assert rounded.describe()["tf32"] is True
    x, out = (cupy.ones((BATCH, BATCH), "float32") for _ in range(2))
    exact.gemm(x, x, out)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        library.calls.clear()
        exact.gemm(x, x, out)
        names = [name for name, _ in library.calls]
        assert names == ["cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasSgemm_v2"]
        (_, address, size), (_, of) = library.calls[1][1], library.calls[0][1]
        assert (of, size) == (stream.ptr, 32 << 20)
        assert address == exact._handle._local.workspace.data.ptr
        stream.synchronize()
