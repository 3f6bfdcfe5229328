"""Runs captured steps on the CPU: played by the C library, many steps a call, or replayed from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from ..base import Array, CallByCall, Captured, Steps
from ..tape import Tape
from .library import library
from .program import Program, Unplayable
from .threads import ThreadGovernor

COPIED: Final = 1 << 12  # bytes
AT_ONCE_S: Final = 5e-3  # how long a signal may have to wait; a call of the player costs nothing beside it


# NumPy before 2.4 works out a type's limits when they are first asked for: not while subnormal numbers count as zeros.
LIMITS: Final = [np.finfo(kind) for kind in (np.half, np.single, np.double, np.longdouble)]


@contextmanager
def as_in_a_step() -> Iterator[None]:
    """A block in which NumPy computes as in a step: without warnings, because overflow is found where it matters, in
    the loss; and subnormal numbers count as zeros, as in the library."""
    native = library().native
    before = native.flush(1) if native else 0
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            yield
    finally:
        if native:
            native.flush(before)


class _ByCall(CallByCall):
    def run_part(self, part: int, first: int, stop: int) -> None:
        with as_in_a_step():
            super().run_part(part, first, stop)


class _Replay(NamedTuple):
    """How the steps of one part are run, from the second one on: ``run(first, count)``. ``program`` is None where they
    are replayed from Python."""

    run: Callable[[int, int], None]
    governor: ThreadGovernor | None
    program: Program | None


class Player(Captured):
    """Each part is noted as a tape while its first step runs.

    ``trace(step)`` runs a step and gives its tape, ``governor(tape)`` what chooses the number of threads for it (None:
    fixed), ``play`` the player of the C library (None: there is none).
    """

    def __init__(
        self,
        parts: Sequence[Steps],
        trace: Callable[[Callable[[], None]], Tape],
        governor: Callable[[Tape], ThreadGovernor | None],
        play: Callable[[int], None] | None,
    ) -> None:
        super().__init__(parts)
        self._trace, self._governor, self._play = trace, governor, play
        self._replays: list[_Replay | None] = [None] * len(parts)

    def pace(self, steps: int, seconds: float) -> None:
        # At most twice as many as before: the first ones are slow, or quick, by chance.
        self.at_once = max(1, min(2 * steps, int(AT_ONCE_S * steps / seconds)))

    def run_part(self, part: int, first: int, stop: int) -> None:
        replay = self._replays[part]
        if replay is None:
            replay = self._replays[part] = self._capture(self.parts[part], first)
            first += 1
        if first < stop:
            work = partial(replay.run, first, stop - first)
            if replay.governor is None:
                work()
            else:
                replay.governor.run(work, stop - first)

    def run_on(self, part: int, rows: Array) -> None:
        """Where they lie, if there are many of them: a few are copied sooner than their address is found."""
        replay = self._replays[part]
        if rows.nbytes < COPIED or replay is None or replay.program is None or not replay.program.read_from(rows):
            super().run_on(part, rows)
        else:
            self.run_part(part, 0, 1)
            replay.program.read_from_source()

    def _capture(self, steps: Steps, index: int) -> _Replay:
        """Run step ``index`` and note its calls."""
        tape: Tape = []
        _ByCall(np, [Steps(lambda: tape.extend(self._trace(steps.step)), steps.count, steps.moves)]).run(
            index, index + 1
        )
        return self._replay(tape, steps)

    def _replay(self, tape: Tape, steps: Steps) -> _Replay:
        """The quickest way to run a tape here."""
        if self._play is not None:
            try:
                program = Program(tape, self._play, steps.moves, steps.source, steps.scratch)
                return _Replay(program.run, self._governor(tape), program)
            except Unplayable:  # a call that the player does not know
                pass

        def replay() -> None:
            for call in tape:
                call()

        by_call = _ByCall(np, [Steps(replay, steps.count, steps.moves)])
        return _Replay(lambda first, count: by_call.run(first, first + count), self._governor(tape), None)
