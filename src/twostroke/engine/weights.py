"""Weights of samples: of their classes and their own, and relative to their batch, as a step takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.checks import check_weights
from ..data.dataset import Dataset
from ..errors import ConfigError


def sample_weights(data: Dataset, class_weight: Any) -> NDArray[np.float64] | None:
    """The weight of each training sample, (N,): its own times that of its class; None where neither is given.

    ``class_weight`` is as in ``TrainConfig``. Raises ``ConfigError``.
    """
    weights = data.sample_weight
    if weights is not None:
        weights = check_weights(weights, "sample_weight", len(data.train_labels))
    if class_weight is None:
        return weights
    if data.regression:
        found, expected = f"{class_weight!r}, and targets that are numbers", "weights of samples"
        raise ConfigError("a regression has no classes", where="class_weight", found=found, expected=expected)
    by_class = class_weights(class_weight, np.bincount(data.train_labels, minlength=data.n_classes), data.classes)
    weights = np.asarray(by_class[data.train_labels] * (1.0 if weights is None else weights), np.float64)
    if not weights.any():
        expected = "a sample whose weight is above 0"
        raise ConfigError("all weights are zero", where="class_weight", found=repr(class_weight), expected=expected)
    return weights


def class_weights(
    class_weight: str | Mapping[Any, float], counts: NDArray[Any], names: Sequence[str]
) -> NDArray[np.float64]:
    """The weight of each class, (K,), from the number of samples of each (K,).

    "balanced" is scikit-learn's n / (k count): every class has the same total weight. In a mapping a class that is not
    named has weight 1; a key is the name of a class, or its number. Raises ``ConfigError``.
    """
    if isinstance(class_weight, str):
        _check_counts(counts, names, range(len(counts)), class_weight)
        return np.asarray(counts.sum() / (len(counts) * counts), np.float64)
    found = np.ones(len(counts))
    numbers = {str(number): number for number in range(len(counts))} | {name: k for k, name in enumerate(names)}
    for key, weight in class_weight.items():
        if str(key) not in numbers:
            known = ", ".join([*names[:9]] or [f"0..{len(counts) - 1}"]) + ", ..." * (len(names) > 9)
            raise ConfigError("no such class", where="class_weight", found=repr(key), expected=known)
        found[numbers[str(key)]] = weight
    _check_counts(counts, names, [numbers[str(key)] for key in class_weight], "a weight for it")
    return found


def _check_counts(counts: NDArray[Any], names: Sequence[str], classes: Sequence[int], found: str) -> None:
    """Refuse to weigh a class that no training sample is of."""
    for k in classes:
        if not counts[k]:
            what = f"class {names[k] if names else k} has no training sample"
            remedy = "Leave it out, or number the classes from 0 without a gap."
            raise ConfigError(what, where="class_weight", found=found, expected="samples to weigh", remedy=remedy)


def relative_weights(
    weights: NDArray[Any] | None, order: NDArray[Any], bounds: Sequence[tuple[int, int]]
) -> tuple[Any, NDArray[np.float64]]:
    """The weight of each sample relative to its batch's mean, by sample; and the total weight of each batch.

    ``bounds`` cut ``order`` (n,) into batches. With relative weights r_i the mean over a batch of r_i loss_i is
    sum w_i loss_i / sum w_i, scikit-learn's weighted loss. In a batch of total weight 0 they are 0.
    """
    counts = np.array([stop - start for start, stop in bounds])
    if weights is None:
        return None, counts.astype(np.float64)
    ordered = weights[order].astype(np.float64)
    totals = np.add.reduceat(ordered, [start for start, _ in bounds])
    means = np.where(totals > 0, totals, 1.0) / counts
    relative = np.zeros(len(weights))
    relative[order] = ordered / np.repeat(means, counts)
    return relative, totals
