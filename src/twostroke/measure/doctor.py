"""``doctor``: this machine's hardware and libraries, the chosen device and why, and its GEMM rate."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from importlib import metadata
from typing import Any, Final

import numpy as np

from ..backend import Backend, cuda_installation, cuda_version, cupy_wheels, host_backend, probe_cuda, select_backend
from ..data.dataset import load_dataset
from ..errors import DataError
from ..provenance import versions

GEMM_SIZE, GEMM_RUNS = 1024, 5
NVIDIA_SMI: Final = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


def examine() -> dict[str, Any]:
    """All facts that ``twostroke doctor`` prints. Works without a GPU."""
    backend, probe = select_backend("auto"), probe_cuda()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "versions": versions() | {"scipy": metadata.version("scipy")},
        "cpu": host_backend().describe() | {"core_latency_ns": host_backend().core_latency_ns()},
        "cupy_wheels": cupy_wheels(),
        "nvidia_smi": nvidia_smi(),
        "gpu": backend.describe() | cuda_installation() if probe.usable else None,
        "gpu_usable": probe.usable,
        "device": backend.device,
        "reason": backend.reason,
        "remedy": probe.remedy,
        "mnist": mnist_state(),
        "gemm_gflops": gemm_rate(backend),
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """The facts as text."""
    cpu, gpu, installed = facts["cpu"], facts["gpu"], facts["versions"]
    threads = "1 thread" if cpu["threads"] == 1 else f"{cpu['threads']} threads"
    apart = f", {cpu['core_latency_ns']:.0f} ns apart" if cpu["core_latency_ns"] else ""
    return [
        f"twostroke {installed['twostroke']}, {facts['python']}, {facts['platform']}",
        f"processor: {cpu['processor']}, {cpu['cores']} core{'s' if cpu['cores'] != 1 else ''} for this process{apart}",
        f"libraries: NumPy {installed['numpy']}, SciPy {installed['scipy']}",
        f"products: {cpu['products']}, {threads}",
        f"captured steps: {cpu['steps']}",
        f"CuPy: {', '.join(facts['cupy_wheels']) or 'not installed'}",
        f"NVIDIA driver: {facts['nvidia_smi']}",
        f"GPU: {_gpu(gpu) if gpu else 'none that can be used'}",
        *(_gpu_details(gpu) if gpu else []),
        f"chosen device: {facts['device']}: {facts['reason']}",
        *([f"to use a GPU: {facts['remedy']}"] if facts["remedy"] else []),
        f"bundled MNIST: {facts['mnist']}",
        f"matrix product: {facts['gemm_gflops']:,.0f} GFLOP/s on {facts['device']}"
        f" ({GEMM_SIZE}^3, float32, best of {GEMM_RUNS})",
    ]


def _gpu(gpu: dict[str, Any]) -> str:
    driver, runtime = cuda_version(gpu["driver_cuda"]), cuda_version(gpu["runtime_cuda"])
    return (
        f"{gpu['gpu']}, compute capability {gpu['compute_capability']},"
        f" driver for CUDA {driver}, runtime CUDA {runtime}"
    )


def _gpu_details(gpu: dict[str, Any]) -> list[str]:
    """GPU memory, TF32 and libraries, as far as known."""
    free, total = gpu.get("memory_free_bytes"), gpu["memory_bytes"]
    limit = gpu.get("pool_limit_bytes")
    found = [f"{total / 2**30:.1f} GiB", *([f"{free / 2**30:.1f} GiB free"] if free is not None else [])]
    found += [f"CuPy may use {limit / 2**30:.2f} GiB"] if limit else []
    override = "".join(f" ({name}={value} is set)" for name, value in gpu.get("tf32_environment", {}).items())
    graphs = gpu.get("graphs", {})
    replayed = "as CUDA graphs" if graphs.get("used") else f"not; call by call: {graphs.get('reason', 'unknown')}"
    libraries = [f"{name} {library['path']} ({library['from']})" for name, library in gpu.get("libraries", {}).items()]
    return [
        f"GPU memory: {', '.join(found)}",
        f"TF32: {'on' if gpu['tf32'] else 'off, --tf32 switches it on'}{override}",
        f"steps are replayed: {replayed}",
        *(f"CUDA library: {library}" for library in libraries),
    ]


def nvidia_smi() -> str:
    """The output of nvidia-smi, which does not depend on CuPy; or why there is none."""
    if not shutil.which(NVIDIA_SMI[0]):
        return "nvidia-smi not found"
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed ({type(error).__name__})"
    said = [line.strip() for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    return "; ".join(said) or f"nvidia-smi failed (exit {done.returncode})"


def mnist_state() -> str:
    """Whether the bundled MNIST is intact; else the error."""
    try:
        load_dataset("mnist")
    except DataError as error:
        return str(error)
    return "intact"


def gemm_rate(backend: Backend) -> float:
    """GFLOP/s of a square float32 product on ``backend``: the fastest of several, synchronised."""
    rng = np.random.default_rng(0)
    seconds = []
    with backend.active():
        a, b, out = (backend.asarray(rng.standard_normal((GEMM_SIZE, GEMM_SIZE)), "float32") for _ in range(3))
        for _ in range(1 + GEMM_RUNS):
            backend.synchronize()
            started = time.perf_counter()
            backend.gemm(a, b, out)
            backend.synchronize()
            seconds.append(time.perf_counter() - started)
    return 2e-9 * GEMM_SIZE**3 / min(seconds[1:])
