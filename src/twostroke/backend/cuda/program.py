"""A step compiled for the GPU: its calls as few generated kernels, and large products by cuBLAS."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import cupy

from ..base import Array, Steps
from .calls import Call, Recorder, Untraceable
from .launches import NeedsMemory, assigned, passing, renamed, schedule
from .source import THREADS, KernelSource

HEADER: Final = (Path(__file__).parent / "device.cuh").read_text(encoding="utf-8")
# No contraction: a multiplication and an addition are rounded each, as NumPy does it. (Products use fma by name.)
OPTIONS: Final = ("--std=c++17", "--fmad=false")

Run = Callable[[], None]


class Compiler:
    """Compiles steps for one device. ``fault`` says why a step was not compiled, and is empty if all were."""

    def __init__(self, *, own_products: bool) -> None:
        self._own_products = own_products
        self._functions: dict[str, Any] = {}
        self._kernels, self._launches, self._seconds, self.fault = 0, 0, 0.0, ""

    def compile(self, traces: Sequence[tuple[Sequence[Call], Sequence[Array]]]) -> list[Run]:
        """A function for each trace, calls with their scratch arrays, that launches it. All are compiled at once.

        Raises ``Untraceable`` for what cannot be expressed, and whatever CuPy raises.
        """
        started = time.perf_counter()
        if not all(calls for calls, _ in traces):
            raise Untraceable("it makes no call to the backend")
        first: list[Call] = []
        plans = []
        for calls, scratch in traces:
            if self._own_products:
                like = first if len(first) == len(calls) else [None] * len(calls)
                calls = [assigned(*pair) for pair in zip(calls, like, strict=True)]  # noqa: PLW2901
            first = first or list(calls)
            plans.append(self._plan(calls, scratch))
        texts = [item.text for plan in plans for item in plan if isinstance(item, KernelSource)]
        new = {text: f"step_{hashlib.sha256(text.encode()).hexdigest()[:12]}" for text in texts}
        new = {text: name for text, name in new.items() if text not in self._functions}
        if new:
            kernels = (
                f'extern "C" __global__ void __launch_bounds__({THREADS}) {name}{text}' for text, name in new.items()
            )
            module = cupy.RawModule(code="\n".join([HEADER, *kernels]), options=OPTIONS)
            self._functions |= {text: module.get_function(name) for text, name in new.items()}
        self._kernels, self._launches = self._kernels + len(new), self._launches or len(plans[0])
        self._seconds += time.perf_counter() - started
        return [_runner([self._launch(item) for item in plan]) for plan in plans]

    def refuse(self, error: Exception) -> None:
        """Remember why a step is not compiled. The first reason is kept."""
        self.fault = self.fault or (str(error).splitlines() or [type(error).__name__])[0]

    def describe(self) -> dict[str, object]:
        """Kernels compiled so far, in how many seconds; launches of the first step; why a step was not compiled."""
        return {
            "kernels": self._kernels,
            "seconds": self._seconds,
            "launches": self._launches,
            "reason": self.fault,
        }

    def _plan(self, calls: Sequence[Call], scratch: Sequence[Array]) -> list[KernelSource | Call]:
        """The kernels and cuBLAS's products, with as many values as possible in registers alone."""
        private = passing(calls, scratch)
        while True:
            try:
                launches = schedule(list(renamed(calls, private)))
            except NeedsMemory as error:
                private -= {-1 - address for address in error.values}
                continue
            plan = [item if isinstance(item, Call) else KernelSource(item) for item in launches]
            missing = {index for item in plan if isinstance(item, KernelSource) for index in item.missing}
            if not missing:
                return plan
            private -= missing

    def _launch(self, item: KernelSource | Call) -> Run:
        if isinstance(item, Call):
            assert item.run is not None
            return item.run
        return partial(self._functions[item.text], (item.blocks,), (THREADS,), tuple(item.arguments))


def _runner(launches: Sequence[Run]) -> Run:
    def run() -> None:
        for launch in launches:
            launch()

    return run


def trace(steps: Steps, recorder: Recorder, position: Array, here: Array) -> None:
    """Note a step with the copies around it. ``position`` (1,) int64 is the step's index, and then the next one's."""
    if steps.moves:
        recorder.copyto(here, position)
    for move in steps.moves:
        if move.before:
            recorder.move(move, position)
    steps.step()
    for move in steps.moves:
        if not move.before:
            recorder.move(move, here)
    if steps.moves:
        recorder.add(here, 1, out=position)
