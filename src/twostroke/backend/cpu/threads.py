"""Chooses the number of threads by timing the steps themselves.

On a quiet machine more threads are faster. On a busy one, or where cores share no cache, one thread may be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

WINDOW_S: Final = 4e-3  # a window lasts this long, and at least MIN_STEPS
MIN_STEPS: Final = 3
LOST: Final = 3.0  # a trial ends early when its count is this much slower than another
SLOWER: Final = 1.5  # a window this much slower than the choice's last trial starts new trials
FIRST_HOLD_S, LONGEST_HOLD_S = 0.05, 1.6  # how long a choice is kept; doubles while it is confirmed
TRIAL_SHARE: Final = 0.05  # the part of all time that trials of slower counts may cost


class ThreadGovernor:
    """Runs steps of one kind with the fastest number of threads.

    ``set_threads`` applies a count; it is called before all work, as other governors set theirs in between.
    ``seconds``, shared by all governors of a backend, is the time that each count was in use. Each count is tried for
    one window, the fastest is kept for a while, then all are tried again.
    """

    def __init__(self, counts: list[int], set_threads: Callable[[int], None], seconds: dict[int, float]) -> None:
        self._counts = counts
        self._set_threads = set_threads
        self._seconds = seconds
        self._choice = counts[-1]
        self._choice_s = 0.0  # seconds per step of the choice, at its last trial
        self._hold_s, self._held_s = FIRST_HOLD_S, 0.0
        self._total_s = self._lost_s = 0.0
        self._trials: dict[int, tuple[float, int]] = {}  # count -> seconds per step, steps
        self._trying = True
        self._begin(self._choice)

    def _begin(self, count: int) -> None:
        self._count, self._spent, self._steps = count, 0.0, 0

    def run(self, work: Callable[[], Any], steps: int = 1) -> None:
        """Run ``work``, which does ``steps`` steps, and note its time."""
        self._set_threads(self._count)
        started = time.perf_counter()
        work()
        spent = time.perf_counter() - started
        self._seconds[self._count] = self._seconds.get(self._count, 0.0) + spent
        self._total_s += spent
        self._spent += spent
        self._steps += steps
        if self._spent >= WINDOW_S and (self._steps >= MIN_STEPS or self._has_lost()):
            self._end_window()

    def _has_lost(self) -> bool:
        """Whether the count on trial is already far slower than one tried before."""
        best = min((step_s for step_s, _ in self._trials.values()), default=math.inf)
        return self._spent > LOST * self._steps * best

    def _end_window(self) -> None:
        step_s = self._spent / self._steps
        if not self._trying:
            self._held_s += self._spent
            due = self._held_s >= self._hold_s or step_s > SLOWER * self._choice_s
            if not due or self._lost_s > TRIAL_SHARE * self._total_s:
                self._spent, self._steps = 0.0, 0
                return
            self._trying = True  # this window is the choice's own trial
        self._trials[self._count] = (step_s, self._steps)
        untried = [count for count in self._counts if count not in self._trials]
        if untried:
            self._begin(untried[-1])
            return
        best = min(self._trials, key=self._trials.__getitem__)
        best_s = self._trials[best][0]
        self._lost_s += sum((step_s - best_s) * steps for step_s, steps in self._trials.values())
        self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S) if best == self._choice else FIRST_HOLD_S
        self._choice, self._choice_s, self._held_s = best, best_s, 0.0
        self._trials, self._trying = {}, False
        self._begin(best)
