"""What a result is worth: intervals, scores, and the sentence on a run."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from twostroke.show.judgement import decimals, interval, scores, sentence


@pytest.mark.parametrize("count", [1, 7, 40, 10_000])
def test_the_interval_holds_the_shares_that_would_not_surprise(count: int) -> None:
    """Wilson's interval inverts the score test: at both ends the share lies Z standard errors away."""
    for right in {0, 1, count // 2, count}:
        low, high = interval(right, count)
        assert 0 <= low <= right / count <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert abs(right / count - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / count), rel=1e-6)


def test_more_samples_narrow_it_and_give_more_digits() -> None:
    widths = [np.subtract(*interval(0.95 * count, count)[::-1]) for count in (40, 1000, 10_000, 100_000)]
    assert all(wide > narrow for wide, narrow in pairwise(widths))
    assert [decimals(*interval(0.95 * count, count)) for count in (40, 1000, 10_000, 100_000)] == [0, 1, 2, 2]


def test_scores_are_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    found = scores(metrics.confusion_matrix(labels, predictions))
    theirs = metrics.precision_recall_fscore_support(labels, predictions)
    for ours, expected in zip(
        zip(*[(s.precision, s.recall, s.f1, s.samples) for s in found], strict=True), theirs, strict=True
    ):
        np.testing.assert_allclose(ours, expected)


def test_a_class_that_is_not_there_has_no_scores() -> None:
    one, other = scores(np.array([[3, 0], [0, 0]]))
    assert (one.precision, one.recall, one.f1) == (1, 1, 1)
    assert (other.samples, other.precision, other.recall, other.f1) == (0, None, None, None)


def epochs(train_loss: list[float], loss: list[float], train: float, other: float, part: str = "test") -> list[Any]:
    """A history whose last epoch has these accuracies."""
    rest = dict.fromkeys(("val_loss", "val_accuracy", "test_loss", "test_accuracy"))
    last = {"train_accuracy": train, f"{part}_accuracy": other}
    pairs = enumerate(zip(train_loss, loss, strict=True))
    return [{**rest, **last, "epoch": k + 1, "train_loss": a, f"{part}_loss": b} for k, (a, b) in pairs]


FALLING = [1.0, 0.5, 0.3, 0.2, 0.1]


RISING = [1, 0.6, 0.5, 0.6, 0.7]
DONE = "it has learned what it can; a larger network (--layers) or more data may help."
GUESS = "no better than always naming the most common class; try another learning rate (--lr)."
DROP, LONGER = "it overfits from epoch 3 on; try --dropout 0.2.", "it still improves; try --epochs 10."
MORE = "it overfits from epoch 3 on; try --val-size 0.1 --patience 3, or more data."


@pytest.mark.parametrize(
    ("history", "dropout", "expected"),
    [
        (
            epochs(FALLING, RISING, 0.998, 0.978),
            0.0,
            "99.8 %, test 97.8 %: it overfits from epoch 3 on; try --dropout 0.2.",
        ),
        (epochs(FALLING, RISING, 0.998, 0.978, "val"), 0.2, f"99.8 %, validation 97.8 %: {MORE}"),
        (
            epochs(FALLING, [1, 0.6, 0.5, 0.4, 0.3], 0.95, 0.94),
            None,
            "95.0 %, test 94.0 %: it still improves; try --epochs 10.",
        ),
        (epochs(FALLING, [1, 0.6, 0.5, 0.5, 0.5], 0.95, 0.94), None, f"95.0 %, test 94.0 %: {DONE}"),
        # The loss rises, and nothing is lost.
        (epochs(FALLING, RISING, 0.951, 0.950), None, f"95.1 %, test 95.0 %: {DONE}"),
        (epochs(FALLING, FALLING, 0.11, 0.3), None, f"11.0 %, test 30.0 %: {GUESS}"),
        (epochs([0.5], [0.4], 0.9, 0.91), None, f"90.0 %, test 91.0 %: {DONE}"),
    ],
)
def test_one_sentence_on_a_run(history: list[Any], dropout: float | None, expected: str) -> None:
    assert sentence(history, {"dropout": dropout}, 0.3) == f"Training {expected}"


def test_a_record_without_figures_is_not_judged() -> None:
    assert sentence([], {}, 0.3) == ""
    assert sentence([{**epochs([1.0], [1.0], 0.5, 0.5)[0], "train_loss": None}], {}, 0.3) == ""
