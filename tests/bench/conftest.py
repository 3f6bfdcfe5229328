"""A small data set, and a GPU that captures: a fake CuPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.fake_graphs import FakeGraphs, plant_fake_graphs
from twostroke import Dataset


@pytest.fixture
def data() -> Dataset:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (11, 6), dtype=np.uint8), np.arange(11, dtype=np.uint8) % 3
    return Dataset.from_arrays(images, labels, images, labels)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """A GPU that captures; the environment asks for it, as a user's may."""
    fake, graphs = plant_fake_graphs(monkeypatch)
    monkeypatch.setenv("TWOSTROKE_CAPTURE", "auto")
    fake.cuda.MemoryHook = MemoryHook
    MemoryHook.asked = 0
    return graphs


class MemoryHook:
    """CuPy's, of a pool that is asked ``asked`` times in each block."""

    asked = 0

    def __enter__(self) -> MemoryHook:
        for _ in range(self.asked):
            self.malloc_preprocess(size=1)  # type: ignore[attr-defined]
        return self

    def __exit__(self, *_: object) -> None:
        pass
