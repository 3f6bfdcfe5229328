"""Initial weights: drawn on the host in float64 from a seeded generator, so all devices start from the same bits.

Each initialiser maps ``(rng, fan_in, fan_out)`` to an array of shape (fan_in, fan_out).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..randomness import generator

Initializer: TypeAlias = Callable[[np.random.Generator, int, int], NDArray[np.float64]]


def he_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> NDArray[np.float64]:
    """N(0, 2 / fan_in), for ReLU. He et al. 2015, arXiv:1502.01852, equation 10."""
    return rng.standard_normal((fan_in, fan_out)) * sqrt(2.0 / fan_in)


def glorot_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> NDArray[np.float64]:
    """U(-r, r), r = sqrt(6 / (fan_in + fan_out)), for tanh and sigmoid. Glorot & Bengio 2010, equation 16."""
    limit = sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, (fan_in, fan_out))


def standard_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> NDArray[np.float64]:
    """N(0, 1): weights and biases of the tutorial's demo and of Nielsen's first chapter."""
    return rng.standard_normal((fan_in, fan_out))


def scaled_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> NDArray[np.float64]:
    """N(0, 1 / fan_in): Nielsen, chapter 3 ("normal / sqrt(n)"); LeCun et al. 1998."""
    return rng.standard_normal((fan_in, fan_out)) / sqrt(fan_in)


INITIALIZERS: Final[dict[str, Initializer]] = {
    "he": he_normal,
    "glorot": glorot_uniform,
    "normal": standard_normal,
    "scaled-normal": scaled_normal,
}
# With these, biases are drawn from N(0, 1) as in Nielsen's book; with the others they start at zero.
NORMAL_BIASES: Final = frozenset({"normal", "scaled-normal"})


def initial_parameters(layers: Sequence[int], init: str, seed: int) -> NDArray[np.float64]:
    """The flat host array W_1, b_1, W_2, b_2, ... of a network with these layer widths."""
    rng = generator(seed, "weights")
    parts = []
    for fan_in, fan_out in pairwise(layers):
        parts.append(INITIALIZERS[init](rng, fan_in, fan_out).ravel())
        parts.append(rng.standard_normal(fan_out) if init in NORMAL_BIASES else np.zeros(fan_out))
    return np.concatenate(parts)
