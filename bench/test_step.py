"""One training step as ``train`` runs it: gather, targets, forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest

from bench.conftest import Annotate
from bench.peers import step_flops
from bench.timing import OPTIONS, roofline, step_shapes, synchronized_time
from twostroke import MLP, TrainConfig, load_dataset
from twostroke.backend import Backend
from twostroke.engine.batches import epoch_order
from twostroke.engine.epoch import Epoch
from twostroke.engine.evaluation import upload
from twostroke.engine.step import TrainingStep
from twostroke.engine.training import make_optimizer

pytestmark = pytest.mark.benchmark(timer=synchronized_time, **OPTIONS)
NETS = {"784-30-10": (784, 30, 10), "784-128-10": (784, 128, 10), "784-512-512-10": (784, 512, 512, 10)}


@pytest.mark.parametrize("n", [1, 16, 128, 1024])
@pytest.mark.parametrize("net", NETS)
def test_step(benchmark: Any, annotate: Annotate, active_backend: Backend, net: str, n: int) -> None:
    benchmark.group = f"step {net} batch {n}"
    layers = NETS[net]
    benchmark(one_step(active_backend, layers, n, "sgd"))
    annotate(n, step_flops(layers, n), lambda: roofline(active_backend, step_shapes(layers, n)))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_optimizer(benchmark: Any, annotate: Annotate, active_backend: Backend, optimizer: str) -> None:
    benchmark.group = "step 784-128-10 batch 128 by optimizer"
    benchmark(one_step(active_backend, (784, 128, 10), 128, optimizer))
    annotate(128, step_flops((784, 128, 10), 128))


def one_step(backend: Backend, layers: tuple[int, ...], n: int, optimizer: str) -> Callable[[], None]:
    """The step as ``train`` does it on MNIST, gather included, batch after batch in the epoch's order."""
    data = load_dataset("mnist")
    net = MLP(layers, backend=backend)
    device_data = upload(backend, data.train_images, data.train_labels, net)
    rule, total = make_optimizer(net, TrainConfig(optimizer=optimizer)), len(data.train_images)
    bounds = [(start, start + n) for start in range(0, total - n + 1, n)]
    epoch = Epoch(TrainingStep(net, *device_data, rule, n), bounds)
    epoch.begin(epoch_order(total, 0, 0)[: bounds[-1][1]], [rule.numbers(1e-4, 1, rule.l2)] * len(bounds))
    batches = cycle(range(len(bounds)))

    def run() -> None:
        batch = next(batches)
        epoch.run(batch, batch + 1)

    return run
