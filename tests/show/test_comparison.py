"""Runs compared: McNemar's test against SciPy's, what differs, and what is not compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.support.browser import Browser
from tests.support.small_runs import NEEDS_PLOT, train_run
from twostroke.cli import main
from twostroke.show import comparison, pictures
from twostroke.show.comparison import Compared, differences, mcnemar, verdicts

pytestmark = NEEDS_PLOT


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (0, 1), (0, 5), (0, 6), (3, 3), (1, 9), (12, 30), (400, 470), (5000, 5200), (200_000, 201_000)]
)
def test_the_test_is_the_exact_binomial_one(b: int, c: int) -> None:
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(expected, rel=1e-7)


def run(name: str, wrong: range, digest: str = "same", **record: Any) -> Compared:
    """A run that is wrong on some of 100 samples."""
    right = np.ones(100, bool)
    right[list(wrong)] = False
    return Compared(name, record, [], 9, 0.5, right, digest)


def test_a_difference_is_said_in_words() -> None:
    a, b, c = run("a", range(2)), run("b", range(2, 14)), run("c", range(2, 10))
    says = "a alone is right on 12 samples, b alone on 2: more than chance explains (McNemar's exact test, p = 0.013"
    assert verdicts([a, b]) == [f"{says}, against 0.05)."]
    assert verdicts([b, a])[0].startswith("a alone is right on 12 samples, b alone on 2: more than")
    # Six alone would be as likely among more comparisons: each of three has a third of the level.
    assert "a alone is right on 8 samples, c alone on 2: no more than chance explains" in verdicts([a, c])[0]
    assert verdicts([a, b, c, c])[0].endswith("against 0.017).")
    assert "more than chance explains" in verdicts([run("x", range(0)), run("y", range(6))])[0]
    assert "no more than chance" in verdicts([run("x", range(0)), run("y", range(6)), run("z", range(6))])[0]
    assert verdicts([a, a]) == ["a and a are right on the same samples: there is no difference."]


def test_other_data_are_said_and_not_compared() -> None:
    other = run("b", range(50), digest="other")
    said = verdicts([run("a", range(2)), other, run("c", range(2, 14))])
    assert said[0] == "b was tested on other data than a: their accuracies are not compared."
    assert said[1].endswith("against 0.05).")  # one test is made


def test_only_what_differs_is_listed() -> None:
    one = run("a", range(2), learning_rate=0.1, epochs=3, seed=0, source="x.npz", device="cpu")
    other = run("b", range(2), learning_rate=0.1, epochs=4, source="x.npz", device="cuda:0")
    assert dict(differences([one, other])) == {"epochs": ["3", "4"], "seed": ["0", "-"], "device": ["cpu", "cuda:0"]}
    assert "settings: all equal" in comparison.lines([one, one])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same data, one on other data."""
    folder = tmp_path_factory.mktemp("runs")
    first = train_run("pictures", folder)
    shutil.copytree(first, folder / "first")
    train_run("pictures", folder, "--epochs", "2", "--lr", "0.001").rename(folder / "short")
    other = train_run("features", tmp_path_factory.mktemp("other"))
    return [folder / "first", folder / "short", other]


def test_the_command_compares_runs(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *map(str, runs), "--out", str(tmp_path), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert err == ""
    assert [line[0] for line in lines[:4]] == ["run", "first", "short", "run"]
    for folder, line in zip(runs, lines[1:], strict=False):
        found = json.loads((folder / "record.json").read_text())
        errors = round(200 * (1 - found["test_accuracy"]))
        assert f"{errors} of 200" in " ".join(line)
        assert f"{errors} of 200" in text
        assert f"{found['samples_per_second']:,.0f}" in text
    assert "was tested on other data than first" in out
    assert "McNemar" in text
    assert text.count("<svg") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.html"]


def test_each_chart_holds_every_run(runs: list[Path]) -> None:
    histories = {f"run {k}": [{"epoch": 1, "test_loss": k}, {"epoch": 2, "test_loss": k / 2}] for k in range(8)}
    (axes,) = pictures.comparison(histories, "test_loss", pictures.PAPER).axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[k, k / 2] for k in range(8)]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 8
    assert {text.get_text() for text in axes.texts} == set(histories)


REFUSALS: list[tuple[list[str], int, str]] = [
    (["{a}", "{a}/../first"], 2, "one run is named twice: RUN: found {a} and "),
    (["{a}", "{a}/none"], 5, "no record of a run: {a}/none/record.json"),
    (["{a}", "{b}", "--png"], 2, "--png is for one run"),
    (["{a}", "{b}", *(f"r{k}" for k in range(11))], 2, "too many runs: RUN: found 13, expected <= 12"),
]


@pytest.mark.parametrize(("words", "code", "line"), REFUSALS, ids=str)
def test_a_refusal_is_one_line(
    words: list[str], code: int, line: str, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"a": str(runs[0]), "b": str(runs[1])}
    assert main(["report", *(word.format(**places) for word in words)]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert line.format(**places) in err
    assert not (runs[0] / "comparison.html").exists()


def test_a_run_without_a_model_is_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(runs[0] / "record.json", tmp_path)
    assert main(["report", str(runs[0]), str(tmp_path)]) == 5
    err = capsys.readouterr().err
    assert f"{tmp_path}/model.safetensors" in err
    assert err.count("\n") == 1


def test_every_text_is_escaped_and_nothing_is_needed() -> None:
    evil = "<script>alert(1)</script>"
    one = run(evil, range(2), source=evil, **{evil: evil})
    text = comparison.html([one, replace(run("b", range(3)), digest="x")])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 4
    assert "the records hold no epochs" in text


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_in_a_browser(width: int, dark: bool, runs: list[Path], tmp_path: Path, browser: Browser) -> None:
    assert main(["report", *map(str, runs), "--out", str(tmp_path)]) == 0
    page = tmp_path / "comparison.html"
    browser.open(page, width=width, dark=dark)
    assert browser.requests == [page.as_uri()]
    assert browser.overflow() == []
    assert browser.contrasts()[0][0] >= 4.5
    browser.require_clean(page.as_uri())
