"""Backends, rates and the place of results for ``pytest bench --benchmark-only``; see ``bench/timing.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bench.timing import RESULTS, describe_machine, machine_name, synchronize_with
from twostroke import select_backend
from twostroke.backend import Backend
from twostroke.backend.cuda.probe import probe_cuda

Annotate = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-threads", default="auto", help="BLAS threads of the CPU: auto, or N (N repeats better)")


def pytest_configure(config: pytest.Config) -> None:
    """``--benchmark-autosave`` and ``--benchmark-save`` write to bench/results/<machine>/ unless told otherwise."""
    if getattr(config.option, "benchmark_storage", "") == "file://./.benchmarks":
        config.option.benchmark_storage = f"file://{RESULTS / machine_name()}"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What figures are published with; the host's name is not."""
    machine_info.update(describe_machine())
    machine_info["node"] = machine_name()


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that this machine has; the other tests are skipped with the reason."""
    if request.param == "numpy":
        threads = request.config.getoption("--bench-threads")
        return select_backend("cpu", threads if threads == "auto" else int(threads))
    probe = probe_cuda()
    if not probe.usable:
        pytest.skip(probe.reason)
    return select_backend("cuda")


@pytest.fixture
def active_backend(backend: Backend) -> Iterator[Backend]:
    """The backend, active, with the clock waiting for it."""
    synchronize_with(backend)
    with backend.active():
        yield backend


@pytest.fixture
def annotate(benchmark: Any, active_backend: Backend) -> Annotate:
    """``annotate(samples, flops, roofline)`` after the run: rates of the median round, and what they depend on."""

    def note(samples: int = 0, flops: int = 0, roofline: Callable[[], float] | None = None) -> None:
        info = benchmark.extra_info
        info["dtype"] = "float32"
        info["threads"] = active_backend.threads
        info.update({key: value for key, value in active_backend.describe().items() if key not in info})
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.median
        if samples:
            info["samples_per_second"] = samples / seconds
        if flops:
            info["gflops"] = flops / seconds / 1e9
        if roofline is not None:
            info["roofline_gflops"] = roofline()
            info["roofline_fraction"] = info["gflops"] / info["roofline_gflops"]
            info["roofline_suspect"] = info["roofline_fraction"] > 1.0  # a fault or a noisy machine: claim nothing

    return note


def random_rows(backend: Backend, *shape: int) -> Any:
    """Seeded normal float32 numbers on the device, never zeros."""
    return backend.asarray(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
