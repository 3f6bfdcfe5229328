"""Learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from ..errors import ConfigError

# progress 0..1 of the run -> factor of the learning rate
Schedule = Callable[[float], float]


def make_schedule(name: str, warmup: float = 0.2) -> Schedule:
    """The factor of the learning rate as a function of progress (steps done / all steps, 0 <= progress < 1).

    "constant": 1; "one-cycle": see ``one_cycle``; "step": times 0.1 after each third of the run;
    "cosine": (1 + cos(pi progress)) / 2.
    """
    if name not in SCHEDULES:
        raise ConfigError("unknown schedule", where="schedule", found=repr(name), expected=" or ".join(SCHEDULES))
    if name == "one-cycle":
        return lambda progress: one_cycle(progress, warmup)
    return SCHEDULES[name]


def one_cycle(progress: float, warmup: float = 0.2) -> float:
    """Rises linearly from 0 to 1 at ``warmup``, then falls linearly to 0 at the end (Smith & Topin 2018)."""
    if progress < warmup:
        return progress / warmup
    return (1.0 - progress) / (1.0 - warmup)


SCHEDULES: Final[dict[str, Schedule]] = {
    "constant": lambda progress: 1.0,
    "one-cycle": one_cycle,
    "step": lambda progress: 0.1 ** int(3.0 * progress),
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
