"""The numbers of a page: epochs, confusion matrix, worst mistakes, first-layer weights; and errors by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..backend import host_backend
from ..data.dataset import Dataset
from ..engine.evaluation import evaluate_outputs
from ..engine.metrics import check_finite
from ..engine.mlp import MLP
from ..engine.targets import Result, target_errors
from ..engine.training import EpochRecord
from .judgement import interval, sentence

MATRIX_CLASSES: Final = 200  # beyond this a cell is smaller than a pixel
MISTAKES: Final = 24
PAIRS: Final = 8
UNITS: Final = 32
LARGEST: Final = 1e30  # of float32's 3e38: larger values are meaningless and overflow when drawn
SEEN_ROWS: Final = 10_000  # training samples examined for pixels that vary


@dataclass(frozen=True, eq=False)
class Mistake:
    """A misclassified test sample; ``output`` is that of the predicted class, ``truth_output`` that of the true one."""

    index: int
    label: int
    prediction: int
    output: float
    truth_output: float


@dataclass(frozen=True, eq=False)
class Pair:
    """How many of the ``samples`` of class ``label`` were predicted as ``prediction``."""

    label: int
    prediction: int
    count: int
    samples: int

    @property
    def share(self) -> float:
        """Their share of the class."""
        return self.count / self.samples


@dataclass(frozen=True, eq=False)
class Unit:
    """The weights (H, W) of a unit of the first layer, scaled to -1..1; NaN for pixels that never vary in training."""

    number: int
    weights: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Findings:
    """A run's record (unchecked, as read from the file), and its network's results on the test part."""

    record: Mapping[str, Any]
    history: list[dict[str, float | None]]  # an entry for each epoch, a number or None for each column
    net: MLP
    data: Dataset
    result: Result
    predictions: NDArray[np.int64]  # (N,), of the test part
    errors: int
    matrix: NDArray[np.int64] | None  # (K, K), true class by row; None beyond MATRIX_CLASSES
    pairs: list[Pair]  # the most frequent first
    mistakes: list[Mistake]  # the largest margin of the wrong over the right output first
    units: list[Unit]  # the largest norm first; empty if samples are not pictures

    @property
    def names(self) -> list[str]:
        """What each class is called."""
        return list(self.net.classes) or [str(k) for k in range(self.net.layers[-1])]

    def unit_name(self, unit: Unit) -> str:
        """A unit's number, or without a hidden layer the name of its class."""
        return self.names[unit.number] if len(self.net.layers) == 2 else str(unit.number)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy lies, with 95 % confidence."""
        count = len(self.data.test_labels)
        return interval(count - self.errors, count)

    @property
    def judgement(self) -> str:
        """One sentence on the run."""
        labels, held = self.data.test_labels, number(self.record.get("val_size")) or 0.0
        guess = np.bincount(labels).max() / len(labels)
        held = held if held >= 1 else held * len(self.data.train_labels)
        counts = {"test": len(labels), "val": round(held)}
        classes = class_counts(labels, self.predictions, self.net.layers[-1])
        return sentence(self.history, self.record, float(guess), counts, classes, self.names)

    @property
    def pictures(self) -> bool:
        """Whether samples can be shown as images: (height, width) of at least 2 by 2."""
        return is_picture(self.data)


def is_picture(data: Dataset) -> bool:
    """Whether samples are pictures rather than rows of features."""
    return len(data.image_shape) == 2 and min(data.image_shape) > 1


def examine(record: Mapping[str, Any], net: MLP, data: Dataset) -> Findings:
    """Evaluate ``net`` on the test part of ``data``, which it must fit, and find what to show."""
    labels = data.test_labels.astype(np.int64)
    result, outputs = evaluate_outputs(net, data.test_images, data.test_labels)
    check_finite(data.name, result.loss)
    predictions = outputs.argmax(axis=1)
    n_classes = net.layers[-1]
    small = n_classes <= MATRIX_CLASSES
    return Findings(
        record=record,
        history=numbers(record.get("history")),
        net=net,
        data=data,
        result=result,
        predictions=predictions,
        errors=int((predictions != labels).sum()),
        matrix=confusion(labels, predictions, n_classes) if small else None,
        pairs=_pairs(labels, predictions, n_classes),
        mistakes=_mistakes(outputs, labels, predictions),
        units=_units(net, data) if is_picture(data) else [],
    )


def confusion(labels: Any, predictions: Any, n_classes: int) -> Any:
    """The confusion matrix, (K, K) int64: samples of class (row) predicted as class (column)."""
    counts = np.bincount(labels.astype(np.int64) * n_classes + predictions, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def class_counts(labels: Any, predictions: Any, n_classes: int) -> list[dict[str, Any]]:
    """For each class: the number of samples and of errors, and the most frequent wrong prediction."""
    labels = labels.astype(np.int64)
    wrong = labels != predictions
    # Not from the confusion matrix: with 40,000 classes it takes 12 GiB.
    pairs, counts = np.unique(labels[wrong] * n_classes + predictions[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")  # the smaller prediction first where two are as frequent
    truths, firsts = np.unique(pairs[order] // n_classes, return_index=True)
    taken_for = dict(zip(truths.tolist(), (pairs[order] % n_classes)[firsts].tolist(), strict=True))
    numbers = (np.bincount(each, minlength=n_classes).tolist() for each in (labels, labels[wrong]))
    return [
        {"class": label, "samples": samples, "errors": errors, "most_taken_for": taken_for.get(label)}
        for label, (samples, errors) in enumerate(zip(*numbers, strict=True))
    ]


def errors_by_target(net: MLP, outputs: Any, targets: Any) -> list[dict[str, Any]]:
    """For each target of a regression: the root mean squared error, the mean absolute error, and R^2, from outputs and
    targets (N, K) on the host."""
    names = list(net.classes) or [str(k) for k in range(net.layers[-1])]
    errors = target_errors(host_backend(), outputs, targets)
    return [
        {"target": name, "rmse": rmse, "mae": mae, "r2": r2}
        for name, rmse, mae, r2 in zip(names, *(each.tolist() for each in errors), strict=True)
    ]


def numbers(history: Any) -> list[dict[str, float | None]]:
    """The epochs of a record's history. Values that are not plain numbers become None; other entries are dropped."""
    names = [name for name in EpochRecord.__annotations__ if not name.endswith(("_rmse", "_r2"))]  # of no page
    rows = history if isinstance(history, list) else []
    found = [{name: number(row.get(name)) for name in names} for row in rows if isinstance(row, Mapping)]
    return [row for row in found if row["epoch"] is not None]


def number(value: Any) -> float | None:
    """A value of a record as a number that can be shown or drawn, or None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if plain else None


def heat(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each wrong cell's share of its class, relative to the largest: 0..1, the diagonal 0."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    return np.asarray(shares / (shares.max() or 1.0))


def _pairs(labels: Any, predictions: Any, n_classes: int) -> list[Pair]:
    wrong = labels != predictions
    codes, counts = np.unique(labels[wrong] * n_classes + predictions[wrong], return_counts=True)
    samples = np.bincount(labels, minlength=n_classes)
    best = np.argsort(-counts, kind="stable")[:PAIRS]
    found = []
    for code, count in zip(codes[best], counts[best], strict=True):
        label, taken = divmod(int(code), n_classes)
        found.append(Pair(label, taken, int(count), int(samples[label])))
    return found


def _mistakes(outputs: Any, labels: Any, predictions: Any) -> list[Mistake]:
    wrong = np.flatnonzero(predictions != labels)
    given, due = outputs[wrong, predictions[wrong]], outputs[wrong, labels[wrong]]
    order = np.argsort(due - given, kind="stable")[:MISTAKES]
    return [
        Mistake(int(i), int(labels[i]), int(predictions[i]), float(given[k]), float(due[k]))
        for k, i in zip(order, wrong[order], strict=True)
    ]


def _units(net: MLP, data: Dataset) -> list[Unit]:
    """The units with the largest norms, or the classes in order if there is no hidden layer."""
    weights = net.backend.to_host(net.weights[0]).astype(np.float64)
    seen = data.train_images[:: max(1, len(data.train_images) // SEEN_ROWS)]
    weights[seen.min(axis=0) == seen.max(axis=0)] = np.nan
    strengths = np.sqrt(np.nansum(weights**2, axis=0))
    order = np.argsort(-strengths, kind="stable") if len(net.layers) > 2 else np.arange(len(strengths))
    peaks = np.nanmax(np.abs(weights), axis=0, initial=0.0)
    return [Unit(int(k), (weights[:, k] / (peaks[k] or 1.0)).reshape(data.image_shape)) for k in order[:UNITS]]
