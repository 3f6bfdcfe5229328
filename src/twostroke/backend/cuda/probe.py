"""A functional test of the GPU: CuPy may import without error and still not work."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import util
from typing import Any

from ...errors import DeviceError

NO_DEVICE, INSUFFICIENT_DRIVER = 100, 35  # cudaError_t
INSTALL = "Install it with: pip install 'cupy-cuda12x[ctk]' (CUDA 12) or 'cupy-cuda13x[ctk]' (CUDA 13)."


@dataclass(frozen=True)
class Probe:
    """The result of ``probe_cuda``: whether the GPU is usable, why or why not, and what to do."""

    usable: bool
    reason: str
    remedy: str = ""

    def error(self) -> DeviceError:
        """The ``DeviceError`` for a requested GPU that is not usable."""
        remedy = f"{self.remedy} " if self.remedy else ""
        return DeviceError(
            "the GPU cannot be used",
            where=self.reason,
            remedy=f"{remedy}Or choose --device auto or cpu.",
        )


def cupy_wheels() -> list[str]:
    """The installed CuPy distributions as "name version"; more than one conflict with each other."""
    if "cupy" not in sys.modules and not util.find_spec("cupy"):
        return []
    from importlib import metadata  # reads a file of every installed package

    found = {
        f"{dist.name} {dist.version}"
        for dist in metadata.distributions()
        if (dist.name or "").lower().replace("_", "-").startswith("cupy")
    }
    return sorted(found)


@cache
def probe_cuda(index: int = 0) -> Probe:
    """Test whether CUDA device ``index`` works: import, device count, a compiled kernel, a GEMM, a synchronisation.

    Never raises; an exception of CuPy becomes the reason.
    """
    wheels = cupy_wheels()
    if not wheels:
        return Probe(False, "CuPy is not installed", INSTALL)
    if len(wheels) > 1:
        return Probe(
            False,
            f"several CuPy packages are installed ({', '.join(wheels)})",
            "They overwrite each other: pip uninstall all of them, then install one.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cupy
    except Exception as error:
        return Probe(False, f"{wheels[0]} cannot be imported ({_first_line(error)})", INSTALL)
    try:
        return _probe_device(cupy, wheels[0], index)
    except Exception as error:
        return _broken(wheels[0], error)


def gpu_of(local_rank: int, local_size: int) -> int:
    """The index of the GPU for this rank of the machine. Raises ``DeviceError`` if there are fewer GPUs than ranks.

    If only one GPU is visible, the index is 0: the launcher may have given each rank its own.
    """
    if local_size == 1:
        return 0
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception:  # no working GPU; the probe will say why
        return 0
    if 1 < count < local_size:
        raise DeviceError(
            "more ranks than GPUs",
            where="--distributed",
            found=f"{local_size} ranks on a machine with {count} GPUs",
            expected="a GPU for each rank",
            remedy="Start fewer ranks (mpirun -n), or choose --device cpu.",
        )
    return local_rank if count > 1 else 0


def _probe_device(cupy: Any, wheel: str, index: int) -> Probe:
    """The part of the probe after the import of CuPy."""
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        return _no_device(runtime, wheel, error)
    if count == 0:
        return Probe(False, "no CUDA GPU found", "Check CUDA_VISIBLE_DEVICES and nvidia-smi.")
    if index >= count:
        names = ", ".join(f"cuda:{i}" for i in range(count))
        return Probe(False, f"there is no cuda:{index}, this machine has {names}", "Choose one of these.")
    from .backend import self_test

    self_test(index)
    properties = runtime.getDeviceProperties(index)
    name = properties["name"].decode(errors="replace")
    capability = f"{properties['major']}.{properties['minor']}"
    return Probe(True, f"{name} (compute capability {capability}) passed the probe with {wheel}")


def _no_device(runtime: Any, wheel: str, error: Exception) -> Probe:
    """Distinguish "no driver", "driver too old" and "no device": CUDA's status alone does not."""
    status = getattr(error, "status", None)
    try:
        driver = runtime.driverGetVersion()
        needed = runtime.runtimeGetVersion()
    except Exception:
        driver = needed = 0
    if status == NO_DEVICE:
        return Probe(False, "no CUDA GPU found", "Check CUDA_VISIBLE_DEVICES and nvidia-smi.")
    if status == INSUFFICIENT_DRIVER and driver == 0:
        return Probe(False, f"{wheel} is installed but there is no NVIDIA driver", "Install the driver.")
    if status == INSUFFICIENT_DRIVER:
        return Probe(
            False,
            f"the NVIDIA driver is too old (it supports CUDA {cuda_version(driver)},"
            f" {wheel} needs {cuda_version(needed)})",
            "Update the driver, or install the CuPy wheel of an older CUDA.",
        )
    return Probe(False, f"CUDA did not start ({_first_line(error)})", "Check nvidia-smi.")


def _broken(wheel: str, error: Exception) -> Probe:
    """CuPy imports, but a later part of the probe failed."""
    missing = isinstance(error, ImportError) or type(error).__name__ == "DynamicLibNotFoundError"
    name = wheel.partition(" ")[0]
    if missing:
        return Probe(
            False,
            f"{wheel} lacks CUDA libraries ({_first_line(error)})",
            f"Install them with: pip install '{name}[ctk]' (CuPy 14; older ones need a CUDA toolkit).",
        )
    return Probe(
        False,
        f"the GPU failed the probe ({type(error).__name__}: {_first_line(error)})",
        "Try: twostroke doctor --debug.",
    )


def cuda_version(number: int) -> str:
    """CUDA's version number 12040 as "12.4"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: Exception) -> str:
    """The first line of an error's message, cut to a readable length."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 200 else line[:197] + "..."
