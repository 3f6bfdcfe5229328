"""CUDA sources compiled for the CPU by ``cuda_on_cpu.h`` and called as CuPy calls them, on arrays in host memory."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

HERE: Final = Path(__file__).parent
COMPILER: Final = shutil.which("g++") or shutil.which("c++") or ""
# A read or write beyond an array of known size is an illegal instruction, which the header catches.
OPTIONS: Final = (
    "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
    "-Wno-missing-field-initializers", "-U_FORTIFY_SOURCE", "-fsanitize=bounds", "-fsanitize-undefined-trap-on-error",
)  # fmt: skip
ORDERS: Final = (0, 1, 2)  # of threads and blocks: up, down, shuffled

Kernel = Callable[[Sequence[int], Sequence[int], Sequence[Any]], None]


class BrokenRule(Exception):
    """What a kernel did that it must not do."""


class Dim3(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


class Launch(ctypes.Structure):
    _fields_ = [("grid", Dim3), ("block", Dim3), ("order", ctypes.c_int), ("at_end", ctypes.c_int)]


class Argument(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("item", ctypes.c_size_t),
        ("array", ctypes.c_int), ("floating", ctypes.c_int),
    ]  # fmt: skip


class RawModule:
    """CuPy's, on the CPU. ``order`` is that of threads and blocks; in order 1 arrays are guarded closely in front."""

    def __init__(self, code: str, options: Sequence[str] = (), order: int = 0) -> None:
        assert all(option.startswith("--std=") for option in options), options
        self._library = library(code)
        self.order = order

    def get_function(self, name: str) -> Kernel:
        function = getattr(self._library, f"run_{name}")
        function.restype = ctypes.c_char_p

        def kernel(grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> None:
            given = (Argument * len(arguments))()
            hosts = [np.asarray(value) for value in arguments]  # held: numbers are copied into arrays
            for place, value, host in zip(given, arguments, hosts, strict=True):
                assert host.flags.c_contiguous
                assert isinstance(value, np.ndarray | np.generic), f"{value!r} has no type of its own"
                place.data, place.bytes, place.item = host.ctypes.data, host.nbytes, host.itemsize
                place.array, place.floating = isinstance(value, np.ndarray), host.dtype.kind == "f"
            sizes = [Dim3(*size, *[1] * (3 - len(size))) for size in (grid, block)]
            said = function(ctypes.byref(Launch(*sizes, self.order, self.order != 1)), given, len(given)).decode()
            if said:
                raise BrokenRule(f"{name}: {said}")

        return kernel


@functools.cache
def library(code: str) -> ctypes.CDLL:
    """The source as a library of the CPU; skips the test where no compiler is."""
    if not COMPILER:
        pytest.skip("no C++ compiler to run CUDA sources with")
    kernels = re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(', code)
    text = f'#include "cuda_on_cpu.h"\n{code}\n' + "".join(f"RUN_ON_CPU({kernel})\n" for kernel in kernels)
    with tempfile.TemporaryDirectory() as folder:
        file, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        file.write_text(text, encoding="utf-8")
        command = [COMPILER, *OPTIONS, f"-I{HERE}", "-o", str(made), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(made))  # stays when its file is gone
