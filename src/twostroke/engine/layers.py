"""The parameters of a network as one flat array, and each layer's views of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ..backend import Array


class Layer(NamedTuple):
    """One layer's views into a flat buffer: W (fan_in, fan_out), b (1, fan_out)."""

    W: Array
    b: Array


def layer_views(flat: Array, layers: Sequence[int]) -> list[Layer]:
    """Views of each layer into a flat buffer W_1, b_1, W_2, b_2, ..., each in C order."""
    views, start = [], 0
    for fan_in, fan_out in pairwise(layers):
        middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        views.append(Layer(flat[start:middle].reshape(fan_in, fan_out), flat[middle:end].reshape(1, fan_out)))
        start = end
    return views


def parameter_count(layers: Sequence[int]) -> int:
    """The number of weights and biases of a network with these layer widths."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(layers))
