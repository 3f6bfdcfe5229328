"""The page of a run: complete, escaped, without requests, and with a line for everything left out."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_runs import KINDS, NEEDS_PLOT, findings_of, samples, train_run
from twostroke.cli import main
from twostroke.engine.training import EpochRecord
from twostroke.runs.record import read_record, repeat_words
from twostroke.runs.settings import SETTINGS
from twostroke.show import page
from twostroke.show.findings import Findings, examine
from twostroke.show.judgement import of_samples, repetition

pytestmark = NEEDS_PLOT

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Every element with its attributes, and all text outside of ``<style>``; tags must nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = re.sub(r"[ \n]+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: train_run(kind, tmp_path_factory.mktemp("run"), "--report") for kind in KINDS}


@pytest.fixture(scope="module")
def pages(runs: dict[str, Path]) -> dict[str, Reader]:
    return {kind: Reader((run / "report.html").read_text(encoding="utf-8")) for kind, run in runs.items()}


@pytest.fixture(scope="module")
def found(runs: dict[str, Path]) -> Findings:
    return findings_of(runs["pictures"])


# --- every page --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_for_nothing_and_runs_nothing(kind: str, runs: dict[str, Path], pages: dict[str, Reader]) -> None:
    reader = pages[kind]
    assert not {tag for tag, _ in reader.elements} & {"script", "iframe", "object", "embed", "form", "base"}
    (policy,) = [one["content"] or "" for one in reader.all("meta") if one.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "script" not in policy
    for tag, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in {"src", "href", "xlink:href", "srcset", "action"} & attributes.keys():
            assert (attributes[name] or "").startswith(("data:", "#")), tag
    text = (runs[kind] / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"url\((?!#)|@import", text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_read_aloud(kind: str, pages: dict[str, Reader]) -> None:
    reader = pages[kind]
    headings = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h\d", tag)]
    assert headings == [1, 2, 2, 2, 2, 2, 2, 2]
    assert reader.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in reader.all("img"))
    assert all(picture.get("aria-label") for picture in reader.all("svg"))
    assert all(cell.get("scope") in ("row", "col") for cell in reader.all("th"))
    assert len(reader.all("caption")) == len(reader.all("table")) > 0
    ids = Counter(attributes["id"] for _, attributes in reader.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    for section in reader.all("section"):
        assert section["aria-labelledby"] in ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_tells_the_run_s_story(kind: str, runs: dict[str, Path], pages: dict[str, Reader]) -> None:
    text, found = pages[kind].text, read_record(runs[kind] / "record.json")
    count = len(samples(kind).test_labels)
    assert f"small {of_samples(found['test_accuracy'], count)} of {count} test samples" in text
    for value in (found["reason"], found["machine"]["processor"], *found["versions"].values(), found["source"]):
        assert str(value) in text
    for value in (found["optimizer"], found["activation"], found["loss"], f"{found['samples_per_second']:,.0f}"):
        assert value in text
    command = re.sub(r"[ \n]+", " ", text[text.index("twostroke train") :])
    assert command.startswith(" ".join(repeat_words(found)))
    assert len(pages[kind].all("svg")) == (4 if kind == "many classes" else 3)
    assert repetition(found) in text


def test_pictures_are_shown_and_numbered(found: Findings, pages: dict[str, Reader]) -> None:
    alts = [image["alt"] for image in pages["pictures"].all("img")]
    assert len(alts) == len(found.mistakes) + len(found.units)
    one = found.mistakes[0]
    assert alts[0] == f"Test sample {one.index}: a {one.label}, taken for {one.prediction}"


def test_the_matrix_is_a_table_of_all_counts(found: Findings, runs: dict[str, Path]) -> None:
    assert found.matrix is not None
    text = (runs["pictures"] / "report.html").read_text(encoding="utf-8")
    table = text[text.index('<table class="matrix') :]
    table = table[: table.index("</table>")]
    rows = [re.findall(r"<td[^>]*>(\d+)</td>", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    assert [[int(cell) for cell in row] for row in rows if row] == found.matrix.tolist()


def test_what_cannot_be_shown_is_left_out_with_a_line(pages: dict[str, Reader]) -> None:
    features = pages["features"]
    assert not features.all("img")
    assert "Pictures are left out: the samples are 7 features, not images." in features.text
    assert "Left out: the samples are 7 features, not images." in features.text
    assert "There are none." in pages["no mistakes"].text
    assert "No mistakes: every test sample is right." in pages["no mistakes"].text
    assert "100.0\xa0%" in pages["no mistakes"].text


def test_a_page_is_made_of_the_run_s_files_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    """``twostroke report`` writes the page that ``train --report`` wrote."""
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert main(["report", str(runs["pictures"]), "--out", str(folder), "--device", "cpu", "--threads", "1"]) == 0
        text = (folder / "report.html").read_text(encoding="utf-8")
        assert text == (runs["pictures"] / "report.html").read_text(encoding="utf-8")


# --- files of others ---------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}{% raw %}"


def test_a_data_set_s_name_is_text(tmp_path: Path) -> None:
    name = "<script>alert(1)<&\"'{{ 7 * 7 }}.npz"
    text = (train_run("features", tmp_path, "--report", data=name) / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<title>&lt;script&gt;alert(1)&lt;&amp;&#34;&#39;{{ 7 * 7 }}: " in text


def test_a_name_that_is_no_text_makes_a_page(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\x01\n.npz")
    text = (train_run("features", tmp_path, "--report", data=name) / "report.html").read_text(encoding="utf-8")
    assert "\\udcff" in Reader(text).text


def poisoned(value: Any) -> Any:
    """A record with every text and every key replaced by markup; numbers are kept."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()} | {EVIL: EVIL}
    return [poisoned(item) for item in value] if isinstance(value, list) else EVIL if isinstance(value, str) else value


def test_every_text_of_a_record_is_text(found: Findings) -> None:
    evil = page.html(replace(found, record=poisoned(found.record)), [EVIL])
    reader = Reader(evil)
    assert "<script" not in evil
    assert not {tag for tag, _ in reader.elements} & {"script", "x"}
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in reader.all("img"))
    assert reader.text.count("<script>alert(1)</script>") >= 10
    assert "{{ 7 * 7 }}" in reader.text


def test_a_record_of_nothing_makes_a_page(found: Findings) -> None:
    reader = Reader(page.html(replace(found, record={}, history=[]), []))
    for line in (
        "the record holds no epochs",
        "the record lacks a setting, or the path of the data",
        "not recorded",
    ):
        assert line in reader.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    *("epochs", "train_seconds", "samples_per_second", "machine", "versions", "finished", "test_accuracy", "history"),
    *("source", "threads", "reason", "device", "unheard_of", *SETTINGS),
]
EPOCHS = st.lists(st.dictionaries(st.sampled_from(list(EpochRecord.__annotations__)), JSON), max_size=4)


@settings(max_examples=25)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6) | st.fixed_dictionaries({"history": EPOCHS}))
def test_any_json_for_a_record_makes_a_page(changes: dict[str, Any], found: Findings) -> None:
    bad = dict(found.record) | json.loads(json.dumps(changes))
    other = examine(bad, found.net, found.data)
    Reader(page.html(other, repeat_words(bad)))


def test_other_data_than_the_run_s_are_said(runs: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    other.write_bytes((runs["pictures"].parent / "small.npz").read_bytes())
    found = read_record(runs["pictures"] / "record.json")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes((runs["pictures"] / "model.safetensors").read_bytes())
    (tmp_path / "run" / "record.json").write_text(json.dumps(found | {"test_accuracy": 0.125, "source": "gone"}))
    assert main(["report", str(tmp_path / "run"), "--data", str(other)]) == 0
    text = Reader((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "The record of the run says 12\xa0%, on small." in text


# --- the command -------------------------------------------------------------------------------------------------


def test_pictures_are_written_on_request(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs["features"]), "--png", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    names = ["report.html", "curves.png", "confusion.png"]
    judgement, *places = out.splitlines()
    assert judgement.startswith("Training ")
    assert judgement in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [line.rpartition("/")[2] for line in places] == names
    assert err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_report_leaves_stdout_to_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("features", tmp_path, "--report", "--json")
    assert json.loads(capsys.readouterr().out) == read_record(run / "record.json")
    assert sorted(path.name for path in run.iterdir()) == ["model.safetensors", "record.json", "report.html"]


REFUSALS: list[tuple[list[str], int, str]] = [
    (["{tmp}/none"], 5, "no record of a run: {tmp}/none/record.json: found No such file"),
    (["{run}", "--data", "{tmp}/none.npz"], 4, "no such data set"),
    (["{run}", "--data", "mnist"], 5, "the network does not fit the data: {run}/model.safetensors: found "),
    (["{run}", "--out", "{run}/record.json"], 2, "cannot write to the output folder: --out"),
    (["{run}", "--device", "tpu"], 2, "--device"),
]


@pytest.mark.parametrize(("words", "code", "line"), REFUSALS, ids=str)
def test_a_refusal_is_one_line(
    words: list[str], code: int, line: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": runs["features"], "tmp": tmp_path}
    assert main(["report", *(word.format(**places) for word in words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert line.format(**places) in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_record_without_a_source_asks_for_data(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.safetensors").write_bytes((runs["features"] / "model.safetensors").read_bytes())
    (tmp_path / "record.json").write_text("{}")
    assert main(["report", str(tmp_path)]) == 2
    assert "Add --data mnist|PATH." in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--data", str(runs["features"].parent / "small.npz")]) == 0


def test_a_fault_while_writing_leaves_the_old_page(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("twostroke.files.atomic_file.os.replace", full)
    assert main(["report", str(runs["features"]), "--out", str(tmp_path)]) == 2
    assert "report.html: found No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


# --- numbers as text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (123456.7, "123,457"), (0.0625312, "0.06253"), (4, "4"), (True, "True"), ("x", "x")]
)
def test_numbers_keep_what_counts(value: Any, text: str) -> None:
    assert page.significant(value) == text


def test_only_probabilities_are_percentages() -> None:
    assert page.confidence(0.5, "softmax") == page.confidence(0.5, "sigmoid") == "50.00\xa0%"
    assert page.confidence(1.25, "relu") == "output 1.25"
