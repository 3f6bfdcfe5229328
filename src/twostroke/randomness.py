"""All random numbers: drawn on the host with PCG64, keyed by (seed, purpose, epoch), then uploaded.

So both devices get the same weights and batches, and to resume a run its position is enough: there is no RNG state.
"""

from __future__ import annotations

from typing import Final

import numpy as np

# Changing a purpose's number changes every result: append, never renumber.
PURPOSES: Final = {"weights": 0, "order": 1, "split": 2, "check": 3, "dropout": 4, "hold-out": 5}


def generator(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """The random generator for one purpose in one epoch of a run."""
    return np.random.Generator(np.random.PCG64([seed, PURPOSES[purpose], epoch]))
