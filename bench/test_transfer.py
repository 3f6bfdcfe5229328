"""From the host to the device and from the training set to a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.conftest import Annotate
from bench.timing import OPTIONS, synchronized_time
from twostroke import load_dataset
from twostroke.backend import Backend
from twostroke.engine.batches import epoch_order
from twostroke.engine.workspace import Workspace

pytestmark = pytest.mark.benchmark(timer=synchronized_time, **OPTIONS)


@pytest.mark.parametrize("n", [128, 60_000])
def test_upload(benchmark: Any, annotate: Annotate, active_backend: Backend, n: int) -> None:
    """uint8 images up. On a CPU nothing is copied, and the figure is that of a call."""
    benchmark.group = f"upload {n} images"
    images = np.ascontiguousarray(load_dataset("mnist").train_images[:n])
    benchmark(active_backend.asarray, images)
    annotate(n)
    benchmark.extra_info["bytes"] = images.nbytes


def test_download(benchmark: Any, annotate: Annotate, active_backend: Backend) -> None:
    """10,000 rows of probabilities down. On a CPU nothing is copied."""
    benchmark.group = "download 10000x10 float32"
    outputs = active_backend.xp.ones((10_000, 10), "float32")
    assert benchmark(active_backend.to_host, outputs).shape == (10_000, 10)
    annotate(10_000)
    benchmark.extra_info["bytes"] = outputs.nbytes


@pytest.mark.parametrize("n", [128, 1024])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_gather(benchmark: Any, annotate: Annotate, active_backend: Backend, dtype: str, n: int) -> None:
    """A shuffled batch out of the resident training set; uint8 pixels are scaled to 0..1 on the way."""
    benchmark.group = f"gather {n} of 60000 images"
    images = load_dataset("mnist").train_images
    source = active_backend.asarray(images, dtype)
    workspace = Workspace(active_backend, (784, 10), "float32", n)
    buffers = workspace.rows(n)
    active_backend.xp.copyto(buffers.indices, active_backend.asarray(epoch_order(len(images), 0, 0)[:n]))
    benchmark(workspace.gather_inputs, source, buffers)
    annotate(n)
