"""Every way a GPU can be absent or broken, planted: each has its own reason and remedy, none raises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata, util
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest

from tests.support.strict_device import CudaError, FakeCublas, plant_fake_cupy
from twostroke import DeviceError, select_backend
from twostroke.backend.cuda.probe import Probe, cupy_wheels, probe_cuda

pytestmark = pytest.mark.usefixtures("fresh_probe")
CUPY = "cupy-cuda12x"
Plant = Callable[..., None]


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """``wheels("cupy-cuda12x", ...)``: what ``importlib`` finds installed."""

    def plant(*names: str) -> None:
        found = [SimpleNamespace(name=name, version="14.2.0") for name in ("numpy", *names)]
        monkeypatch.setattr(metadata, "distributions", lambda: iter(found))
        monkeypatch.setattr(util, "find_spec", lambda _: names or None)

    return plant


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, wheels: Plant) -> Any:
    """A CuPy whose CUDA runtime a test may change: everything works until then."""
    wheels(CUPY)
    fake, _ = plant_fake_cupy(monkeypatch)
    return fake.cuda.runtime


def failing(error: BaseException) -> Callable[..., NoReturn]:
    def function(*_: object) -> NoReturn:
        raise error

    return function


@pytest.fixture
def self_test(monkeypatch: pytest.MonkeyPatch, runtime: Any) -> Callable[[BaseException], None]:
    """``self_test(error)``: the probe's work on the device ends in this error."""

    def plant(error: BaseException) -> None:
        module: Any = ModuleType("twostroke.backend.cuda.backend")
        module.self_test = failing(error)
        monkeypatch.setitem(sys.modules, "twostroke.backend.cuda.backend", module)

    return plant


def assert_refused(probe: Probe, reason: str, remedy: str) -> None:
    """Not usable, with this reason and this remedy, and a one-line ``DeviceError`` that carries both."""
    assert not probe.usable
    assert reason in probe.reason
    assert remedy in probe.remedy
    error = probe.error()
    assert isinstance(error, DeviceError)
    assert error.exit_code == 3
    message = str(error)
    assert "\n" not in message
    assert reason in message
    assert remedy in message
    assert "--device auto or cpu" in message


def test_a_working_gpu(runtime: Any) -> None:
    """The whole of the probe, self-test included, over a CuPy and a cuBLAS that compute on the host."""
    probe = probe_cuda()
    assert probe == Probe(True, "Fake GPU (compute capability 9.0) passed the probe with cupy-cuda12x 14.2.0")
    backend = select_backend("cuda")
    assert (backend.name, backend.device) == ("cupy", "cuda:0")
    assert backend.reason == f"cuda was asked for; {probe.reason}"
    assert select_backend("auto").reason == probe.reason
    assert select_backend("GPU:0").device == "cuda:0"


def test_cupy_is_absent(wheels: Plant) -> None:
    wheels()
    assert cupy_wheels() == []
    assert_refused(probe_cuda(), "CuPy is not installed", "pip install 'cupy-cuda12x[ctk]' (CUDA 12)")


def test_two_wheels(wheels: Plant) -> None:
    wheels(CUPY, "cupy_cuda13x")
    assert_refused(
        probe_cuda(),
        "several CuPy packages are installed (cupy-cuda12x 14.2.0, cupy_cuda13x 14.2.0)",
        "pip uninstall all of them, then install one",
    )


def test_without_cupy_no_metadata_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as a tenth of an epoch."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    monkeypatch.setattr(metadata, "distributions", None)
    assert cupy_wheels() == []


def test_a_distribution_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    found = [SimpleNamespace(name=None, version="1"), SimpleNamespace(name="CuPy-cuda12x", version="14.2.0")]
    monkeypatch.setattr(metadata, "distributions", lambda: iter(found))
    assert cupy_wheels() == ["CuPy-cuda12x 14.2.0"]


@pytest.mark.parametrize("error", [ImportError("numpy.core is gone\nsecond line"), OSError("x"), SyntaxError("x")])
def test_cupy_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, wheels: Plant, error: Exception) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "cupy":
                raise error

    wheels(CUPY)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    first_line = str(error).splitlines()[0]
    assert_refused(probe_cuda(), f"cupy-cuda12x 14.2.0 cannot be imported ({first_line})", "pip install")


def test_cupy_is_none_in_sys_modules(monkeypatch: pytest.MonkeyPatch, wheels: Plant) -> None:
    wheels(CUPY)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert_refused(probe_cuda(), "cannot be imported", "pip install")


def test_toolkit_libraries_are_missing_at_import(monkeypatch: pytest.MonkeyPatch, runtime: Any) -> None:
    """``pip install cupy-cuda12x`` without [ctk]: CuPy imports, cuBLAS does not."""
    libs = sys.modules["cupy_backends.cuda.libs"]
    monkeypatch.delattr(libs, "cublas")
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas", raising=False)  # a real CuPy's
    monkeypatch.setattr(libs, "__name__", "cupy_backends.cuda.libs")
    assert_refused(probe_cuda(), "cupy-cuda12x 14.2.0 lacks CUDA libraries", "pip install 'cupy-cuda12x[ctk]'")


def test_toolkit_libraries_are_missing_at_compilation(self_test: Callable[[BaseException], None]) -> None:
    error = type("DynamicLibNotFoundError", (RuntimeError,), {})("nvrtc: libnvrtc.so.12 not found\nsearched: ...")
    self_test(error)
    probe = probe_cuda()
    assert_refused(probe, "lacks CUDA libraries (nvrtc: libnvrtc.so.12 not found)", "pip install 'cupy-cuda12x[ctk]'")


def test_no_driver(runtime: Any) -> None:
    runtime.getDeviceCount = failing(CudaError(35, "cudaErrorInsufficientDriver"))
    runtime.driverGetVersion = lambda: 0
    assert_refused(probe_cuda(), "cupy-cuda12x 14.2.0 is installed but there is no NVIDIA driver", "Install the driver")


def test_driver_too_old(runtime: Any) -> None:
    runtime.getDeviceCount = failing(CudaError(35, "cudaErrorInsufficientDriver"))
    runtime.driverGetVersion = lambda: 11080
    reason = "driver is too old (it supports CUDA 11.8, cupy-cuda12x 14.2.0 needs 12.9)"
    assert_refused(probe_cuda(), reason, "Update the driver")


def test_no_device_by_status(runtime: Any) -> None:
    runtime.getDeviceCount = failing(CudaError(100, "cudaErrorNoDevice"))
    assert_refused(probe_cuda(), "no CUDA GPU found", "CUDA_VISIBLE_DEVICES")


def test_no_device_by_count(runtime: Any) -> None:
    runtime.getDeviceCount = lambda: 0
    assert_refused(probe_cuda(), "no CUDA GPU found", "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("status", [None, 999])
def test_cuda_does_not_start(runtime: Any, status: int | None) -> None:
    error = RuntimeError("odd") if status is None else CudaError(status, "odd")
    runtime.getDeviceCount = failing(error)
    runtime.driverGetVersion = failing(RuntimeError("also"))
    assert_refused(probe_cuda(), "CUDA did not start (odd)", "nvidia-smi")


def test_an_index_that_is_not_there(runtime: Any) -> None:
    runtime.getDeviceCount = lambda: 2
    assert_refused(probe_cuda(7), "there is no cuda:7, this machine has cuda:0, cuda:1", "Choose one of these")
    with pytest.raises(DeviceError, match=r"there is no cuda:7, this machine has cuda:0, cuda:1"):
        select_backend("cuda:7")
    assert probe_cuda(1).usable


def test_a_gpu_that_computes_wrong(monkeypatch: pytest.MonkeyPatch, wheels: Plant) -> None:
    """The real self-test over a cuBLAS whose products are off by one."""
    wheels(CUPY)
    plant_fake_cupy(monkeypatch, cublas=FakeCublas(error=1.0))
    reason = "the GPU failed the probe (ArithmeticError: a 2x2 product came back as [[8.0, 17.0], [17.0, 53.0]])"
    assert_refused(probe_cuda(), reason, "twostroke doctor --debug")


UNEXPECTED = [
    RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED"),
    CudaError(700, "cudaErrorIllegalAddress"),
    MemoryError(),
    ValueError("x" * 500),
    AttributeError("getDeviceProperties"),
    AssertionError(),
]


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_whatever_else_is_raised_becomes_the_reason(
    self_test: Callable[[BaseException], None], error: Exception
) -> None:
    self_test(error)
    probe = probe_cuda()
    assert_refused(probe, f"the GPU failed the probe ({type(error).__name__}: ", "twostroke doctor --debug")
    assert len(probe.reason) < 300


def test_properties_that_cannot_be_read(runtime: Any) -> None:
    runtime.getDeviceProperties = failing(KeyError("name"))
    assert_refused(probe_cuda(), "the GPU failed the probe (KeyError", "doctor")


def test_ctrl_c_is_not_swallowed(self_test: Callable[[BaseException], None]) -> None:
    self_test(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        probe_cuda()


def test_auto_falls_back_and_says_why(runtime: Any) -> None:
    runtime.getDeviceCount = lambda: 0
    backend = select_backend("auto")
    assert (backend.name, backend.device, backend.reason) == ("numpy", "cpu", "no CUDA GPU found")


def test_cuda_never_falls_back(runtime: Any) -> None:
    runtime.getDeviceCount = lambda: 0
    for device in ("cuda", "cuda:0", "gpu", "CUDA"):
        with pytest.raises(DeviceError, match=r"^the GPU cannot be used: no CUDA GPU found\. Check .* Or choose"):
            select_backend(device)


def test_the_probe_asks_once(runtime: Any) -> None:
    calls = []
    runtime.getDeviceCount = lambda: calls.append(1) or 0  # type: ignore[func-returns-value]
    assert probe_cuda() is probe_cuda()
    assert len(calls) == 1


def test_this_machine() -> None:
    """Whatever it has, the probe answers, with a sentence, and a remedy if the answer is no."""
    probe = probe_cuda()
    assert probe.reason
    assert probe.usable or probe.remedy
