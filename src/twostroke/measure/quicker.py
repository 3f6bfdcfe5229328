"""Whether the CPU would be quicker for a run than the GPU that ``--device auto`` took: a short measurement, a line."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from ..backend import Backend, select_backend
from ..data.dataset import Dataset
from ..engine.mlp import MLP, network_settings
from ..engine.training import TrainingRun
from ..errors import DeviceError
from .crossover import BASELINE
from .limits import step_flops

MOST_FLOPS: Final = 1e8  # of one step: from here on a CPU needs some 0.2 ms, and a GPU that works is ahead
MOST_STEPS, EPOCHS = 200, 2  # of a timed epoch of at most 1 GFLOP, the quicker of two, after one that captures
GAIN: Final = 1.1  # the least that is worth a line, and more than the noise


def advice(run: TrainingRun, data: Dataset, threads: int | str) -> str | None:
    """The line for a run on the device that was chosen for it; None if it is the CPU, or no slower than the CPU.

    Times steps like those of the run, on some of its data and a network of its own: the run stays as it is.
    """
    chosen, cpu = run.net.backend, select_backend(BASELINE, threads)
    flops = step_flops(run.net.layers, run.bounds[0][1])
    if cpu.device == chosen.device or flops > MOST_FLOPS:
        return None
    steps = min(MOST_STEPS, int(10 * MOST_FLOPS / flops))
    try:
        here, there = (_step_seconds(run, data, steps, backend) for backend in (chosen, cpu))
    except DeviceError:  # no memory for a second network; the run itself may have enough
        return None
    return compare(here, there, chosen.device)


def compare(seconds: float, cpu_seconds: float, device: str) -> str | None:
    """The line, if the CPU's step is clearly the shorter one."""
    if seconds < GAIN * cpu_seconds:
        return None
    here, there = (f"{1e6 * one:,.0f} us" for one in (seconds, cpu_seconds))
    return f"the CPU would be quicker here: {there} a step, {device} {here}; --device {BASELINE}"


def _step_seconds(run: TrainingRun, data: Dataset, steps: int, backend: Backend) -> float:
    """Seconds of a step on ``backend``; the learning rate is so small that nothing diverges."""
    batch_size = run.bounds[0][1]
    rows = slice(steps * batch_size)
    short = replace(data, train_images=data.train_images[rows], train_labels=data.train_labels[rows])
    weights = None if run.sample_weight is None else np.ones(len(short.train_labels))
    short = replace(short, sample_weight=weights)
    changes = {
        "class_weight": None,
        "lr": 1e-9,
        "epochs": 1 + EPOCHS,
        "val_size": 0,
        "patience": 0,
        "keep": "last",
        "evaluate_test": False,
    }
    config = run.config.replace(batch_size=batch_size, **changes)
    scalings = {name: getattr(run.net, name) for name in ("scaling", "target_scaling")}
    trial = TrainingRun(MLP(**network_settings(run.net), **scalings), short, config, backend)
    while not trial.done:
        trial.advance()
    return min(record.train_seconds for record in trial.history[1:]) / len(trial.bounds)
