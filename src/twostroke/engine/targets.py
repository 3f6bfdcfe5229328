"""The targets of a network: labels, or the numbers of a regression; and how far its outputs are from those."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, Backend
from ..data.checks import check_labels, check_targets
from ..errors import DataError
from .mlp import MLP


class Result(NamedTuple):
    """Mean loss over all samples seen, and the accuracy (0..1) of a classifier.

    Of a regression, in the units of its targets: the root of the mean squared error, the mean absolute error, and R^2,
    the coefficient of determination; each a mean over the targets. What does not apply is NaN.
    """

    loss: float
    accuracy: float = math.nan
    rmse: float = math.nan
    mae: float = math.nan
    r2: float = math.nan

    def of_part(self, part: str, regression: bool) -> dict[str, float]:
        """What an epoch's record holds of it, by the names of its fields; ``part`` is train, val or test."""
        names = ("loss", "rmse", "r2") if regression else ("loss", "accuracy")
        return {f"{part}_{name}": getattr(self, name) for name in names}


class TargetErrors(NamedTuple):
    """The root mean squared error, the mean absolute error and R^2 of each target: arrays (K,)."""

    rmse: Any
    mae: Any
    r2: Any

    def mean(self, loss: float) -> Result:
        """Their means over the targets, with a mean loss."""
        return Result(loss, math.nan, *(float(np.mean(each)) for each in self))


def targets_of(net: MLP, labels: Any, where: str, count: int) -> Any:
    """Checked labels (N,) of ``count`` samples; for a regression the standardised targets (N, K). Raises ``DataError``,
    which names the array ``where``."""
    if not net.regression:
        return check_labels(labels, where, net.layers[-1], count)
    rows = check_targets(labels, where, net.layers[-1], count)
    if net.loss == "poisson" and rows.min() < 0:
        raise DataError("negative targets", where=where, found=rows.min(), expected=">= 0 for the Poisson loss")
    return rows.astype(net.dtype) if net.target_scaling is None else net.target_scaling(rows, net.dtype)


def unit(net: MLP) -> Any:
    """The unit of each output of a regression, (K,); None of a classifier."""
    if not net.regression:
        return None
    return np.ones(net.layers[-1]) if net.target_scaling is None else net.target_scaling.deviation


def target_errors(backend: Backend, predictions: Array, targets: Array, deviation: Any = 1.0) -> TargetErrors:
    """The errors of predictions (N, K) of targets (N, K), in units of ``deviation`` (K,). A sync point.

    R^2 is 1 - mean (p - t)^2 / var t. Of a constant target it is 1 where every prediction is exact, else 0, as in
    scikit-learn.
    """
    xp = backend.xp
    errors, away = (xp.empty(targets.shape, "float64") for _ in range(2))
    xp.subtract(predictions, targets, out=errors)
    xp.subtract(targets, xp.mean(targets, axis=0, dtype="float64"), out=away)
    means = xp.mean(errors * errors, axis=0), xp.mean(xp.maximum(errors, -errors), axis=0), xp.mean(away * away, axis=0)
    squares, mae, variance = map(backend.to_host, means)
    constant = backend.to_host(xp.max(targets, axis=0)) == -backend.to_host(xp.max(-targets, axis=0))
    r2 = np.where(constant, squares == 0, 1 - squares / np.where(constant, 1.0, variance))
    return TargetErrors(np.sqrt(squares) * deviation, mae * deviation, r2)
