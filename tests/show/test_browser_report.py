"""A page in a real Chromium: nothing logged or requested, no wider than its window, readable in both schemes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import Browser
from tests.support.small_runs import KINDS, NEEDS_PLOT, train_run

pytestmark = NEEDS_PLOT

LOOKS = [(390, False), (390, True), (1280, False), (1280, True)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: train_run(kind, tmp_path_factory.mktemp("run"), "--report") / "report.html" for kind in KINDS}


@pytest.mark.parametrize(("width", "dark"), LOOKS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_in_a_browser(kind: str, width: int, dark: bool, runs: dict[str, Path], browser: Browser) -> None:
    browser.open(runs[kind], width=width, dark=dark)
    assert browser.run("return matchMedia('(prefers-color-scheme: dark)').matches") is dark
    assert browser.requests == [runs[kind].as_uri()]
    browser.run("document.querySelector('details').open = true")
    assert browser.overflow() == []
    contrasts = browser.contrasts()
    assert len(contrasts) > 60
    assert contrasts[0][0] >= 4.5, contrasts[:5]
    broken = "return [...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert browser.run(broken) == 0
    browser.require_clean(runs[kind].as_uri())


def test_the_curves_take_the_page_s_colours(runs: dict[str, Path], browser: Browser) -> None:
    script = "return [...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill)"
    seen = []
    for dark in (False, True):
        browser.open(runs["pictures"], dark=dark)
        seen.append(set(browser.run(script)))
    assert all(len(colours) == 4 for colours in seen)  # muted, and one for each curve
    assert not seen[0] & seen[1]


def test_a_curve_s_text_is_large_enough_on_a_telephone(runs: dict[str, Path], browser: Browser) -> None:
    browser.open(runs["pictures"], width=390)
    script = "return Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))"
    assert browser.run(script) >= 9


def test_markup_in_a_data_set_s_name_does_nothing(tmp_path: Path, browser: Browser) -> None:
    name = "<img src=x onerror=document.title='owned'><script>document.title='owned'<.npz"
    report = train_run("features", tmp_path, "--report", data=name) / "report.html"
    browser.open(report)
    assert "onerror=document.title='owned'" in browser.find("h1").text
    assert browser.run("return document.title").startswith("<img src=x")
    assert browser.run("return document.images.length") == 0
    browser.require_clean(report.as_uri())


FAULTS = {
    "a request": "<img src='http://twostroke.invalid/x.png' alt=''>",
    "a script": "<script>console.error('loud')</script>",
    "too wide": "<div style='width: 2000px'>wide</div>",
    "faint": "<p style='color: #999; background: #fff'>faint</p>",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checks_see_a_fault(fault: str, runs: dict[str, Path], browser: Browser, tmp_path: Path) -> None:
    """The Content-Security-Policy stops the first two, and the browser logs it."""
    bad = tmp_path / "report.html"
    bad.write_text(runs["features"].read_text(encoding="utf-8").replace("</main>", f"{FAULTS[fault]}</main>"))
    browser.open(bad, width=390)
    if fault == "too wide":
        assert "DIV.null" in browser.overflow()
    elif fault == "faint":
        assert browser.contrasts()[0][0] < 4.5
    else:
        with pytest.raises(AssertionError, match="Content Security Policy"):
            browser.require_clean(bad.as_uri())
    asked = ["http://twostroke.invalid/x.png"] if fault == "a request" else []  # the policy ends it, but it is seen
    assert browser.requests == [bad.as_uri(), *asked]
