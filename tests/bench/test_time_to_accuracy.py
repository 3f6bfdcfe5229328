"""``bench/time_to_accuracy.py``: seeds that reuse the first one's arrays and graphs, statistics, arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import time_to_accuracy
from bench.gpu import right
from twostroke import Dataset, TrainConfig
from twostroke.backend import Backend
from twostroke.runs.presets import PRESETS


def test_a_run_that_is_put_back_ends_as_a_new_one(backend: Backend, data: Dataset) -> None:
    config = TrainConfig(
        epochs=2, batch_size=4, optimizer="momentum", lr=0.1, schedule="one-cycle", evaluate_test=False
    )
    again = time_to_accuracy.Again(data, backend, [5], config)
    for seed in (0, 3, 0):
        found = again.run_once(config.replace(seed=seed))
        expected = time_to_accuracy.run_once(data, backend, [5], config.replace(seed=seed))
        assert found["steps"] == expected["steps"] == 6
        after, new = (backend.to_host(run["net"].parameters) for run in (found, expected))
        assert np.array_equal(after, new), seed
        assert found["resident_seconds"] > 0


def test_a_second_seed_captures_nothing(cuda: Backend, data: Dataset) -> None:
    config = TrainConfig(epochs=2, batch_size=4, optimizer="momentum", evaluate_test=False)
    backend = right.make_backend("epoch")
    again = time_to_accuracy.Again(data, backend, [5], config)
    again.run_once(config)
    before = backend.describe()["graphs"]
    assert before["capture_seconds"] == time_to_accuracy.capture_seconds(backend) > 0
    again.run_once(config.replace(seed=1))
    assert backend.describe()["graphs"] == before | {"launches": before["launches"] + config.epochs}
    time_to_accuracy.run_once(data, backend, [5], config)
    assert time_to_accuracy.capture_seconds(backend) > before["capture_seconds"]


# --- arithmetic and arguments ------------------------------------------------------------------------------------


def test_the_summary_of_accuracies() -> None:
    found = time_to_accuracy.accuracy_summary([0.979, 0.981, 0.982, 0.982], 0.98)
    assert found["mean"] == pytest.approx(0.981)
    assert found["standard_deviation"] == pytest.approx(math.sqrt(2) * 1e-3)
    assert (found["worst"], found["best"], found["fraction_at_target"]) == (0.979, 0.982, 0.75)
    # t = 0.001 / (sqrt(2) * 0.001 / 2) = sqrt(2) with 3 degrees of freedom
    assert found["p_one_sided"] == pytest.approx(0.12610, abs=1e-5)
    assert time_to_accuracy.accuracy_summary([0.97, 0.971], 0.98)["p_one_sided"] > 0.9


def test_a_sample_without_spread_has_no_p() -> None:
    assert time_to_accuracy.accuracy_summary([0.98], 0.98)["p_one_sided"] is None
    assert time_to_accuracy.accuracy_summary([0.99, 0.99], 0.98)["p_one_sided"] is None


def test_clocks() -> None:
    assert time_to_accuracy.clock_summary([3.0, 1.0, 2.0]) == {"runs": 3, "median": 2.0, "best": 1.0, "worst": 3.0}
    assert time_to_accuracy.clock_summary([]) is None


def test_the_recipe_is_the_fast_preset_unless_changed() -> None:
    fast = PRESETS["fast"]
    hidden, config = time_to_accuracy.recipe(time_to_accuracy.parse([]))
    assert (hidden, config) == (fast.hidden, fast.config.replace(evaluate_test=False))
    hidden, config = time_to_accuracy.recipe(
        time_to_accuracy.parse(["--hidden", "30,20", "--epochs", "1", "--lr", "0.1"])
    )
    assert (hidden, config.epochs, config.lr, config.batch_size) == ((30, 20), 1, 0.1, fast.config.batch_size)


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--hidden", "wide"], ["--threads", "some"], ["--cold", "-1"]])
def test_bad_arguments_of_the_script(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        time_to_accuracy.parse(words)
    assert words[0] in capsys.readouterr().err
