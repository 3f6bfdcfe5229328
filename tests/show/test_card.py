"""The card of a run: its size, and what it shows."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.small_runs import NEEDS_PLOT, findings_of, samples, train_run
from twostroke.cli import main
from twostroke.show import card as module
from twostroke.show.card import card
from twostroke.show.findings import Findings

pytestmark = NEEDS_PLOT


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run("pictures", tmp_path_factory.mktemp("run"))


def figure_of(found: Findings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The figure that ``card`` draws."""
    from matplotlib.figure import Figure

    made: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *words: Any, **options: Any) -> None:
        made.append(figure)
        save(figure, *words, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    image = Image.open(io.BytesIO(card(found)))
    assert image.size == (1200, 630)
    return made[0]


def test_it_tells_the_run_and_shows_the_first_pictures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_of(run)
    figure = figure_of(found, monkeypatch)
    texts = " | ".join(text.get_text() for text in figure.texts).replace("\xa0", " ")
    low, high = (f"{100 * end:.0f} %" for end in found.interval)
    words = [
        "small",
        f"{100 * found.result.accuracy:.0f} % |",
        "of 200 test samples",
        f"95 % interval: {low} to {high}",
    ]
    for word in (*words, "108-20-4, 2,264 parameters", "6 epochs", "samples/s, on cpu", "twostroke"):
        assert word in texts
    curve, *shown = figure.axes
    assert len(curve.lines) == 3
    assert len(shown) == module.SHOWN
    red = set()
    for place, axes in enumerate(shown):
        assert np.array_equal(axes.images[0].get_array().ravel(), samples("pictures").test_images[place])
        assert axes.get_xlabel() == found.names[found.predictions[place]]
        if axes.xaxis.label.get_color() == module.RED:
            red.add(place)
    first = slice(module.SHOWN)
    assert red == set(np.flatnonzero(found.predictions[first] != found.data.test_labels[first]).tolist())


def test_no_text_reaches_the_curve_and_none_is_a_formula(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings_of(run)
    named = replace(found, data=replace(found.data, name="$\\frac a name\n" * 9), record={}, history=[])
    figure = figure_of(named, monkeypatch)
    assert figure.texts[0].get_text().startswith("$\\frac a name\\n")
    assert figure.texts[0].get_text().endswith("\N{HORIZONTAL ELLIPSIS}")
    assert max(text.get_window_extent().x1 for text in figure.texts[:-1]) < 0.55 * 1200


def test_samples_that_are_no_pictures_leave_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(figure_of(findings_of(train_run("features", tmp_path)), monkeypatch).axes) == 1


def test_the_command_writes_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "card.png"
    assert main(["report", str(run), "--card", str(file), "--out", str(tmp_path / "page")]) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[0], err) == (f"card: {file}", "")
    with Image.open(file) as image:
        assert image.size == (1200, 630)


REFUSALS = [(["--card", "a.jpg"], "the card is a PNG file: --card: found a.jpg, expected FILE.png"),
            (["--card", "{run}/x.png"], "a folder is in the place of the card"),
            (["{run}/..", "--card", "a.png"], "--card is for one run: found 2 runs")]  # fmt: skip


@pytest.mark.parametrize(("words", "line"), REFUSALS)
def test_a_refusal_is_one_line(words: list[str], line: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "x.png").mkdir(exist_ok=True)
    assert main(["report", str(run), *(word.format(run=run) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert line in err
