"""Steps captured as CUDA graphs: one launch in place of dozens of calls from Python, up to a whole epoch of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import cupy

from ...errors import ConfigError
from ..base import Array, Steps
from .cublas import undisturbed

SWITCH: Final = "TWOSTROKE_CAPTURE"
MODES: Final = {"0": 0, "auto": 100, "epoch": 1}  # 0: never; else after how many epochs one is captured as a whole
LARGEST: Final = 1024  # steps in a graph, and in the device's queue between two looks at whether to stop

Launch = Callable[[], None]


class Capture:
    """Makes graphs on a stream of its own. ``fault`` says why it makes none; it is empty while it does."""

    def __init__(self) -> None:
        mode = os.environ.get(SWITCH, "auto")
        if mode not in MODES:
            raise ConfigError("unknown mode", where=SWITCH, found=repr(mode), expected=" or ".join(MODES))
        # To capture a step costs as much of the host's time as running it call by call, some 200 us; in a whole epoch's
        # graph it saves what lies between two launches, a few us: that pays in a long run only.
        self.pays = MODES[mode]
        self.fault = "" if self.pays else f"{SWITCH}=0"
        self.graphs = self.launches = 0
        self.seconds = 0.0
        self._stream = None
        self._turn = threading.Lock()  # threads that share a backend capture one after the other

    def refuse(self, error: Exception) -> None:
        """No graph from here on. The first reason is kept."""
        self.fault = self.fault or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

    def describe(self) -> dict[str, object]:
        """Whether steps are replayed from graphs, or why not, and what was captured, how long, and launched so far."""
        return {
            "used": not self.fault,
            "reason": self.fault,
            "captured": self.graphs,
            "capture_seconds": self.seconds,
            "launches": self.launches,
        }

    def graph(self, work: Launch) -> Launch | None:
        """A launch of all that ``work`` does, which has run before: captured here, it does not run.

        None where CUDA, CuPy or cuBLAS refuse, and ``fault`` says it: then call by call goes on.
        """
        if self.fault:
            return None
        started = time.perf_counter()
        # Steps allocate nothing. Did one, its memory would live as long as the graph that works in it.
        try:
            pool = cupy.cuda.MemoryPool()
            stream = self._stream = self._stream or cupy.cuda.Stream(non_blocking=True)
            with self._turn, undisturbed(), stream, cupy.cuda.using_allocator(pool.malloc):
                stream.begin_capture()
                try:
                    work()
                except BaseException:
                    with suppress(Exception):  # a capture that failed ends in an error of its own
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

    def record(self, step: Launch) -> Launch:
        """``step`` as it is for the first time, which compiles and allocates, and replayed from then on."""
        replay: Launch | None = None
        ran = False

        def run() -> None:
            nonlocal replay, ran
            if ran and replay is None:
                replay = self.graph(step) or step
            (replay or step)()
            ran = True

        return run


class EpochGraphs:
    """An ``Epoch``: a launch for each step, or one for all of them.

    Each kind of steps has on the device the position of its next one, where the step itself looks and counts on.
    """

    at_once = LARGEST

    def __init__(self, parts: Sequence[Steps], capture: Capture) -> None:
        self._capture = capture
        works = [partial(_one, steps, cupy.zeros(1, "int64")) for steps in parts]
        self._parts = [(steps.count, work, capture.record(work)) for steps, work in zip(parts, works, strict=True)]
        self._total = sum(steps.count for steps in parts)
        self._ran = 0
        self._whole: Launch | None = None

    def run(self, first: int, stop: int) -> None:
        """The steps ``first`` to ``stop`` of the epoch."""
        whole = (first, stop) == (0, self._total) and self._total <= LARGEST
        if whole and self._ran >= self._capture.pays * self._total:
            self._whole = self._whole or self._capture.graph(self._all) or self._all
            self._whole()
        else:
            begin = 0
            for count, work, run in self._parts:
                here = range(max(first, begin), min(stop, begin + count))
                if here:
                    cupy.copyto(work.args[1], here.start - begin)
                for _ in here:
                    run()
                begin += count
        self._ran += stop - first

    def _all(self) -> None:
        for count, work, _ in self._parts:
            cupy.copyto(work.args[1], 0)
            for _ in range(count):
                work()


def _one(steps: Steps, position: Array) -> None:
    """The step at ``position`` (1,), with what moves before and after it; then the next one's turn."""
    for move in steps.moves:
        if move.before:
            cupy.take(move.rows, position, axis=0, out=move.fixed[None])
    steps.step()
    for move in steps.moves:
        if not move.before:
            move.rows[position] = move.fixed
    cupy.add(position, 1, out=position)
