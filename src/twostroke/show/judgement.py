"""What a result is worth: its interval, precision and recall of each class, and one sentence on the whole run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Z: Final = 1.959964  # 95 % of a normal distribution lie within so many deviations
WORSE: Final = 1.03  # times the lowest loss: from here on it has risen
BETTER: Final = 0.98  # times an earlier loss: it still falls
LATE: Final = 0.2  # the last part of a run
FEW_POINTS: Final = 0.005  # of accuracy: less between training and test is no overfitting
DROPOUT: Final = 0.2


class Score(NamedTuple):
    """Of one class: its samples, precision (right of those predicted as it), recall (right of its own), and F1, their
    harmonic mean 2 P R / (P + R). None where there is nothing to divide by."""

    samples: int
    precision: float | None
    recall: float | None
    f1: float | None


def interval(right: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``right`` of ``count`` (E. B. Wilson, 1927)."""
    share, z2 = right / count, Z * Z / count
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def decimals(low: float, high: float) -> int:
    """How many decimals of a percentage mean something, where it may lie between these shares."""
    points = 100 * (high - low)
    return 2 if points < 1 else 1 if points < 10 else 0


def scores(matrix: NDArray[np.int64]) -> list[Score]:
    """Of each class, from the confusion matrix (K, K), true class by row."""
    found = []
    for k, (own, taken) in enumerate(zip(matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist(), strict=True)):
        right = int(matrix[k, k])
        found.append(Score(own, _share(right, taken), _share(right, own), _share(2 * right, own + taken)))
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def sentence(history: Sequence[Mapping[str, float | None]], record: Mapping[str, Any], guess: float) -> str:
    """One sentence on a run: it has learned nothing, overfits, still improves, or is done; and what to try.

    ``history`` are a record's epochs, ``guess`` the share of the most common class of the test part. "" where the
    record lacks the figures.
    """
    part = "val" if history and all(row["val_loss"] is not None for row in history) else "test"
    kept = [row for row in history if None not in (row["train_accuracy"], row["train_loss"], row[f"{part}_loss"])]
    if not kept or kept[-1][f"{part}_accuracy"] is None:
        return ""
    losses, train = [float(row[f"{part}_loss"] or 0) for row in kept], [float(row["train_loss"] or 0) for row in kept]
    seen, other = float(kept[-1]["train_accuracy"] or 0), float(kept[-1][f"{part}_accuracy"] or 0)
    best, name = int(np.argmin(losses)), "validation" if part == "val" else "test"
    figures = f"Training {100 * seen:.1f} %, {name} {100 * other:.1f} %"
    if other <= guess:
        return f"{figures}: no better than always naming the most common class; try another learning rate (--lr)."
    if losses[-1] > WORSE * losses[best] and train[-1] < train[best] and seen - other > FEW_POINTS:
        dropout = record.get("dropout")
        enough = isinstance(dropout, int | float) and dropout >= DROPOUT
        remedy = "--val-size 0.1 --patience 3, or more data" if enough else f"--dropout {DROPOUT}"
        return f"{figures}: it overfits from epoch {kept[best]['epoch']:.0f} on; try {remedy}."
    before = losses[max(0, math.floor((1 - LATE) * len(losses)) - 1)]
    if len(losses) > 1 and losses[-1] < BETTER * before:
        return f"{figures}: it still improves; try --epochs {2 * len(kept)}."
    return f"{figures}: it has learned what it can; a larger network (--layers) or more data may help."
