"""What a result is worth: its interval, precision and recall of each class, and one sentence on the whole run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

Z: Final = 1.959964  # 95 % of a normal distribution lie within so many deviations
NO_BREAK: Final = "\N{NO-BREAK SPACE}"
WILD: Final = 1.5  # times the lowest training loss: batches and dropout alone move it by less
WORSE: Final = 1.03  # times the lowest loss: from here on it has risen
BETTER: Final = 0.98  # times an earlier loss: it still falls
LATE: Final = 0.2  # the last part of a run
FEW_POINTS: Final = 0.005  # of accuracy: less between training and test is no overfitting
FAR_BEHIND: Final = 0.1  # of accuracy: a class so far below all others is a matter of its own
DROPOUT: Final = 0.2
L2: Final = {"adamw": 0.1}  # its decay is multiplied by the learning rate alone; for the others 1e-4 of the loss


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


def percent(share: float, digits: int = 2) -> str:
    """0.9804 as 98.04 %, never rounded up to 100 or down to 0."""
    value = 100 * share
    if 0 < share < 1:
        edge = 10.0**-digits
        value = min(max(value, edge), 100 - edge)
    return f"{value:.{digits}f}{NO_BREAK}%"


def of_samples(share: float, count: int) -> str:
    """A share of ``count`` samples with the digits that its interval allows: 95 % of 40, 98.04 % of 10,000."""
    return percent(share, decimals(*interval(share * count, count)))


def sentence(
    history: Sequence[Mapping[str, float | None]],
    record: Mapping[str, Any],
    guess: float,
    counts: Mapping[str, int],
    classes: Sequence[Mapping[str, Any]] = (),
    names: Sequence[str] = (),
) -> str:
    """One sentence on a run: what is wrong, or that nothing is, and what to try.

    ``history`` are a record's epochs, ``guess`` the share of the most common class of the test part, ``counts`` the
    samples of "test" and of "val", ``classes`` the test part's ``class_counts``. The first rule that holds speaks;
    what spoils everything else comes first. "" where the record lacks the figures. The figures are those of the epoch
    whose model was kept.
    """
    part = "val" if history and all(row["val_loss"] is not None for row in history) and counts.get("val") else "test"
    kept = [row for row in history if None not in (row["train_accuracy"], row["train_loss"], row[f"{part}_loss"])]
    if not kept or kept[-1][f"{part}_accuracy"] is None:
        return ""
    losses, train = [float(row[f"{part}_loss"] or 0) for row in kept], [float(row["train_loss"] or 0) for row in kept]
    of_model = next((row for row in kept if row["epoch"] == record.get("kept_epoch")), kept[-1])
    seen, other = (min(1.0, max(0.0, float(of_model[f"{key}_accuracy"] or 0))) for key in ("train", part))
    low, high = interval(other * counts[part], counts[part])
    best, digits = int(np.argmin(losses)), decimals(low, high)
    rate, between = record.get("learning_rate"), f"{percent(low, digits)} to {percent(high, digits)}"
    if train[-1] > WILD * min(train):
        slower = f"--lr {rate / 3:.2g}" if _number(rate) else "a lower --lr"
        said = f"the training loss rose from {min(train):.3g} to {train[-1]:.3g}, so the learning rate is too high"
        said += f"; try {slower}"
    elif other <= guess or (low <= guess and digits):
        rates = f"--lr {rate / 10:.2g}, then --lr {rate * 10:.2g}" if _number(rate) else "another --lr"
        said = f"no better than always naming the most common class; try another learning rate, {rates}"
    elif losses[-1] > WORSE * losses[best] and train[-1] < train[best] and seen > max(high, other + FEW_POINTS):
        there = ", whose model was kept" if of_model is kept[best] else ""
        against = _against_overfitting(record, kept[best])
        said = f"it overfits from epoch {kept[best]['epoch']:.0f} on{there}; try {against}"
    elif len(losses) == 1:
        said = "one epoch says little; try --epochs 10"
    elif losses[-1] < BETTER * losses[max(0, math.floor((1 - LATE) * len(losses)) - 1)]:
        said = f"it still improves; try --epochs {2 * len(kept)}"
    elif weak := _weak_class(classes):
        name, taken = (str(names[k]) if k < len(names) else str(k) for k in (weak["class"], weak["most_taken_for"]))
        recall = of_samples(1 - weak["errors"] / weak["samples"], weak["samples"])
        said = f"class {name} is far behind, {recall} of it are right, and it is mostly taken for {taken}"
        said += "; look at its samples, or add more of them"
    elif not digits:
        luck = ", and guessing would be within that" if low <= guess else ""
        said = f"{counts[part]:,} samples are too few to say more than {between}{luck}; test on more"
    else:
        said = "nothing to complain of; a larger network (--layers) or more data may still help"
    title = "validation" if part == "val" else "test"
    figures = f"Training {percent(seen, digits)}, {title} {percent(other, digits)}"
    return f"{figures}: {said}.".replace(NO_BREAK, " ")


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _against_overfitting(record: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """The first of the usual remedies that the run has not used: dropout, a penalty, an earlier end."""
    dropout, l2 = record.get("dropout"), record.get("l2")
    if not (_number(dropout) and dropout >= DROPOUT):
        return f"--dropout {DROPOUT}"
    return f"--epochs {best['epoch']:.0f}" if _number(l2) else f"--l2 {L2.get(str(record.get('optimizer')), 1e-4)}"


def _weak_class(classes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The class with the fewest right, if even the upper end of its interval is FAR_BEHIND the other classes."""
    known = [row for row in classes if row["samples"]]
    if len(known) < 2:
        return None
    worst = max(known, key=lambda row: row["errors"] / row["samples"])
    samples, errors = (sum(row[key] for row in known) - worst[key] for key in ("samples", "errors"))
    high = interval(worst["samples"] - worst["errors"], worst["samples"])[1]
    return worst if high < 1 - errors / samples - FAR_BEHIND else None


def repetition(record: Mapping[str, Any]) -> str:
    """Whether the command that repeats a run ends in the same bits, by what its record says of device and products.

    The C library sums every element in one order, whatever the number of threads; BLAS's order depends on it. Both
    depend on the processor's kind, as NumPy's own loops do (docs/design.md, Determinism).
    """
    machine, ranks = record.get("machine"), record.get("distributed")
    machine = machine if isinstance(machine, Mapping) else {}
    if isinstance(ranks, Mapping):
        return (
            f"{ranks.get('ranks', 'Several')} ranks trained it: by one process it agrees to rounding, not to the bit."
        )
    if machine.get("gpu") or str(record.get("device")).startswith("cuda"):
        gpu = machine.get("gpu") or record.get("device")
        return (
            f"It was trained on a GPU ({gpu}): a repetition agrees to rounding. The same bits are to be expected on"
            " this GPU with the same versions only, and never from a CPU."
        )
    where = f"on a processor of the same kind ({machine.get('processor') or 'not recorded'}) with the same versions"
    threads, steps = record.get("threads"), str(machine.get("steps") or "")
    if steps.startswith("played"):
        built = steps.removeprefix("played, ")
        return f"It ends in the same weights, bit for bit, with any number of threads, {where} and the {built}."
    if threads and not machine.get("threads_auto"):
        many = "1 thread" if threads == 1 else f"{threads} threads"
        return f"It ends in the same weights, bit for bit, {where}, {many} and no C library (TWOSTROKE_LIBRARY=0)."
    return (
        "Its products were BLAS's, whose sums depend on the number of threads, and that was chosen during the run: a"
        " repetition agrees to rounding. Two runs with --threads 1 would agree to the bit."
    )
