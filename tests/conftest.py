"""Every test body runs on every backend: ``numpy``, the strict stand-in device, and ``cupy`` where a GPU is.

A GPU test without a GPU is skipped with the probe's reason, never passed; ``--require-gpu`` (or
TWOSTROKE_REQUIRE_GPU=1) makes that a failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest

from tests.support.browser import browser  # noqa: F401 (a fixture for all tests)
from tests.support.strict_device import StrictBackend
from twostroke.backend import Backend, select_backend
from twostroke.backend.cuda.probe import probe_cuda

Upload = Callable[..., Any]

# Figures that a test measured and that a reader wants, shown at the end of the run: the largest of each name.
FIGURES: dict[str, float] = {}

# No time limits (machines differ), the same examples on every run, nothing written to disk.
hypothesis.settings.register_profile("twostroke", deadline=None, derandomize=True, database=None, max_examples=200)
hypothesis.settings.load_profile("twostroke")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="a GPU test that cannot run fails")


def gpu_required(config: pytest.Config) -> bool:
    return bool(config.getoption("--require-gpu")) or os.environ.get("TWOSTROKE_REQUIRE_GPU", "0") not in ("", "0")


def gpu_backend(config: pytest.Config) -> Backend:
    """The first CUDA GPU; skips the test, or fails it, with the probe's reason."""
    probe = probe_cuda()
    if not probe.usable:
        if gpu_required(config):
            pytest.fail(f"a GPU is required: {probe.reason}. {probe.remedy}", pytrace=False)
        pytest.skip(f"no GPU: {probe.reason}")
    return select_backend("cuda")


@pytest.fixture(scope="session", params=["numpy", "strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """One test body, every device."""
    if request.param == "cupy":
        return gpu_backend(request.config)
    return StrictBackend() if request.param == "strict" else select_backend("cpu")


@pytest.fixture(scope="session", params=[pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Backend:
    """The GPU alone, for tests that compare it with the CPU."""
    return gpu_backend(request.config)


@pytest.fixture(scope="session")
def up(backend: Backend) -> Upload:
    """``up(values, dtype="float64", order="C")``: host values on the device, in the layout asked for."""

    def upload(values: Any, dtype: str = "float64", order: str = "C") -> Any:
        host = np.array(values, dtype=dtype)
        return backend.asarray(host.T).T if order == "F" else backend.asarray(host)

    return upload


@pytest.fixture(scope="session")
def down(backend: Backend) -> Callable[[Any], np.ndarray]:
    """A device array on the host, as a copy."""
    return lambda array: np.array(backend.to_host(array))


@pytest.fixture(scope="session")
def figure() -> Callable[[str, float], None]:
    """``figure("what was measured", value)``."""

    def note(name: str, value: float) -> None:
        FIGURES[name] = max(FIGURES.get(name, value), value)

    return note


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its figures over, as plain numbers: it cannot send NumPy's."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = {name: float(value) for name, value in FIGURES.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for name, value in getattr(node, "workeroutput", {}).get("figures", {}).items():
        FIGURES[name] = max(FIGURES.get(name, value), value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("measured")
        for name, value in sorted(FIGURES.items()):
            terminalreporter.write_line(f"{name}: {value:.3g}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20171105)


@pytest.fixture
def fresh_probe() -> Iterator[None]:
    """The probe keeps its answer for the life of the process: forget it before and after."""
    probe_cuda.cache_clear()
    yield
    probe_cuda.cache_clear()


def gpu_is_lost() -> str | None:
    """After a fault on the device every later call fails too ("sticky"): one tiny operation tells. Why, or None."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return None
    try:
        cupy.ones(3).sum().get()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """End the session after a GPU test that lost the device: what follows would only repeat its failure."""
    report = yield
    if report.failed and call.when == "call" and item.get_closest_marker("gpu"):
        lost = gpu_is_lost()
        if lost is not None:
            item.session.shouldfail = f"the GPU no longer works after {item.nodeid} ({lost})"
    return report
