"""CuPy's accelerators off while this package works: CUB takes seconds to compile and allocates at every reduction."""

from __future__ import annotations

import threading
from typing import Any, Final

import cupy


class _Accelerators:
    """Counts the active blocks of all threads: the first switches off, the last restores what the process had."""

    def __init__(self) -> None:
        self._lock, self._blocks = threading.Lock(), 0

    def switch_off(self) -> None:
        with self._lock:
            if not self._blocks:
                self._before = _replace([], [])
            self._blocks += 1

    def restore(self) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                _replace(*self._before)


def _replace(routine: list[int], reduction: list[int]) -> tuple[list[int], list[int]]:
    """Sets both lists; returns those before."""
    core: Any = cupy._core
    before = core.get_routine_accelerators(), core.get_reduction_accelerators()
    core.set_routine_accelerators(routine)
    core.set_reduction_accelerators(reduction)
    return before


accelerators: Final = _Accelerators()
