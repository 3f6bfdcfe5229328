"""Matrix products in float32 by our own library (``products.c``): quicker than BLAS at the shapes of small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Products:
    """``product(alpha, a, b, beta, c)``: c <- alpha a b + beta c, 2-D arrays of any strides, where it ``knows`` c."""

    def __init__(self, multiply: Callable[[int], None] | None) -> None:
        self._multiply = multiply

    def knows(self, c: Any) -> bool:
        """Whether ``product`` can compute ``c``."""
        return self._multiply is not None and c.dtype == np.float32

    def product(self, alpha: Any, a: Any, b: Any, beta: Any, c: Any) -> None:
        """Compute it now."""
        assert self._multiply is not None
        numbers = np.array([alpha, beta], np.float32)
        words = np.array(product_words(a, b, c, numbers.ctypes.data, numbers.ctypes.data + 4), np.int64)
        self._multiply(words.ctypes.data)


def product_words(a: Any, b: Any, c: Any, alpha: int, beta: int) -> list[int]:
    """The arguments of ``twostroke_product``; alpha and beta are addresses."""
    words = []
    for x in (a, b, c):
        by_row, by_column = (stride // x.itemsize for stride in x.strides)
        # An axis of one element has any stride: the one that lets the other be contiguous is the useful one.
        words += [x.ctypes.data, by_row if len(x) > 1 else x.shape[1], by_column if x.shape[1] > 1 else 1]
    return [*words, *c.shape, b.shape[0], alpha, beta]
