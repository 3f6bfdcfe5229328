"""One epoch of MNIST, 60,000 samples: all steps, loss and accuracy on the device, one synchronisation."""

from __future__ import annotations

from typing import Any

import pytest

from bench.conftest import Annotate
from bench.peers import step_flops
from bench.timing import roofline, step_shapes, synchronized_time
from twostroke import MLP, TrainConfig, load_dataset
from twostroke.backend import Backend
from twostroke.engine.batches import batch_bounds, epoch_order
from twostroke.engine.epoch import Epoch
from twostroke.engine.evaluation import upload
from twostroke.engine.metrics import Running
from twostroke.engine.step import TrainingStep
from twostroke.engine.training import make_optimizer

pytestmark = pytest.mark.benchmark(timer=synchronized_time, disable_gc=True)
LAYERS = (784, 128, 10)


@pytest.mark.parametrize("batch_size", [128, 1024])
def test_epoch(benchmark: Any, annotate: Annotate, active_backend: Backend, batch_size: int) -> None:
    benchmark.group = f"epoch of MNIST 784-128-10 batch {batch_size}"
    data = load_dataset("mnist")
    n = len(data.train_images)
    net = MLP(LAYERS, backend=active_backend)
    images, labels = upload(active_backend, data.train_images, data.train_labels, net)
    running = Running(active_backend, n, net.dtype)
    rule, bounds = make_optimizer(net, TrainConfig()), list(batch_bounds(n, batch_size))
    epoch = Epoch(TrainingStep(net, images, labels, rule, batch_size, running), bounds)
    numbers, seeds = [rule.numbers(0.01, 1, rule.l2)] * len(bounds), iter(range(1 << 30))

    def one() -> float:
        epoch.begin(epoch_order(n, 0, next(seeds)), numbers)
        epoch.run(0, len(bounds))
        return running.result(labels[epoch.order]).loss

    loss = benchmark.pedantic(one, rounds=5, warmup_rounds=1)
    assert loss < 2.0
    annotate(n, n * step_flops(LAYERS, 1), lambda: roofline(active_backend, step_shapes(LAYERS, batch_size)))
