"""All randomness: drawn on the host from PCG64 keyed by (seed, purpose, epoch), then sent to the device.

Both devices so see the same weights and the same batches, and a resumed run needs only its position.
"""

from __future__ import annotations

from typing import Final

import numpy as np

# The key of each purpose is part of the reproducibility contract: append, never renumber.
PURPOSES: Final = {"weights": 0, "order": 1, "split": 2, "check": 3, "dropout": 4}


def generator(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """The generator for one purpose of one epoch of a run."""
    return np.random.Generator(np.random.PCG64([seed, PURPOSES[purpose], epoch]))
