"""The arithmetic of a benchmark: fits, crossovers, the verdict, the table and the picture."""

from __future__ import annotations

import json
import math
from importlib import util
from typing import Any

import numpy as np
import pytest

from twostroke.measure import crossover
from twostroke.measure.crossover import Fit, find_crossover, fit_line, summarise
from twostroke.provenance import to_json
from twostroke.show import chart

SIZES = [1, 4, 16, 64, 256, 1024]
NEEDS_MATPLOTLIB = pytest.mark.skipif(
    util.find_spec("matplotlib") is None, reason="matplotlib is not installed: pip install matplotlib"
)


def line(t0: float, rate: float) -> dict[int, float]:
    return {size: t0 + size / rate for size in SIZES}


def fit(curve: dict[int, float]) -> Fit:
    found = fit_line(list(curve), list(curve.values()))
    assert found is not None
    return found


def crossing(base: dict[int, float], other: dict[int, float]) -> crossover.Crossover:
    return find_crossover("cuda:0", base, other, fit(base), fit(other))


# --- fits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t0", "rate"), [(20e-6, 300e3), (180e-6, 30e6), (1e-3, 10.0), (0.0, 1e4)])
def test_a_fit_recovers_what_made_the_points(t0: float, rate: float) -> None:
    found = fit(line(t0, rate))
    assert found.t0 == pytest.approx(t0, rel=1e-6, abs=1e-12)
    assert found.rate == pytest.approx(rate, rel=1e-6)
    assert found.residual < 1e-6
    assert found.points == len(SIZES)


def test_a_fit_weighs_every_batch_size_alike(rng: np.random.Generator) -> None:
    """Noise of 5 % everywhere: t0 comes out although the largest step is 150 times longer than the smallest."""
    sizes = SIZES * 20
    seconds = [(20e-6 + size / 300e3) * noise for size, noise in zip(sizes, rng.normal(1, 0.05, 120), strict=True)]
    found = fit_line(sizes, seconds)
    assert found is not None
    assert found.t0 == pytest.approx(20e-6, rel=0.1)
    assert found.rate == pytest.approx(300e3, rel=0.05)
    assert 0.03 < found.residual < 0.07


@pytest.mark.parametrize("size", [1, 16, 1024])
def test_one_disturbed_point_does_not_move_a_fit_and_shows_in_its_residual(size: int) -> None:
    curve = line(20e-6, 300e3)
    curve[size] *= 5
    found = fit(curve)
    assert found.t0 == pytest.approx(20e-6, rel=0.35)
    assert found.rate == pytest.approx(300e3, rel=0.35)
    assert found.residual > 0.2


def test_a_fit_is_never_negative() -> None:
    steep = fit({1: 1e-6, 10: 100e-6, 100: 10_000e-6})  # a line through these starts below zero
    assert steep.t0 == 0.0
    assert steep.rate > 0
    falling = fit({1: 5e-6, 10: 4e-6, 100: 3e-6})
    assert falling.rate == math.inf
    assert falling.t0 == pytest.approx(4e-6, rel=0.1)


def test_two_points_are_met_exactly_and_one_has_no_fit() -> None:
    found = fit({1: 11e-6, 100: 110e-6})
    assert (found.t0, found.rate) == pytest.approx((10e-6, 1e6))
    assert found.residual < 1e-9
    assert fit_line([128], [1e-3]) is None


# --- crossovers ------------------------------------------------------------------------------------------


def test_the_crossover_lies_where_the_curves_meet() -> None:
    """20 us + B / 300,000 = 180 us + B / 30,000,000 at B = 160e-6 / (1/300e3 - 1/30e6) = 48.48."""
    found = crossing(line(20e-6, 300e3), line(180e-6, 30e6))
    assert found.fit_batch_size == pytest.approx(160e-6 / (1 / 300e3 - 1 / 30e6))
    assert found.batch_size == pytest.approx(48.5, rel=0.2)
    assert "cuda:0 wins from batch" in found.verdict
    assert "(between 16 and 64)" in found.verdict
    assert "the fits agree: from 48.5" in found.verdict


def test_a_crossing_on_logarithmic_axes_is_exact_for_power_laws() -> None:
    base = {size: 1e-6 * size for size in SIZES}
    found = find_crossover("cuda:0", base, dict.fromkeys(SIZES, 32e-6), None, None)
    assert found.batch_size == pytest.approx(32)
    assert "no fit" in found.verdict


def test_one_device_ahead_everywhere() -> None:
    slow, fast = line(100e-6, 1e5), line(10e-6, 1e7)
    found = crossing(slow, fast)
    assert (found.batch_size, found.fit_batch_size) == (None, 0.0)
    assert found.verdict == "cuda:0 wins everywhere measured (batch 1 to 1024); the fits agree: from batch 1"
    found = crossing(fast, slow)
    assert (found.batch_size, found.fit_batch_size) == (None, None)
    assert found.verdict == "the CPU wins everywhere measured (batch 1 to 1024); the fits agree: it never does"


def test_a_crossing_beyond_what_was_measured_is_the_fits_alone() -> None:
    found = crossing(line(20e-6, 300e3), line(20e-3, 30e6))
    assert found.batch_size is None
    assert found.fit_batch_size == pytest.approx(6054, rel=0.01)
    assert "the CPU wins everywhere measured" in found.verdict
    assert "the fits agree: from 6.05e+03" in found.verdict


def test_a_device_that_wins_at_small_batches_only() -> None:
    found = crossing(line(100e-6, 1e6), line(10e-6, 1e5))
    assert found.batch_size is None
    assert "no crossover: cuda:0 wins at batch 1, 4 but the CPU at the largest, 1024" in found.verdict


def test_curves_that_cross_again_and_again_are_called_so() -> None:
    base = dict.fromkeys(SIZES, 1e-3)
    other = dict(zip(SIZES, [2e-3, 5e-4, 2e-3, 5e-4, 2e-3, 5e-4], strict=True))
    found = crossing(base, other)
    assert found.batch_size == pytest.approx(512)
    assert "the curves cross 5 times" in found.verdict


def test_fits_that_tell_another_story_are_said_to_disagree() -> None:
    base, other = line(20e-6, 300e3), line(180e-6, 30e6)
    found = find_crossover("cuda:0", base, other, Fit(20e-6, 300e3, 0, 6), Fit(20e-3, 30e6, 0, 6))
    assert "the fits disagree" in found.verdict


# --- the result ------------------------------------------------------------------------------------------


def synthetic(curves: dict[str, dict[int, float]]) -> list[dict[str, Any]]:
    """Records as ``measure`` makes them."""
    return [
        {
            "layers": [784, 128, 10],
            "batch_size": size,
            "device": device,
            "samples_per_second": size / seconds,
            "gflops": 20.0,
            "roofline_gflops": 40.0,
            "roofline_fraction": 0.5,
            "roofline_suspect": False,
            "threads": 2 if device == "cpu" else None,
            "step_seconds": seconds,
            "step_seconds_quartiles": [0.9 * seconds, 1.2 * seconds],
            "blocks": 12,
            "steps_per_block": 100,
            "dtype": "float32",
            "backend": "numpy",
            "machine": {"processor": "A processor"} if device == "cpu" else {"gpu": "A GPU"},
        }
        for device, curve in curves.items()
        for size, seconds in curve.items()
    ]


CPU, GPU = line(20e-6, 300e3), line(180e-6, 30e6)
RESULTS = {
    "crossover": summarise(synthetic({"cpu": CPU, "cuda:0": GPU, "cuda:1": line(300e-6, 5e6)}), {}),
    "no GPU": summarise(synthetic({"cpu": CPU}), {"cuda": "CuPy is not installed"}),
    "no CPU": summarise(synthetic({"cuda:0": GPU}), {}),
    "one batch size": summarise(synthetic({"cpu": {128: 1e-3}, "cuda:0": {128: 1e-4}}), {}),
    "flat": summarise(synthetic({"cpu": {1: 3e-6, 2: 2e-6}}), {}),
}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("crossover", "cuda:0 wins from batch"),
        ("no GPU", "no GPU was measured: no crossover"),
        ("no CPU", "the CPU was not measured: no crossover"),
        ("one batch size", "cuda:0 wins everywhere measured (batch 128); one batch size has no fit to check with"),
        ("flat", "no GPU was measured"),
    ],
)
def test_the_verdict_is_in_words_and_the_result_is_strict_json(name: str, verdict: str) -> None:
    result = RESULTS[name]
    assert verdict in result["verdict"]
    parsed = json.loads(to_json(result), parse_constant=pytest.fail)
    assert parsed["records"] == result["records"]
    assert parsed["kind"] == "twostroke-bench"


@pytest.mark.parametrize(
    ("gpu", "layers", "said"),
    [
        (
            None,
            [784, 128, 10],
            "an H100 with a step of 15 us and a rate of 49,000,000 samples/s would pay from batch 1",
        ),
        (
            (300e-6, 5e6),
            [4, 2],
            "a GPU with a step of 300 us and a rate of 5,000,000 samples/s would pay from batch 90",
        ),
        ((0.0, 5e6), [4, 2], "a GPU with a step of 0 us and a rate of 5,000,000 samples/s would pay from batch 1"),
        ((1e-3, 2e5), [4, 2], "a GPU with a step of 1,000 us and a rate of 200,000 samples/s would never pay"),
        (None, [4, 2], None),
    ],
)
def test_a_gpu_that_is_not_here_is_supposed(
    gpu: tuple[float, float] | None, layers: list[int], said: str | None
) -> None:
    """On the line of a CPU's step of 20 us + B / 300,000 samples/s."""
    records = [record | {"layers": layers} for record in synthetic({"cpu": CPU})]
    verdict = "no GPU was measured: no crossover"
    assert summarise(records, {}, gpu)["verdict"] == (f"{verdict}; {said}" if said else verdict)
    assert summarise(records[:1], {}, gpu)["verdict"] == verdict  # one batch size has no fit
    with_gpu = summarise(synthetic({"cpu": CPU, "cuda:0": GPU}), {}, gpu)["verdict"]
    assert "would" not in with_gpu


def test_a_flat_line_is_passed_by_what_is_quicker_up_to_the_largest_batch() -> None:
    """Of two batches that take the same time: a CPU whose rate looks infinite."""
    flat = Fit(20e-6, math.inf, 0.0, 2)
    assert crossover.supposed(flat, 0.0, 1e12, "a GPU").endswith(" would pay from batch 1")
    assert crossover.supposed(flat, 0.0, 1e6, "a GPU").endswith(" would never pay")


def test_what_was_not_measured_is_in_the_result() -> None:
    assert RESULTS["no GPU"]["not_measured"] == {"cuda": "CuPy is not installed"}
    assert json.loads(to_json(RESULTS["flat"]))["fits"]["cpu"]["rate"] is None  # infinite


def test_the_table_has_a_line_for_each_record_and_fit() -> None:
    lines = chart.table(RESULTS["crossover"])
    assert len(lines) == 1 + 18 + 3
    assert lines[1].split()[:3] == ["cpu", "1", "2"]
    assert lines[7].split()[:3] == ["cuda:0", "1", "-"]
    assert lines[-3].startswith("fit cpu: t(B) = 20.0 us + B / (300,000 samples/s), residual 0%")
    assert not any(text.startswith("fit") for text in chart.table(RESULTS["one batch size"]))


def test_a_rate_above_its_roofline_is_called_noise() -> None:
    records = synthetic({"cpu": {1: 1e-3}})
    records[0]["roofline_suspect"] = True
    assert "noise" in chart.table(summarise(records, {}))[1]


@NEEDS_MATPLOTLIB
@pytest.mark.parametrize("name", RESULTS)
def test_the_picture(name: str) -> None:
    content = chart.png(RESULTS[name])
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    assert (width, height) == (1200, 750)
