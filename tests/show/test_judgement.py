"""What a result is worth: intervals, scores, and the sentence on a run."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from twostroke.show.judgement import decimals, interval, of_samples, percent, repetition, scores, sentence


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
FLAT = [1, 0.6, 0.5, 0.5, 0.5]
DONE = "nothing to complain of; a larger network (--layers) or more data may still help."
GUESS = "no better than always naming the most common class; try another learning rate, --lr 0.03, then --lr 3."
OVERFITS = "it overfits from epoch 3 on; try"
ONCE = "one epoch says little; try --epochs 10."
LONGER = "it still improves; try --epochs 10."
HIGH = "the training loss rose from 0.2 to 0.4, so the learning rate is too high; try --lr 0.1."
GOOD = (FALLING, FLAT, 0.95, 0.94)
HURT = (FALLING, RISING, 0.998, 0.978)
MANY = {"test": 10_000, "val": 10_000}
RULES: list[tuple[tuple[list[float], list[float], float, float], dict[str, Any], str]] = [
    (HURT, {}, f"99.80 %, test 97.80 %: {OVERFITS} --dropout 0.2."),
    (HURT, {"dropout": 0.2}, f"99.80 %, test 97.80 %: {OVERFITS} --l2 0.0001."),
    (HURT, {"dropout": 0.2, "optimizer": "adamw"}, f"99.80 %, test 97.80 %: {OVERFITS} --l2 0.1."),
    (HURT, {"dropout": 0.3, "l2": 0.1}, f"99.80 %, test 97.80 %: {OVERFITS} --epochs 3."),
    # The loss rises, and no accuracy is lost; or so few that chance explains it; or training does not go on either.
    ((FALLING, RISING, 0.951, 0.950), {}, f"95.10 %, test 95.00 %: {DONE}"),
    (([1, 0.5, 0.3, 0.4, 0.4], RISING, 0.998, 0.978), {}, f"99.80 %, test 97.80 %: {DONE}"),
    ((FALLING, [1, 0.6, 0.5, 0.4, 0.3], 0.95, 0.94), {}, f"95.00 %, test 94.00 %: {LONGER}"),
    (([0.5], [0.4], 0.9, 0.91), {}, f"90.0 %, test 91.0 %: {ONCE}"),
    ((FALLING, FALLING, 0.11, 0.3), {}, f"11.0 %, test 30.0 %: {GUESS}"),
    ((FALLING, FALLING, 0.305, 0.305), {}, f"30.5 %, test 30.5 %: {GUESS}"),  # within its interval
    (([1, 0.2, 0.2, 0.3, 0.4], RISING, 0.9, 0.8), {}, f"90.0 %, test 80.0 %: {HIGH}"),
    (GOOD, {}, f"95.00 %, test 94.00 %: {DONE}"),
]


@pytest.mark.parametrize(("figures", "record", "expected"), RULES)
def test_one_sentence_on_a_run(figures: Any, record: dict[str, Any], expected: str) -> None:
    count = 10_000 if figures[3] > 0.92 else 1000
    found = sentence(epochs(*figures), {"learning_rate": 0.3} | record, 0.3, {"test": count})
    assert found == f"Training {expected}"


def test_the_validation_part_is_asked_before_the_test_part() -> None:
    found = sentence(epochs(*HURT, part="val"), {}, 0.3, MANY)
    assert found == f"Training 99.80 %, validation 97.80 %: {OVERFITS} --dropout 0.2."


def test_the_epoch_whose_model_was_kept_is_judged() -> None:
    rows = epochs(*HURT)
    rows[2] |= {"train_accuracy": 0.99, "test_accuracy": 0.981}
    found = sentence(rows, {"kept_epoch": 3}, 0.3, MANY)
    assert found == (
        "Training 99.00 %, test 98.10 %: it overfits from epoch 3 on, whose model was kept; try --dropout 0.2."
    )


def test_few_samples_say_little_and_are_shown_with_few_digits() -> None:
    few = sentence(epochs(*GOOD[:3], 0.95), {}, 0.3, {"test": 40})
    assert few == "Training 95 %, test 95 %: 40 samples are too few to say more than 83 % to 99 %; test on more."
    luck = sentence(epochs(*GOOD[:3], 0.6), {}, 0.5, {"test": 10})
    assert "10 samples are too few to say more than 31 % to 83 %, and guessing would be within that; test" in luck
    # What looks like overfitting may be chance.
    assert "too few" in sentence(epochs(FALLING, RISING, 0.96, 0.95), {}, 0.3, {"test": 40})
    assert "overfits" in sentence(epochs(FALLING, RISING, 1.0, 0.8), {}, 0.3, {"test": 40})


def test_a_class_far_behind_is_named() -> None:
    def judged(errors: int, samples: int) -> str:
        rows = [(0, 1000, 20, 1), (1, samples, errors, 2), (2, 1000, 20, 0)]
        classes = [dict(zip(("class", "samples", "errors", "most_taken_for"), row, strict=True)) for row in rows]
        return sentence(epochs(*GOOD), {}, 0.3, MANY, classes, ["cat", "dog", "emu"])

    says = "class dog is far behind, 60 % of it are right, and it is mostly taken for emu; look at its samples"
    assert says in judged(40, 100)
    assert DONE in judged(2, 10)  # ten samples: chance
    assert DONE in judged(80, 1000)  # 92 % of it, 98 % of the others: not far


def test_a_record_without_figures_is_not_judged() -> None:
    assert sentence([], {}, 0.3, MANY) == ""
    assert sentence([{**epochs([1.0], [1.0], 0.5, 0.5)[0], "train_loss": None}], {}, 0.3, MANY) == ""


@pytest.mark.parametrize("rate", [None, "x", True, float("inf")])
def test_a_learning_rate_that_is_no_number_is_not_calculated_with(rate: Any) -> None:
    diverging = epochs([1, 0.2, 0.4], [1, 1, 1], 0.5, 0.5)
    assert sentence(diverging, {"learning_rate": rate}, 0.3, MANY).endswith("too high; try a lower --lr.")


@pytest.mark.parametrize(
    ("share", "text"), [(0.9804, "98.04"), (1.0, "100.00"), (0.0, "0.00"), (0.99999, "99.99"), (1e-9, "0.01")]
)
def test_a_percentage_is_never_rounded_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == f"{text}\xa0%"


@pytest.mark.parametrize(
    ("share", "count", "text"), [(0.95, 40, "95"), (0.95, 1000, "95.0"), (0.9804, 10_000, "98.04")]
)
def test_digits_follow_the_number_of_samples(share: float, count: int, text: str) -> None:
    assert of_samples(share, count) == f"{text}\xa0%"


PLAYED, REPLAYED = "played, avx2 library built by cc 12", "replayed from Python: there is no compiler"
REPETITIONS: list[tuple[dict[str, Any], str]] = [
    ({"device": "cpu", "threads": 2, "machine": {"steps": PLAYED, "threads_auto": True, "processor": "Zen"}},
     "bit for bit, with any number of threads, on a processor of the same kind (Zen) with the same versions and the"
     " avx2 library built by cc 12."),
    ({"device": "cpu", "threads": 1, "machine": {"steps": REPLAYED}}, "bit for bit, on a processor of the same kind"
     " (not recorded) with the same versions, 1 thread and no C library"),
    ({"device": "cpu", "threads": 2, "machine": {"steps": REPLAYED}}, "2 threads and no C library"),
    ({"device": "cpu", "threads": 2, "machine": {"steps": REPLAYED, "threads_auto": True}}, "a repetition agrees to"
     " rounding. Two runs with --threads 1 would agree to the bit."),
    ({"device": "cuda:0", "threads": None, "machine": {"gpu": "H100"}}, "on a GPU (H100): a repetition agrees to"),
    ({"device": "cuda:0"}, "on a GPU (cuda:0): a repetition agrees to rounding."),
    ({"device": "cpu", "machine": {"steps": PLAYED}, "distributed": {"ranks": 2}}, "2 ranks trained it: by one process"
     " it agrees to rounding, not to the bit."),
]  # fmt: skip


@pytest.mark.parametrize(("record", "says"), REPETITIONS)
def test_whether_a_repetition_has_the_same_bits(record: dict[str, Any], says: str) -> None:
    assert says in repetition(record)
