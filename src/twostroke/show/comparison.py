"""Two or more runs side by side: what differs, what it costs, and whether one is better by more than chance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..engine.layers import parameter_count
from . import pictures
from .findings import Findings, number
from .judgement import NO_BREAK, decimals, interval, percent
from .page import render, settings_of, significant, text_of

MOST_RUNS: Final = 12  # more names do not fit beside a chart
LEVEL: Final = 0.05  # of all tests together: each of m has LEVEL / m (C. E. Bonferroni)
HEAD: Final = ("run", "test accuracy", "95% interval", "errors", "test loss", "parameters", "seconds", "samples/s")


@dataclass(frozen=True, eq=False)
class Compared:
    """What a comparison keeps of a run: not its data, of which many would fill the memory."""

    name: str
    record: Mapping[str, Any]
    history: Sequence[Mapping[str, float | None]]
    parameters: int
    loss: float
    right: NDArray[np.bool_]  # (N,), whether each test sample is
    digest: str  # of the test samples and labels

    @property
    def row(self) -> list[str]:
        """The cells of the run's row, under ``HEAD``."""
        count, right = len(self.right), int(self.right.sum())
        low, high = interval(right, count)
        digits = decimals(low, high)
        cost = [significant(number(self.record.get(key))) or "-" for key in ("train_seconds", "samples_per_second")]
        ends = f"{percent(low, digits)} to {percent(high, digits)}"
        errors = f"{count - right:,} of {count:,}"
        figures = [percent(right / count, digits), ends, errors, significant(self.loss), f"{self.parameters:,}", *cost]
        return [self.name, *figures]


def compared(name: str, findings: Findings) -> Compared:
    """What is kept of a run's findings."""
    data, digest = findings.data, hashlib.sha256()
    for array in (data.test_images, data.test_labels.astype(np.int64)):
        digest.update(f"{array.shape} {array.dtype} {findings.names}".encode(errors="backslashreplace"))
        digest.update(np.ascontiguousarray(array).data)
    right = findings.predictions == data.test_labels
    count = parameter_count(findings.net.layers)
    return Compared(name, findings.record, findings.history, count, findings.result.loss, right, digest.hexdigest())


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test (Q. McNemar, 1947): of the samples on which one of two models alone is right,
    as many or fewer would be the lesser one's if each were either's with probability 1/2; two-sided."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    k = np.arange(fewer)
    # log C(n, k) - n log 2 for k = 0..fewer: C(n, k + 1) = C(n, k) (n - k) / (k + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - k) / (k + 1)))]) - n * np.log(2)
    return float(min(1.0, 2 * np.exp(logs).sum()))


def verdicts(runs: Sequence[Compared]) -> list[str]:
    """A sentence for each run after the first: whether it and the first differ by more than chance."""
    first, *others = runs
    tests = max(1, sum(one.digest == first.digest for one in others))
    return [_verdict(first, one, LEVEL / tests) for one in others]


def _verdict(first: Compared, other: Compared, level: float) -> str:
    if first.digest != other.digest:
        return f"{other.name} was tested on other data than {first.name}: their accuracies are not compared."
    pairs = ((one, int((one.right & ~two.right).sum())) for one, two in ((first, other), (other, first)))
    (better, more), (worse, fewer) = sorted(pairs, key=lambda pair: -pair[1])
    if not more:
        return f"{first.name} and {other.name} are right on the same samples: there is no difference."
    p = mcnemar(more, fewer)
    say = "more than chance explains" if p < level else "no more than chance explains"
    return (
        f"{better.name} alone is right on {more:,} samples, {worse.name} alone on {fewer:,}: {say}"
        f" (McNemar's exact test, p = {p:.2g}, against {level:.2g})."
    )


def differences(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs, each with its value in every run; "-" where a record has none."""
    tables = []
    for run in runs:
        own = {"data": run.record.get("source"), **{key: run.record.get(key) for key in ("device", "threads")}}
        tables.append({**dict(settings_of(run.record)), **own})
    labels = dict.fromkeys(label for table in tables for label in table)
    rows = [(str(label), [text_of(table.get(label)) or "-" for table in tables]) for label in labels]
    return [row for row in rows if len(set(row[1])) > 1]


def lines(runs: Sequence[Compared]) -> list[str]:
    """The comparison as text."""
    rows = [list(HEAD), *(run.row for run in runs)]
    changed = [["differs in", *(run.name for run in runs)], *([label, *values] for label, values in differences(runs))]
    return [*_columns(rows), *(_columns(changed) if len(changed) > 1 else ["settings: all equal"]), *verdicts(runs)]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows]
    return [
        f"{row[0]:<{widths[0]}}  {'  '.join(cut[1:])}".replace(NO_BREAK, " ")
        for row, cut in zip(rows, cells, strict=True)
    ]


def html(runs: Sequence[Compared]) -> str:
    """The comparison as one self-contained page. Raises ``ImportError`` without Jinja2."""
    histories = {run.name: run.history for run in runs if run.history}
    tested = all(row["test_loss"] is not None for history in histories.values() for row in history)
    part = "test" if tested else "train"
    charts = {}
    for quantity in pictures.QUANTITIES if histories else ():
        title = f"{pictures.SERIES[part]} {quantity}"
        figure = pictures.comparison(histories, f"{part}_{quantity}", pictures.THEMED)
        charts[title] = pictures.svg(figure, quantity, f"Line chart of the {title} of {', '.join(histories)}.")
    facts = {"runs": runs, "head": HEAD, "verdicts": verdicts(runs), "differences": differences(runs), "charts": charts}
    return render("comparison.html", facts)
