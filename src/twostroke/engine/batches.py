"""The order of the samples in each epoch, and the bounds of the batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..randomness import generator


def epoch_order(n: int, seed: int, epoch: int) -> Any:
    """A permutation of 0..n-1, (n,) int64 on the host. Depends only on (seed, epoch)."""
    return generator(seed, "order", epoch).permutation(n)


def dropout_keys(n: int, seed: int, epoch: int) -> Any:
    """A random number per sample, (n,) uint32 on the host: the key of its dropout masks in this epoch."""
    return generator(seed, "dropout", epoch).integers(0, 2**32, n, "uint32")


def batch_bounds(n: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each batch; the last may be smaller."""
    for start in range(0, n, batch_size):
        yield start, min(start + batch_size, n)
