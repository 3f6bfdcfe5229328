"""What the three PyTorch peers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """PyTorch's intra-op threads (OpenMP, MKL and oneDNN take their number from it)."""
    torch.set_num_threads(threads)
    yield
