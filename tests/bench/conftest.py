"""A small data set."""

from __future__ import annotations

import numpy as np
import pytest

from twostroke import Dataset


@pytest.fixture
def data() -> Dataset:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (11, 6), dtype=np.uint8), np.arange(11, dtype=np.uint8) % 3
    return Dataset.from_arrays(images, labels, images, labels)
