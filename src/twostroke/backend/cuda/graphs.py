"""Steps captured as CUDA graphs: one launch replaces dozens of calls from Python, or even those of a whole epoch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import cupy
import numpy as np

from ...errors import ConfigError
from ..base import Array, Captured, Steps
from .cublas import undisturbed

SWITCH: Final = "TWOSTROKE_CAPTURE"
MODES: Final = {"0": 0, "auto": 100, "epoch": 1}  # 0: no graphs; else a whole epoch is captured after so many epochs
LARGEST: Final = 1024  # most steps in a graph, and in the device's queue between two checks whether to stop

Launch = Callable[[], None]


class Capture:
    """Captures graphs on a stream of its own. ``fault`` is empty, or says why nothing is captured."""

    def __init__(self) -> None:
        mode = os.environ.get(SWITCH, "auto")
        if mode not in MODES:
            raise ConfigError("unknown mode", where=SWITCH, found=repr(mode), expected=" or ".join(MODES))
        # Capturing a step takes as much host time as running it call by call, some 200 us. A whole epoch's graph saves
        # the gap between two launches, a few us per step: that pays only in a long run.
        self.pays = MODES[mode]
        self.fault = "" if self.pays else f"{SWITCH}=0"
        self.graphs = self.launches = 0
        self.seconds = 0.0
        self._stream = None
        self._turn = threading.Lock()  # threads that share a backend capture one after the other

    def refuse(self, error: Exception) -> None:
        """Stop capturing. The first reason is kept."""
        self.fault = self.fault or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

    def describe(self) -> dict[str, object]:
        """Whether graphs are used, or why not; graphs captured so far, the seconds that took, and launches."""
        return {
            "used": not self.fault,
            "reason": self.fault,
            "captured": self.graphs,
            "capture_seconds": self.seconds,
            "launches": self.launches,
        }

    def graph(self, work: Launch) -> Launch | None:
        """Capture ``work`` without running it; returns the graph's launch. ``work`` must have run once before.

        Returns None, and sets ``fault``, if CUDA, CuPy or cuBLAS refuse; the caller then runs call by call.
        """
        if self.fault:
            return None
        started = time.perf_counter()
        # Steps should allocate nothing; with this pool, what one allocates lives as long as the graph.
        try:
            pool = cupy.cuda.MemoryPool()
            stream = self._stream = self._stream or cupy.cuda.Stream(non_blocking=True)
            with self._turn, undisturbed(), stream, cupy.cuda.using_allocator(pool.malloc):
                stream.begin_capture()
                try:
                    work()
                except BaseException:
                    with suppress(Exception):  # ending a failed capture raises, too
                        stream.end_capture()
                    raise
                graph = stream.end_capture()
        except Exception as error:
            self.refuse(error)
            return None
        self.graphs += 1
        self.seconds += time.perf_counter() - started

        def launch(held: object = (work, pool)) -> None:
            self.launches += 1
            graph.launch()

        return launch

    def replay(self, work: Launch) -> Launch:
        """A function that runs ``work`` call by call the first time (compiles, allocates), then as a graph."""
        launch: Launch | None = None
        ran = False

        def run() -> None:
            nonlocal launch, ran
            if ran and launch is None:
                launch = self.graph(work) or work
            (launch or work)()
            ran = True

        return run


class Graphs(Captured):
    """One graph launch per step, or one for all steps.

    Each part keeps the index of its next step on the device; the captured step reads and increments it. ``works``
    has for each part a function that runs a step with the copies around it, ``positions`` (parts, 2) its index first.
    """

    at_once = LARGEST

    def __init__(self, parts: Sequence[Steps], works: Sequence[Launch], positions: Array, capture: Capture) -> None:
        super().__init__(parts)
        self._capture, self._works, self._positions = capture, works, positions
        self._launches = [capture.replay(work) for work in works]
        self._total = sum(steps.count for steps in parts)
        self._ran = 0
        self._whole: Launch | None = None

    def run(self, first: int = 0, stop: int = 1) -> None:
        whole = (first, stop) == (0, self._total) and 1 < self._total <= LARGEST
        if whole and self._ran >= self._capture.pays * self._total:
            self._whole = self._whole or self._capture.graph(self._all) or self._all
            self._whole()
        else:
            super().run(first, stop)
        self._ran += stop - first
        if stop < self._total:
            cupy.cuda.get_current_stream().synchronize()  # queued steps cannot be cancelled: keep the queue short

    def run_part(self, part: int, first: int, stop: int) -> None:
        if self.parts[part].moves:
            self._positions[part, :1].set(np.array([first]), cupy.cuda.get_current_stream())
        for _ in range(first, stop):
            self._launches[part]()

    def _all(self) -> None:
        for steps, work, position in zip(self.parts, self._works, self._positions, strict=True):
            cupy.copyto(position[:1], 0)
            for _ in range(steps.count):
                work()


def call_by_call(steps: Steps, position: Array) -> None:
    """The step with index ``position`` (1,) and the copies around it; then increments ``position``."""
    for move in steps.moves:
        if move.before:
            cupy.take(move.rows, position, axis=0, out=move.fixed[None])
    steps.step()
    for move in steps.moves:
        if not move.before:
            move.rows[position] = move.fixed
    if steps.moves:
        cupy.add(position, 1, out=position)
