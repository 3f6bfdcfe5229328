"""Plays captured steps: by the C library, or call by call from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import numpy as np

from ..base import Steps
from ..tape import Tape
from .library import library
from .program import Program, Unplayable
from .threads import ThreadGovernor

AT_ONCE_S: Final = 5e-3  # a signal waits so long, and the player's caller costs nothing any more


def playback(tape: Tape) -> Callable[[], None]:
    """What runs a tape the quickest here: the compiled player, or Python."""
    native, _ = library()
    if native is not None:
        with suppress(Unplayable):
            return Program(tape, native.play).run

    def replay() -> None:
        for call in tape:
            call()

    return replay


class PlayedEpoch:
    """An ``Epoch`` whose steps the player runs, those of one look at whether to stop in one call."""

    def __init__(
        self,
        parts: Sequence[Steps],
        capture: Callable[[Callable[[], None]], Tape],
        governor: Callable[[Tape], ThreadGovernor | None],
        play: Callable[[int], None],
    ) -> None:
        self._parts = [_PlayedSteps(steps, capture, governor, play) for steps in parts]
        self.at_once = 1

    def run(self, first: int, stop: int) -> None:
        """The steps ``first`` to ``stop``; from how long they took: how many to run at once."""
        started, begin = time.perf_counter(), 0
        for part in self._parts:
            part.run(max(first - begin, 0), min(stop - begin, part.count))
            begin += part.count
        step_s = (time.perf_counter() - started) / (stop - first)
        # At most twice as many as before: the first ones are slow, or quick, by chance.
        self.at_once = max(1, min(2 * (stop - first), int(AT_ONCE_S / step_s)))


class _PlayedSteps:
    """Steps of one size: the first is recorded, or replayed from Python where the player does not know a call."""

    def __init__(
        self,
        steps: Steps,
        capture: Callable[[Callable[[], None]], Tape],
        governor: Callable[[Tape], ThreadGovernor | None],
        play: Callable[[int], None],
    ) -> None:
        self.count = steps.count
        self._steps, self._capture, self._make_governor, self._play = steps, capture, governor, play
        self._governor: ThreadGovernor | None = None
        self._run: Callable[[int, int], None] | None = None

    def run(self, first: int, stop: int) -> None:
        if first >= stop:
            return
        if self._run is None:
            self._move(first, before=True)
            tape = self._capture(self._steps.step)
            self._move(first, before=False)
            self._governor = self._make_governor(tape)
            try:
                self._run = Program(tape, self._play, self._steps.moves).run
            except Unplayable:
                self._run = partial(self._replay, playback(tape))
            first += 1
        if first < stop:
            work = partial(self._run, first, stop - first)
            if self._governor is None:
                work()
            else:
                self._governor.run(work, stop - first)

    def _replay(self, step: Callable[[], None], first: int, count: int) -> None:
        for index in range(first, first + count):
            self._move(index, before=True)
            step()
            self._move(index, before=False)

    def _move(self, index: int, *, before: bool) -> None:
        for rows, fixed, is_before in self._steps.moves:
            if is_before == before:
                np.copyto(*((fixed, rows[index]) if before else (rows[index], fixed)))
