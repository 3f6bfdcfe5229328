"""``predict_proba``: host images in, host probabilities out, copies included."""

from __future__ import annotations

from typing import Any

import pytest

from bench.conftest import Annotate
from bench.timing import OPTIONS, flops, forward_shapes, roofline, synchronized_time
from twostroke import MLP, load_dataset
from twostroke.backend import Backend

pytestmark = pytest.mark.benchmark(timer=synchronized_time, **OPTIONS)
NETS = {"784-128-10": (784, 128, 10), "784-512-512-10": (784, 512, 512, 10)}


@pytest.mark.parametrize("n", [1, 128, 10_000])
@pytest.mark.parametrize("net", NETS)
def test_inference(benchmark: Any, annotate: Annotate, active_backend: Backend, net: str, n: int) -> None:
    benchmark.group = f"inference {net} {n} images"
    images = load_dataset("mnist").test_images[:n]
    model = MLP(NETS[net], backend=active_backend)
    assert benchmark(model.predict_proba, images).shape == (n, 10)
    shapes = forward_shapes(NETS[net], min(n, 2048))  # the rows of one pass
    annotate(n, flops(forward_shapes(NETS[net], n)), lambda: roofline(active_backend, shapes))
