"""The seam: choosing a device, the CPU's threads, recorded steps, and CuPy's own tracer where CuPy is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from tests.support.strict_device import StrictBackend, plant_fake_cupy
from twostroke import MLP, ConfigError, DataError, DeviceError, array_module, select_backend, to_host
from twostroke.backend import Backend, Steps, host_backend
from twostroke.backend.cpu.backend import NumpyBackend
from twostroke.backend.cpu.library import library
from twostroke.backend.cuda.probe import probe_cuda
from twostroke.backend.machine import available_cores
from twostroke.engine import kernels

ROOT = Path(__file__).parents[2]


# --- choosing ------------------------------------------------------------------------------------------------


def test_the_cpu_by_name() -> None:
    backend = select_backend("CPU")
    assert (backend.name, backend.device, backend.reason, backend.xp) == ("numpy", "cpu", "cpu was asked for", np)
    assert host_backend() is host_backend()


def test_cuda_without_a_gpu_is_an_error_with_cause_and_remedy() -> None:
    if probe_cuda().usable:
        pytest.skip("this machine has a GPU: the refusals are in test_probe.py, planted")
    with pytest.raises(DeviceError) as caught:
        select_backend("cuda")
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert message.startswith("the GPU cannot be used: " + probe_cuda().reason)
    assert probe_cuda().remedy in message
    assert message.endswith("Or choose --device auto or cpu.")


def test_auto_keeps_its_reason() -> None:
    backend = select_backend("auto")
    assert backend.reason == probe_cuda().reason
    assert backend.name == ("cupy" if probe_cuda().usable else "numpy")


BAD_DEVICES = ["", "tpu", "cuda:x", "cuda:-1", "cuda:1.5", "cpu:0", "auto:1", "cuda:0:1", " cuda", "cuda0", "gpus"]


@pytest.mark.parametrize("device", BAD_DEVICES)
def test_unknown_devices(device: str) -> None:
    with pytest.raises(ConfigError, match=r"^unknown device: device: found .*, expected auto, cpu, cuda or cuda:N$"):
        select_backend(device)


@pytest.mark.parametrize("threads", [0, -1, "x", "2", "", 10**6])
def test_bad_threads(threads: int | str) -> None:
    with pytest.raises(ConfigError, match=r"^bad number of threads: threads: found .*expected auto or "):
        select_backend("cpu", threads)


# --- threads -------------------------------------------------------------------------------------------------


def blas_threads() -> dict[str, int]:
    pools = threadpoolctl.threadpool_info()
    return {pool["filepath"]: pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}


def threads_in_use() -> dict[str, int]:
    """Of what multiplies: the C library, or every BLAS."""
    native = library().native
    return blas_threads() if native is None else {"library": native.threads()}


@pytest.mark.parametrize("threads", sorted({1, min(2, available_cores())}))
def test_threads_are_set_inside_active_and_restored(threads: int) -> None:
    backend = select_backend("cpu", threads)
    assert backend.threads == threads
    before, blas = threads_in_use(), blas_threads()
    assert before
    with backend.active():
        assert set(threads_in_use().values()) == {threads}
        with select_backend("cpu", 1).active():
            assert set(threads_in_use().values()) == {1}
        assert set(threads_in_use().values()) == {threads}
        assert library().native is None or blas_threads() == blas
    assert threads_in_use() == before
    with pytest.raises(RuntimeError), backend.active():
        raise RuntimeError
    assert threads_in_use() == before
    assert blas_threads() == blas


def test_automatic_threads_obey_the_limits_of_blas() -> None:
    """Those of the environment, of threadpoolctl, and so of joblib's workers; a number that is asked for is kept."""
    if available_cores() == 1:
        pytest.skip("one core: there is nothing to limit")
    code = "import twostroke as ts; print(ts.select_backend('cpu').threads, ts.select_backend('cpu', 2).threads)"
    for limit, expected in (("1", "1 2"), ("1000", f"{available_cores()} 2")):
        environment = {**os.environ, "OMP_NUM_THREADS": limit, "OPENBLAS_NUM_THREADS": limit}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
    with threadpoolctl.threadpool_limits(1):
        assert select_backend("cpu").threads == 1
        assert not select_backend("cpu").auto
    assert select_backend("cpu").threads == available_cores()


def test_automatic_threads_are_restored_too() -> None:
    backend = select_backend("cpu")
    before = threads_in_use()
    with backend.active():
        A, out = np.ones((200, 200)), np.zeros((200, 200))
        captured = backend.capture([Steps(lambda: backend.gemm(A, A, out))])
        for _ in range(50):
            captured.run()
    assert threads_in_use() == before


def test_eight_threads_share_a_backend_of_the_cpu() -> None:
    """Each captures steps of new shapes while others compute: none sees the others' dictionaries change."""
    backend, start = select_backend("cpu"), threading.Barrier(8)

    def work(seed: int) -> bool:
        start.wait()
        for n in range(1, 60):
            net = MLP([12, 2 + n % 9, 3], seed=seed, backend=backend)
            X = np.random.default_rng(n).random((n + seed, 12), np.float32)
            if not np.allclose(net.predict_proba(X).sum(axis=1), 1, atol=1e-5):
                return False
        return True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)


# --- arrays --------------------------------------------------------------------------------------------------


def test_array_module_and_to_host(backend: Backend) -> None:
    host = np.arange(6, dtype="float32").reshape(2, 3)
    x = backend.asarray(host)
    assert array_module(x) is array_module(x.T) is backend.xp
    assert array_module(host) is np
    assert np.array_equal(to_host(x), host)
    assert isinstance(to_host(x), np.ndarray)
    assert isinstance(backend.to_host(x), np.ndarray)


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_asarray_gives_c_order_and_the_type_asked_for(backend: Backend, dtype: str | None) -> None:
    for host in (np.arange(6.0).reshape(2, 3).T, np.arange(12.0)[::2].reshape(2, 3), np.arange(6, dtype="i4")):
        x = backend.asarray(host, dtype)
        assert x.flags.c_contiguous
        assert x.dtype == (dtype or host.dtype)
        assert np.array_equal(to_host(x), host)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_asarray_takes_the_other_order_of_bytes(backend: Backend, dtype: str | None) -> None:
    """A GPU has its own order only: the values count, and the kind and size of the type."""
    host = np.arange(6, dtype=">i4")
    x = backend.asarray(host, dtype)
    assert x.flags.c_contiguous
    assert x.dtype.newbyteorder("=") == (dtype or "i4")
    assert np.array_equal(to_host(x), host)


def test_the_cpu_copies_nothing() -> None:
    backend, host = select_backend("cpu"), np.ones((3, 4))
    assert backend.asarray(host) is host
    assert backend.to_host(host) is host


def test_an_array_of_another_module_is_refused_by_name() -> None:
    cpu, strict = select_backend("cpu"), StrictBackend()
    x = strict.asarray(np.ones(2))
    assert strict.check(x, "parameters") is x
    with pytest.raises(DataError) as caught:
        cpu.check(x, "parameters")
    expected = "array of the wrong device: parameters: found strict_xp.StrictArray, expected an array of numpy. Use "
    assert str(caught.value).startswith(expected)
    with pytest.raises(DataError, match=r"found numpy\.ndarray, expected an array of strict_xp"):
        strict.check(np.ones(2), "X")


def test_describe_says_what_a_result_needs(backend: Backend) -> None:
    facts = backend.describe()
    assert facts["device"] == backend.device
    wanted = {
        "numpy": {"processor", "cores", "threads", "products", "numpy"},
        "cupy": {"gpu", "compute_capability", "memory_bytes", "driver_cuda", "runtime_cuda", "cupy"},
    }.get(backend.name, set())
    assert wanted <= facts.keys()
    assert all(facts[key] for key in wanted)
    backend.synchronize()


def test_elementwise_binds_once(backend: Backend) -> None:
    assert backend.elementwise(kernels.relu_forward) is backend.elementwise(kernels.relu_forward)


# --- captured steps ------------------------------------------------------------------------------------------


def test_a_captured_step_does_the_same_work_on_new_numbers(backend: Backend) -> None:
    """Ten runs of a captured step against ten runs of the plain one: gather, products, kernels, reductions, a rate."""
    rng = np.random.default_rng(0)
    source = rng.standard_normal((9, 4))
    W0 = rng.standard_normal((4, 3))

    def run(capture: bool) -> np.ndarray:
        data, W = backend.asarray(source), backend.asarray(W0.copy())
        X, Z, rows = backend.xp.empty((5, 4)), backend.xp.empty((5, 3)), backend.xp.empty(5)
        order = backend.asarray(np.arange(5))
        rate = backend.scalars(1, "float64")

        def step() -> None:
            backend.take_rows(data, order, X)
            backend.gemm(X, W, Z)
            kernels.softmax_forward(backend, Z, rows)
            backend.gemm(X.T, Z, W, rate[0], 1.0)

        run_step = backend.capture([Steps(step)]).run if capture else step
        for i in range(10):
            backend.xp.copyto(order, backend.asarray(np.roll(np.arange(9), i)[:5]))
            rate.set(0.1 / (i + 1))
            run_step()
        backend.synchronize()
        return np.array(backend.to_host(W))

    with backend.active():
        captured, plain = run(True), run(False)
    assert not np.array_equal(captured, W0)
    assert np.allclose(captured, plain, rtol=1e-13)


def test_a_step_that_fails_while_it_is_captured_leaves_the_backend_as_it_was() -> None:
    backend = NumpyBackend(threads=1)
    x = np.ones(3)

    def step() -> None:
        backend.xp.add(x, 1, out=x)
        raise ValueError("in the middle")

    captured = backend.capture([Steps(step)])
    for expected in (2, 3):
        with pytest.raises(ValueError, match="in the middle"):
            captured.run()
        assert x.tolist() == [expected] * 3
    assert backend.xp is np
    backend.elementwise(kernels.relu_forward)(x)
    backend.gemm(x[None], x[:, None], out := np.zeros((1, 1)))
    assert out.tolist() == [[27]]


# --- CupyBackend over a fake CuPy -----------------------------------------------------------------------------


def test_tf32_is_set_and_reset_on_the_shared_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    _, library = plant_fake_cupy(monkeypatch)
    from twostroke.backend.cuda.backend import CupyBackend

    exact, rounded = CupyBackend(), CupyBackend(tf32=True)
    x = exact.asarray(np.ones((2, 2), "float32"))
    out = exact.asarray(np.zeros((2, 2), "float32"))
    modes = []
    for backend in (exact, rounded, exact):
        backend.gemm(x, x, out)
        modes.append(library.mode)
    assert modes == [0, 3, 0]  # cublasMath_t: default, TF32, default
    assert (exact.describe()["tf32"], rounded.describe()["tf32"]) == (False, True)


def test_out_of_memory_names_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, _ = plant_fake_cupy(monkeypatch)
    from twostroke.backend.cuda.backend import CupyBackend

    backend = CupyBackend()

    def full(array: Any) -> Any:
        raise fake.cuda.memory.OutOfMemoryError("no room")

    fake.asarray = full
    with pytest.raises(DeviceError) as caught:
        backend.asarray(np.ones((1000, 10)), "float32")
    found = "found 1,024 bytes free, expected 40,000 for an array of shape (1000, 10)"
    assert str(caught.value).startswith(f"out of GPU memory: cuda:0: {found}. Use a smaller batch")


# --- the rule of these tests themselves ----------------------------------------------------------------------

LOST_GPU = """
    import pytest, sys, types
    cupy = types.ModuleType("cupy")
    def ones(n): raise RuntimeError("cudaErrorIllegalAddress")
    cupy.ones = ones
    @pytest.mark.gpu
    def test_first(monkeypatch):
        sys.modules["cupy"] = cupy
        assert False, "the kernel went wrong"
    def test_second(): pass
"""


def run_pytest(folder: Path, source: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest of its own, with this folder's conftest, in a process that sees no GPU."""
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-ra", "-q", *options]
    env = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


ONE_TEST = "def test_it(backend): backend.synchronize()"
MARKER = ("-o", "markers=gpu: needs a GPU")


def test_a_gpu_test_without_a_gpu_is_skipped_with_its_reason(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, ONE_TEST, *MARKER, TWOSTROKE_REQUIRE_GPU="0")
    assert result.returncode == 0, result.stdout
    assert "2 passed, 1 skipped" in result.stdout
    assert "SKIPPED [1] test_it.py:1: no GPU: " in result.stdout


@pytest.mark.parametrize("how", ["option", "environment"])
def test_require_gpu_makes_the_skip_a_failure(tmp_path: Path, how: str) -> None:
    options, variable = (["--require-gpu"], "0") if how == "option" else ([], "1")
    result = run_pytest(tmp_path, ONE_TEST, *MARKER, *options, TWOSTROKE_REQUIRE_GPU=variable)
    assert result.returncode == 1, result.stdout
    assert "2 passed, 1 error" in result.stdout
    assert "a GPU is required: " in result.stdout


def test_a_lost_gpu_ends_the_session(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, LOST_GPU, *MARKER)
    assert result.returncode != 0
    assert "the GPU no longer works after test_it.py::test_first (RuntimeError: cudaErrorIll" in result.stdout
    assert "1 failed" in result.stdout
    assert "passed" not in result.stdout
