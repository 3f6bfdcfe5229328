"""How many BLAS threads pay right now: found by timing the steps themselves.

On a quiet machine more threads are faster. With busy neighbours they collapse: BLAS threads wait for each other
in a spin, and one that lost its core stops all of them, ten times slower than a single thread would have been.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

WINDOW_S: Final = 4e-3  # a trial lasts this long, and at least MIN_STEPS
MIN_STEPS: Final = 3
FIRST_HOLD_S, LONGEST_HOLD_S = 0.05, 1.6  # how long a choice is kept; doubles while it is confirmed
SLOWER: Final = 1.5  # a window this much slower than the choice's last trial calls for a new trial at once


class ThreadGovernor:
    """Runs one kind of step again and again, each time with the number of threads that pays.

    ``set_threads`` applies a count; ``seconds`` (shared by all governors of a backend) sums up the time each
    count was in use. The counts are tried one window each, the fastest is kept for a while, then tried again.
    """

    def __init__(self, counts: list[int], set_threads: Callable[[int], None], seconds: dict[int, float]) -> None:
        self._counts = counts
        self._set_threads = set_threads
        self._seconds = seconds
        self._hold_s = FIRST_HOLD_S
        self._choice = counts[-1]
        self._step_s = 0.0  # of the choice, at its last trial
        self._held_s = 0.0
        self._trials: dict[int, float] = {}
        self._begin(counts[-1])

    def _begin(self, count: int) -> None:
        self._count, self._spent, self._steps = count, 0.0, 0
        self._applied = False

    def run(self, step: Callable[[], Any]) -> None:
        """Run ``step`` once and learn from how long it took."""
        if not self._applied:
            self._set_threads(self._count)
            self._applied = True
        started = time.perf_counter()
        step()
        spent = time.perf_counter() - started
        self._seconds[self._count] = self._seconds.get(self._count, 0.0) + spent
        self._spent += spent
        self._steps += 1
        if self._spent >= WINDOW_S and self._steps >= MIN_STEPS:
            self._end_window(self._spent / self._steps)

    def resume(self) -> None:
        """Apply the count again at the next step: something else may have changed it."""
        self._applied = False

    def _end_window(self, step_s: float) -> None:
        holding = not self._trials and self._step_s > 0.0
        if holding:
            self._held_s += self._spent
            if self._held_s < self._hold_s and step_s < SLOWER * self._step_s:
                self._spent, self._steps = 0.0, 0
                return
            if step_s >= SLOWER * self._step_s:
                self._hold_s = FIRST_HOLD_S
        self._trials[self._count] = step_s
        untried = [count for count in self._counts if count not in self._trials]
        if untried:
            self._begin(untried[-1])
            return
        best = min(self._trials, key=self._trials.__getitem__)
        self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S) if best == self._choice else FIRST_HOLD_S
        self._choice, self._step_s, self._held_s = best, self._trials[best], 0.0
        self._trials = {}
        self._begin(best)
