"""The recipes: complete, buildable, and the tutorial's one goes downhill."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import twostroke as ts
from twostroke.engine.config import TrainConfig
from twostroke.runs.presets import PRESETS, Preset


def network(preset: Preset, n_in: int, n_out: int, seed: int = 0) -> ts.MLP:
    return ts.MLP([n_in, *preset.hidden, n_out], seed=seed, **preset.network)


def test_names_and_fields() -> None:
    assert set(PRESETS) == {"fast", "general", "nielsen", "seed"}
    names = [field.name for field in dataclasses.fields(Preset)]
    assert names == ["purpose", "hidden", "config", "network", "least_batches", "least_steps"]
    assert len({preset.purpose for preset in PRESETS.values()}) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["fast"].hidden = (1,)  # type: ignore[misc]


# activation, output, loss, initial weights
NETWORKS = {
    "fast": ("relu", "softmax", "cross-entropy", "he"),
    "general": ("relu", "softmax", "cross-entropy", "he"),
    "nielsen": ("sigmoid", "sigmoid", "quadratic", "normal"),
    "seed": ("sigmoid", "sigmoid", "quadratic", "normal"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_network_and_a_configuration(name: str) -> None:
    preset = PRESETS[name]
    net = network(preset, 784, 10)
    assert net.layers == (784, *preset.hidden, 10)
    assert (net.activation, net.output, net.loss, net.init) == NETWORKS[name]
    assert isinstance(preset.config, TrainConfig)
    assert preset.config.lr is not None, "a recipe does not lean on the optimiser's default"


def test_fast_is_the_measured_recipe() -> None:
    preset = PRESETS["fast"]
    assert preset.hidden == (160,)
    config = preset.config
    assert (config.epochs, config.batch_size, config.lr, config.optimizer) == (4, 192, 0.5, "momentum")
    assert (config.schedule, config.warmup, config.momentum, config.l2) == ("one-cycle", 0.2, 0.85, 0.0)


def test_general_is_the_measured_recipe() -> None:
    """Its figures in docs/benchmarks.md are of these settings."""
    preset = PRESETS["general"]
    assert (preset.hidden, preset.least_batches, preset.least_steps) == ((256, 128), 8, 1500)
    config = preset.config
    assert (config.epochs, config.batch_size, config.lr, config.optimizer) == (20, 128, 2e-3, "adamw")
    assert (config.schedule, config.warmup, config.dropout, config.l2) == ("one-cycle", 0.2, 0.2, 0.1)
    found = json.loads((Path(__file__).parents[2] / "bench" / "results" / "presets" / "test.json").read_text())
    expected = repr(preset)
    for newer in ("class_weight=None, ", "keep='last', "):  # settings that were not there when it was measured
        expected = expected.replace(newer, "")
    assert found["presets"]["general"] == expected


def test_nielsen_is_the_book_s_recipe() -> None:
    assert PRESETS["nielsen"].hidden == (30,)
    config = PRESETS["nielsen"].config
    assert (config.epochs, config.batch_size, config.lr, config.optimizer) == (30, 10, 3.0, "sgd")
    assert (config.schedule, config.l2) == ("constant", 0.0)


def test_seed_is_the_tutorial_s_full_batch() -> None:
    config = PRESETS["seed"].config
    assert (config.batch_size, config.optimizer, config.schedule) == ("full", "sgd", "constant")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_preset_goes_downhill_at_every_step(seed: int) -> None:
    data = ts.load_dataset("mnist")
    part = dataclasses.replace(
        data,
        train_images=data.train_images[:2000],
        train_labels=data.train_labels[:2000],
        test_images=data.test_images[:500],
        test_labels=data.test_labels[:500],
    )
    preset = PRESETS["seed"]
    records = list(ts.train(network(preset, 784, 10, seed), part, preset.config))
    losses = [record.train_loss for record in records]
    assert len(losses) == preset.config.epochs
    assert [record.steps for record in records] == list(range(1, len(losses) + 1))  # one step an epoch
    assert all(after < before for before, after in pairwise(losses))
    assert losses[-1] < 0.6 * losses[0]


def test_the_fast_preset_learns_at_once() -> None:
    data = ts.load_dataset("mnist")
    part = dataclasses.replace(data, train_images=data.train_images[:12000], train_labels=data.train_labels[:12000])
    preset = PRESETS["fast"]
    records = list(ts.train(network(preset, 784, 10), part, preset.config.replace(epochs=2)))
    accuracy = records[-1].test_accuracy
    assert accuracy is not None
    assert accuracy > 0.93
    assert np.isfinite(records[-1].train_loss)
