"""Exact resume: a run that is saved and resumed must equal an uninterrupted run, byte for byte."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Backend
from ..data.dataset import load_dataset
from ..engine.config import TrainConfig
from ..engine.mlp import MLP
from ..engine.optimizers import OPTIMIZERS
from ..engine.training import TrainingRun
from ..models.checkpoint import restore, save_checkpoint
from .checks import Check, Report

# --- exact resume ----------------------------------------------------------------------------------------


def verify_resume(backend: Backend) -> Report:
    """Compare runs that are stopped, saved and resumed with an uninterrupted run, byte for byte."""
    data = load_dataset("mnist")
    data = replace(data, train_images=data.train_images[:320], train_labels=data.train_labels[:320])
    data = replace(data, test_images=data.test_images[:100], test_labels=data.test_labels[:100])
    checks, per_epoch = [], 5
    optimizer: Any
    for optimizer in OPTIMIZERS:
        config = TrainConfig(epochs=3, batch_size=64, optimizer=optimizer, l2=1e-4, evaluate_test=True)

        def new_run(config: TrainConfig = config) -> TrainingRun:
            return TrainingRun(MLP([data.n_features, 32, 16, data.n_classes]), data, config, backend)

        unbroken = finish(new_run())
        for moment, steps in (("in the middle of an epoch", per_epoch + 2), ("at an epoch's end", per_epoch)):
            with tempfile.TemporaryDirectory(prefix="twostroke-verify-") as folder:
                path = Path(folder) / "checkpoint.safetensors"
                first = new_run()
                while first.steps < steps:
                    first.advance(steps - first.steps)
                save_checkpoint(first, data, path)
                second = new_run()
                restore(second, data, path)
                resumed = finish(second)
            for name, expected in unbroken.items():
                found = resumed[name]
                different = sum(a != b for a, b in zip(found, expected, strict=True)) if found != expected else 0
                checks.append(Check(f"{optimizer:8}  {moment}, after step {steps}", name, different, 0.0))
    threads = "" if backend.threads is None else f", {backend.threads} thread{'s' if backend.threads != 1 else ''}"
    return Report(
        "resume",
        backend,
        "bytes that differ",
        [
            f"stopped, saved, continued in a new run against unbroken: {', '.join(OPTIMIZERS)} on"
            f" {backend.device}{threads}; {3 * per_epoch} steps, momenta and losses too",
        ],
        checks,
    )


def finish(run: TrainingRun) -> dict[str, bytes]:
    """Train to the end. Returns the bytes of all arrays of the state and of the history, by name."""
    while not run.done:
        run.advance()
    host = run.net.backend.to_host
    found = {name: np.ascontiguousarray(host(array)).tobytes() for name, array in run.state.items()}
    losses = [(e.train_loss, e.train_accuracy, e.test_loss, e.test_accuracy) for e in run.history]
    return found | {"history": np.array(losses, dtype=np.float64).tobytes()}
