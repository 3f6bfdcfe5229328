"""The CUDA libraries loaded into this process: their files and their origin."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# The libraries that a step uses, and the stem of each file name.
LIBRARIES = {"driver": "libcuda", "runtime": "libcudart", "cublas": "libcublas", "nvrtc": "libnvrtc"}
ORIGINS = (("site-packages/nvidia/", "the CUDA wheels"), ("/cupy/", "the CuPy wheel"), ("/cuda", "a CUDA toolkit"))
TF32_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "CUPY_TF32")


def cuda_installation(index: int = 0, maps: str = "/proc/self/maps") -> dict[str, Any]:
    """The loaded CUDA libraries and their origin, GPU memory, and environment variables that affect TF32.

    Call after a successful probe. Facts that cannot be determined are left out; nothing is raised.
    """
    facts: dict[str, Any] = {"libraries": loaded_libraries(maps)}
    facts["tf32_environment"] = {name: os.environ[name] for name in TF32_VARIABLES if name in os.environ}
    with suppress(Exception):
        import cupy

        ask: dict[str, Callable[[], Any]] = {
            "nvrtc_version": lambda: ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
            "pool_bytes": lambda: cupy.get_default_memory_pool().total_bytes(),
            "pool_limit_bytes": lambda: cupy.get_default_memory_pool().get_limit() or None,
        }
        with cupy.cuda.Device(index):
            for name, question in ask.items():
                with suppress(Exception):
                    facts[name] = question()
            facts["memory_free_bytes"], facts["memory_total_bytes"] = cupy.cuda.runtime.memGetInfo()
    return facts


def loaded_libraries(maps: str = "/proc/self/maps") -> dict[str, dict[str, str]]:
    """For each library: the file mapped into this process, and its origin."""
    found: dict[str, dict[str, str]] = {}
    for name, stem in LIBRARIES.items():
        for path in mapped_files(stem, maps):
            origin = next((whose for part, whose in ORIGINS if part in path), "the system")
            found[name] = {"path": path, "from": origin}
    return found


def mapped_files(stem: str, maps: str = "/proc/self/maps") -> list[str]:
    """The paths of the library ``stem`` mapped into this process; several if it was loaded twice."""
    found: set[str] = set()
    with suppress(OSError), open(maps, encoding="utf-8", errors="replace") as lines:
        found = {line.split(maxsplit=5)[5].strip() for line in lines if line.count("/") and ".so" in line}
    return sorted(path for path in found if re.fullmatch(rf"{stem}(-[0-9a-f]+)?\.so[.\d]*", path.rpartition("/")[2]))
