"""The pictures of a run: their contents, on white and in a page's colours."""

from __future__ import annotations

import io
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.support.small_runs import NEEDS_PLOT, findings_of, samples, train_run
from twostroke.cli import main
from twostroke.engine.mlp import MLP
from twostroke.errors import PACKAGES
from twostroke.runs.settings import Settings
from twostroke.show import pictures
from twostroke.show.findings import Findings

pytestmark = NEEDS_PLOT


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(train_run("pictures", tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings_of(train_run("many classes", tmp_path_factory.mktemp("run")))


def texts(figure: Any) -> list[str]:
    figure.canvas.draw()
    return [text.get_text() for axes in figure.axes for text in axes.findobj(match=type(axes.title))]


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", pictures.QUANTITIES)
def test_a_curve_goes_through_the_record_s_points_and_bears_its_name(quantity: str, found: Findings) -> None:
    figure = pictures.curve(found, quantity, pictures.PAPER)
    (axes,) = figure.axes
    assert {"training", "validation", "test"} <= set(texts(figure))
    for line, part in zip(axes.lines, ("train", "val", "test"), strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
        assert line.get_ydata().tolist() == [row[f"{part}_{quantity}"] for row in found.history]


def test_the_learning_rate_is_drawn_where_it_changes(found: Findings) -> None:
    assert pictures.quantities(found) == ["loss", "accuracy", "learning rate"]
    (axes,) = pictures.curve(found, "learning rate", pictures.PAPER).axes
    (line,) = axes.lines
    assert line.get_ydata().tolist() == [row["learning_rate"] for row in found.history]
    assert [one.get_title(loc="left") for one in pictures.curves(found).axes] == pictures.quantities(found)
    constant = replace(found, history=[row | {"learning_rate": 0.1} for row in found.history])
    assert pictures.quantities(constant) == ["loss", "accuracy"]
    assert len(pictures.curves(constant).axes) == 2


def test_pictures_name_classes_and_take_no_name_for_a_formula(found: Findings) -> None:
    names = ["$\\frac$ a", "$\\frac$ b", "$\\frac$ c", "a name $\\frac$ d"]
    named = replace(found, net=MLP([108, 4], classes=names))
    assert {*names[:3], "a name $\\fra…"} <= set(texts(pictures.matrix(named, pictures.PAPER)))
    first = named.mistakes[0]
    assert f"{names[first.label]} as {names[first.prediction]}" in texts(pictures.mistakes(named))
    assert {names[unit.number] for unit in named.units if unit.number < 4} <= set(
        texts(pictures.weights(replace(named, units=[unit for unit in named.units if unit.number < 4])))
    )


def test_curves_that_end_together_have_names_that_do_not_touch() -> None:
    parts = [f"{part}_{quantity}" for part in pictures.SERIES for quantity in pictures.QUANTITIES]
    history = [{"epoch": float(epoch), **dict.fromkeys(parts, 0.5)} for epoch in (1, 2)]
    figure = pictures._figure(4.4, 3)
    axes = figure.add_subplot()
    pictures.draw_curve(axes, history, "loss", pictures.PAPER)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 3
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])


def test_one_epoch_and_gaps_are_drawn_too() -> None:
    row = {f"{part}_{quantity}": None for part in pictures.SERIES for quantity in pictures.QUANTITIES}
    for history in ([{"epoch": 1.0, **row}], [{"epoch": 1.0, **row, "train_loss": 2.0}]):
        axes = pictures._figure(4, 3).add_subplot()
        pictures.draw_curve(axes, history, "loss", pictures.PAPER)
        assert len(axes.lines) == (1 if "train_loss" in history[0] and history[0]["train_loss"] else 0)


def test_the_matrix_shows_every_count(found: Findings, many: Findings) -> None:
    assert found.matrix is not None
    shown = texts(pictures.matrix(found, pictures.PAPER))
    for number in found.matrix.ravel():
        assert str(number) in shown
    assert len(texts(pictures.matrix(many, pictures.PAPER))) < 26 * 26  # no room for numbers


def test_the_files_are_pictures(found: Findings) -> None:
    figures = pictures.files(found)
    assert list(figures) == ["curves.png", "confusion.png", "mistakes.png", "weights.png"]
    for figure in figures.values():
        image = Image.open(io.BytesIO(pictures.png(figure)))
        assert image.size == tuple(int(150 * inches + 1e-6) for inches in figure.get_size_inches())
        assert len(np.unique(np.asarray(image.convert("L")))) > 20  # not an empty page


def test_what_cannot_be_shown_is_no_file(tmp_path: Path) -> None:
    found = findings_of(train_run("features", tmp_path))
    assert list(pictures.files(found)) == ["curves.png", "confusion.png"]


# --- in a page's colours -----------------------------------------------------------------------------------------


def drawn(found: Findings, name: str = "loss", words: str = "loss") -> str:
    return pictures.svg(pictures.curve(found, "loss", pictures.THEMED), name, words)


def test_an_svg_has_the_page_s_colours_and_none_of_its_own(found: Findings) -> None:
    text = drawn(found)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", text))
    assert colours == {"none", *(f"var(--{name})" for name in ("muted", "grid", *pictures.SERIES))}


def test_an_svg_stands_alone_and_says_what_it_shows(found: Findings) -> None:
    text = drawn(found, words='a "quoted" <b> & more')
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert root.get("aria-label") == 'a "quoted" <b> & more'
    assert root.get("role") == "img"
    assert "viewBox" in root.attrib
    links = [value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#loss-") for link in links)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "<!--" not in text
    assert "<metadata" not in text


def test_an_svg_s_identifiers_are_its_own_and_always_the_same(found: Findings) -> None:
    first, second = drawn(found, "one"), drawn(found, "two")
    ids = [set(re.findall(r'\bid="([^"]*)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert drawn(found, "one") == first


def test_the_matrix_of_many_classes_suits_both_schemes(many: Findings) -> None:
    text = pictures.svg(pictures.matrix(many, pictures.THEMED), "matrix", "matrix")
    assert "data:image/png;base64," in text
    assert not re.findall(r"(?:fill|stroke): #", text)


# --- images ------------------------------------------------------------------------------------------------------


def test_a_tint_is_signed_and_leaves_out_what_is_not_known() -> None:
    rgba = pictures.tint(np.array([[-1.0, 0.0], [0.5, np.nan]]))
    assert rgba[0, 0].tolist() == [*pictures.BLUE, 255]
    assert rgba[1, 0].tolist() == [*pictures.ORANGE, 128]
    assert rgba[0, 1, 3] == rgba[1, 1, 3] == 0


def test_samples_keep_their_bytes_and_floats_are_stretched(found: Findings, tmp_path: Path) -> None:
    images = pictures.sample_images(found)
    first = found.mistakes[0].index
    assert np.array_equal(images[0].ravel(), samples("pictures").test_images[first])
    wide = findings_of(train_run("wide pictures", tmp_path))
    stretched = np.stack(pictures.sample_images(wide))
    assert (str(stretched.dtype), stretched.shape[1:]) == ("uint8", (3, 40))
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_images_of_one_value_and_none_at_all(tmp_path: Path) -> None:
    found = findings_of(train_run("no mistakes", tmp_path))
    assert found.errors == 0
    assert pictures.sample_images(found) == []
    assert "mistakes.png" not in pictures.files(found)


@pytest.mark.parametrize("shape", [(2, 2), (28, 28), (1000, 3), (3, 1000), (500, 400, 4)])
def test_an_image_is_no_larger_than_it_is_shown(shape: tuple[int, ...]) -> None:
    image = Image.open(io.BytesIO(pictures.image_png(np.zeros(shape, np.uint8))))
    assert max(image.size) == min(max(shape[:2]), pictures.THUMBNAIL)


# --- without the extra -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", PACKAGES["plot"])
def test_without_the_extra_nothing_is_trained(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(Settings, "load", lambda _: pytest.fail("data was read"))
    assert main(["train", "--report", "--out", str(tmp_path / "run")]) == 2
    command = f"{shlex.quote(sys.executable)} -m pip install 'twostroke[plot]'"
    line = f"error: --report needs {missing}. Install with: {command}.\n"
    assert capsys.readouterr() == ("", line)
    assert not (tmp_path / "run").exists()
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == line.replace("--report", "twostroke report")
