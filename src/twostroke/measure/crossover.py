"""A line fitted to each throughput curve, and the crossover: the batch size from which a GPU is faster than the CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

MAX_BATCH: Final = 1 << 20  # samples of a step that is measured
BASELINE: Final = "cpu"  # the device that the others are compared with
# Seconds and samples/s of a step on an H100, by network: what a GPU that is not here might do.
H100: Final = {(784, 128, 10): (15e-6, 49e6)}
HUBER: Final = 1.345  # in standard deviations: residuals below it have full weight


class Fit(NamedTuple):
    """t(B) = t0 + B / rate: seconds of a step of B samples. ``residual`` is the root mean square of t(B) / t - 1."""

    t0: float
    rate: float  # samples per second; infinite if the time does not grow with the batch
    residual: float
    points: int


def fit_line(batch_sizes: Sequence[int], seconds: Sequence[float]) -> Fit | None:
    """Fit t0 >= 0 and 1 / rate >= 0 by least squares of relative residuals. None for one point.

    With relative residuals, a microsecond at batch 1 weighs as much as a millisecond at batch 4096. Outliers get less
    weight (Huber 1964), by a scale that is estimated from the residuals themselves.
    """
    from scipy.optimize import lsq_linear  # imported here: training needs none of it

    B, t = np.asarray(batch_sizes, np.float64), np.asarray(seconds, np.float64)
    if len(B) < 2:
        return None
    X = np.stack([1 / t, B / t], axis=1)
    weights = np.ones(len(B))
    for _ in range(50):
        root = np.sqrt(weights)
        t0, slope = lsq_linear(X * root[:, None], root, (0, np.inf), method="bvls").x.tolist()
        residuals = np.abs(X @ (t0, slope) - 1)
        scale = max(1.4826 * float(np.median(residuals)), 1e-12)
        weights = np.minimum(1, HUBER * scale / np.maximum(residuals, 1e-300))
    return Fit(t0, 1 / slope if slope else math.inf, float(np.sqrt(np.mean(residuals**2))), len(B))


@dataclass(frozen=True)
class Crossover:
    """The batch size from which ``device`` is faster than the CPU, or None; ``verdict`` is a sentence about it."""

    device: str
    batch_size: float | None  # between two measured sizes: interpolated on logarithmic axes
    fit_batch_size: float | None  # where the two fits cross; 0: the device is always faster
    verdict: str


def find_crossover(
    device: str, base: Mapping[int, float], other: Mapping[int, float], base_fit: Fit | None, fit: Fit | None
) -> Crossover:
    """Where ``device`` overtakes the CPU. ``base``, ``other``: seconds per step, by batch size (the same sizes)."""
    sizes = sorted(base)
    gains = [math.log(base[size] / other[size]) for size in sizes]
    wins = [gain > 0 for gain in gains]
    span = f"batch {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")
    crossings = sum(a != b for a, b in pairwise(wins))
    batch_size = None
    if all(wins):
        verdict = f"{device} wins everywhere measured ({span})"
    elif not any(wins):
        verdict = f"the CPU wins everywhere measured ({span})"
    elif not wins[-1]:
        ahead = ", ".join(str(size) for size, win in zip(sizes, wins, strict=True) if win)
        verdict = f"no crossover: {device} wins at batch {ahead} but the CPU at the largest, {sizes[-1]}"
    else:
        last = max(index for index, win in enumerate(wins) if not win)
        part = gains[last] / (gains[last] - gains[last + 1])
        batch_size = sizes[last] * (sizes[last + 1] / sizes[last]) ** part
        verdict = f"{device} wins from batch {batch_size:.3g} on (between {sizes[last]} and {sizes[last + 1]})"
        if crossings > 1:
            verdict += f"; the curves cross {crossings} times: repeat with more --seconds"
    crossing = _fits_cross(base_fit, fit)
    return Crossover(device, batch_size, crossing, f"{verdict}; {_check(sizes, wins, batch_size, crossing, fit)}")


def _fits_cross(base: Fit | None, other: Fit | None) -> float | None:
    """B* = (t0' - t0) / (1/rate - 1/rate'); 0 if the other is faster up to the largest batch, None if it never pays."""
    if base is None or other is None:
        return None
    lag, gain = other.t0 - base.t0, 1 / base.rate - 1 / other.rate
    if gain <= 0:
        return 0.0 if lag <= MAX_BATCH * gain else None
    return max(0.0, lag / gain)


def supposed(base: Fit, t0: float, rate: float, name: str) -> str:
    """From which batch size a GPU that is not here would pay: ``t0`` seconds and ``rate`` samples/s of its step."""
    crossing = _fits_cross(base, Fit(t0, rate, 0.0, 0))
    step = f"{name} with a step of {1e6 * t0:,.0f} us and a rate of {rate:,.0f} samples/s would"
    return f"{step} never pay" if crossing is None else f"{step} pay from batch {max(1, math.ceil(crossing)):,}"


def _check(
    sizes: Sequence[int], wins: Sequence[bool], measured: float | None, crossing: float | None, fit: Fit | None
) -> str:
    """Whether the fits agree with the measured points."""
    if fit is None:
        return "one batch size has no fit to check with"
    says = "it never does" if crossing is None else f"from {crossing:.3g}" if crossing > 1 else "from batch 1"
    if measured is not None:
        agree = crossing is not None and measured / 2 <= max(crossing, 1.0) <= 2 * measured
    elif all(wins):
        agree = crossing is not None and crossing <= sizes[0]
    else:
        agree = not any(wins) and (crossing is None or crossing >= sizes[-1])
    return f"the fits agree: {says}" if agree else f"the fits disagree: {says}"


def summarise(
    records: Sequence[Mapping[str, Any]], missing: Mapping[str, str], gpu: tuple[float, float] | None = None
) -> dict[str, Any]:
    """The complete result: records, a fit per device, crossovers with the CPU, and why devices were not measured.

    Where no GPU was measured, the verdict supposes one: ``gpu``, or the H100 if the network is the one measured there.
    """
    curves: dict[str, dict[int, float]] = {}
    for record in records:
        curves.setdefault(record["device"], {})[record["batch_size"]] = record["step_seconds"]
    fits = {device: fit_line(list(curve), list(curve.values())) for device, curve in curves.items()}
    base = curves.get(BASELINE)
    others = [device for device in curves if base is not None and device != BASELINE]
    crossovers = [find_crossover(d, curves[BASELINE], curves[d], fits[BASELINE], fits[d]) for d in others]
    if crossovers:
        verdict = "; ".join(crossover.verdict for crossover in crossovers)
    elif base is None:
        verdict = "the CPU was not measured: no crossover"
    else:
        verdict, given = "no GPU was measured: no crossover", gpu or H100.get(tuple(records[0]["layers"]))
        if given and (fit := fits[BASELINE]):
            verdict += f"; {supposed(fit, *given, 'a GPU' if gpu else 'an H100')}"
    return {
        "kind": "twostroke-bench",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "layers": list(records[0]["layers"]),
        "verdict": verdict,
        "crossovers": [asdict(crossover) for crossover in crossovers],
        "fits": {device: fit and fit._asdict() for device, fit in fits.items()},
        "not_measured": dict(missing),
        "records": list(records),
    }
