"""Data that is valid and that a network learns nothing from: what is probably wrong, in one line each."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .dataset import Dataset

DARK: Final = 32  # the largest pixel is below: they are no pixels, and a network would see 0..0.1
LOUD: Final = 10.0  # root mean square of floats: scaled ones have 0.3, standardised ones 1, pixels 85
ROWS: Final = 1000  # of which it is taken
NAMED: Final = 8  # classes, at most


def doubts(data: Dataset) -> list[str]:
    """What is doubtful of values and classes."""
    if data.regression:
        return [*input_doubts(data), *_constant_targets(data)]
    counts = np.bincount(data.train_labels, minlength=data.n_classes)
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return input_doubts(data)
    names = ", ".join(map(str, empty[:NAMED])) + ", ..." * (len(empty) > NAMED)
    seen = f"{len(empty)} of {len(counts)} classes have no training sample: {names}"
    remedy = f"Number the classes from 0 without a gap; the highest label, {len(counts) - 1}, has {counts[-1]:,}"
    return [*input_doubts(data), f"{seen}. {remedy}"]


def input_doubts(data: Dataset) -> list[str]:
    """What is doubtful of the values."""
    images, name = data.train_images, data.name
    if data.columns:
        return []  # standardised, whatever they are
    if images.dtype == np.uint8:
        top = int(images.max())
        remedy = "Multiply them, or store them as floats, which are taken as they are"
        seen = f"the values of {name} are uint8 of 0..{top}: divided by 255 they are at most {top / 255:.2g}"
        return [] if top >= DARK else [f"{seen}. {remedy}"]
    some = images[:: max(1, len(images) // ROWS)].astype(np.float64)
    if np.sqrt(np.mean(some**2)) <= LOUD:
        return []
    seen = f"the values of {name} lie in {some.min():g}..{some.max():g}, and floats are taken as they are"
    return [f"{seen}. Scale them to 0..1 or standardise them; pixels of 0..255 can be stored as uint8"]


def _constant_targets(data: Dataset) -> list[str]:
    """Targets that are the same in every training sample."""
    same = np.flatnonzero(data.train_labels.min(axis=0) == data.train_labels.max(axis=0))
    names = [data.classes[k] if data.classes else str(k) for k in same[:NAMED]]
    return (
        [f"the target {', '.join(names)} is the same in all training samples: nothing can be learned"] if names else []
    )


def learned_nothing(result: Any, labels: Any) -> list[str]:
    """Whether a result on these labels, or targets, is no better than knowing nothing of the samples."""
    return guessing(result.accuracy, labels) if labels.ndim == 1 else no_better_than_the_mean(result.r2)


def no_better_than_the_mean(r2: float) -> list[str]:
    """Whether an R^2 is no better than that of predicting the mean of the targets."""
    return (
        [] if r2 > 0 else [f"no better than the mean: R2 is {r2:.4f}, and predicting the mean of the test part has 0"]
    )


def guessing(accuracy: float, labels: Any) -> list[str]:
    """Whether an accuracy is no better than that of naming the most common class."""
    counts = np.bincount(labels)
    share = float(counts.max() / counts.sum())
    if accuracy > share or share == 1:
        return []
    most = f"class {counts.argmax()} alone is {share:.2%} of the test part"
    return [f"no better than guessing: {accuracy:.2%} are right, and {most}"]
