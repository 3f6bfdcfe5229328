"""CuPy's accelerators off while this package works: CUB takes seconds to compile and allocates at every reduction."""

from __future__ import annotations

import threading
from typing import Final

import cupy


class _Accelerators:
    """Counts the active blocks of all threads: the first switches off, the last restores what the process had."""

    def __init__(self) -> None:
        self._lock, self._blocks = threading.Lock(), 0
        self._before: tuple[list[int], list[int]] = [], []

    def switch_off(self) -> None:
        with self._lock:
            if not self._blocks and hasattr(cupy, "_core"):
                self._before = cupy._core.get_routine_accelerators(), cupy._core.get_reduction_accelerators()
                self._set([], [])
            self._blocks += 1

    def restore(self) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks and hasattr(cupy, "_core"):
                self._set(*self._before)

    def _set(self, routine: list[int], reduction: list[int]) -> None:
        cupy._core.set_routine_accelerators(routine)
        cupy._core.set_reduction_accelerators(reduction)


accelerators: Final = _Accelerators()
