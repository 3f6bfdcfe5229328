"""``twostroke draw`` in a real Chromium: predictions at every width, in both colour schemes, with every pointer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke
from tests.support.browser import Browser
from twostroke.backend import select_backend
from twostroke.data.dataset import load_dataset
from twostroke.engine.config import TrainConfig
from twostroke.engine.mlp import MLP
from twostroke.engine.training import train
from twostroke.models.model_file import load_model, save_model

pytestmark = pytest.mark.skipif(
    util.find_spec("waitress") is None, reason="waitress is not installed: pip install 'twostroke[draw]'"
)
LOOKS = [(390, False), (390, True), (1280, False), (1280, True)]
Point = tuple[float, float]
# Strokes, as shares of the field: people's hands, more or less.
STROKES: dict[str, list[list[Point]]] = {
    "0": [[(0.5, 0.16), (0.34, 0.28), (0.29, 0.5), (0.36, 0.74), (0.52, 0.82),
           (0.67, 0.7), (0.7, 0.48), (0.64, 0.26), (0.5, 0.16)]],
    "1": [[(0.52, 0.15), (0.5, 0.4), (0.49, 0.6), (0.47, 0.85)]],
    "2": [[(0.3, 0.3), (0.4, 0.18), (0.56, 0.17), (0.66, 0.3), (0.6, 0.46),
           (0.45, 0.64), (0.3, 0.8), (0.5, 0.79), (0.72, 0.78)]],
    "4": [[(0.36, 0.18), (0.33, 0.34), (0.31, 0.5), (0.5, 0.5), (0.7, 0.48)], [(0.66, 0.2), (0.63, 0.5), (0.6, 0.84)]],
    "7": [[(0.26, 0.22), (0.5, 0.21), (0.72, 0.2), (0.7, 0.24), (0.58, 0.5), (0.46, 0.84)]],
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network good enough for a plain digit."""
    net = MLP([784, 64, 10], backend=select_backend("cpu", 1))
    list(train(net, load_dataset("mnist"), TrainConfig(epochs=2, evaluate_test=False)))
    return save_model(net, tmp_path_factory.mktemp("draw") / "digits.safetensors")


@contextmanager
def served(model: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, with warnings as errors, and the address of its page; its stderr must stay empty."""
    environment = os.environ | {"PYTHONPATH": str(Path(twostroke.__file__).parents[1]), "PYTHONWARNINGS": "error"}
    run = [sys.executable, "-m", "twostroke", "draw", str(model), "--no-browser", "--port", "0", *words]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    try:
        urls = [re.fullmatch(r"page: (\S+)/\n", process.stdout.readline()) for _ in range(3)]
        yield process, next(url[1] for url in urls if url)
    finally:
        process.terminate()
        _, complaints = process.communicate(timeout=20)
    assert complaints == "stopped by SIGTERM\n"


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    with served(model) as (_, url):
        yield url


def wait(true: Callable[[], Any]) -> Any:
    """Wait until ``true()`` is true and return it."""
    end = time.monotonic() + 10
    while not (found := true()):
        assert time.monotonic() < end, "it did not happen within ten seconds"
        time.sleep(0.02)
    return found


def open_page(browser: Browser, url: str, width: int = 1280, dark: bool = False) -> None:
    browser.open(f"{url}/", width=width, height=844 if width < 600 else 800, dark=dark)
    wait(lambda: browser.run("return document.querySelectorAll('#bars li').length"))


def draw(browser: Browser, strokes: Sequence[Sequence[Point]], kind: str = "mouse") -> None:
    box = browser.box("#field")
    for points in strokes:
        at = [(round(box["x"] + x * box["width"]), round(box["y"] + y * box["height"])) for x, y in points]
        browser.stroke(at, kind=kind)
    wait(lambda: browser.run("return !painting && !asking && asked === drawing"))


def values(browser: Browser) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll('#bars .value')].map(e => e.textContent)"))


def inked(browser: Browser, selector: str) -> int:
    """How many pixels of a canvas are not empty."""
    script = """
        const canvas = document.querySelector(arguments[0]), {width, height} = canvas;
        const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        return pixels.filter((v, k) => k % 4 === 3 && v > 0).length"""
    return int(browser.run(script, selector))


@pytest.mark.parametrize(("width", "dark"), LOOKS, ids=str)
def test_the_page_in_a_browser(width: int, dark: bool, url: str, browser: Browser) -> None:
    """Empty and drawn on: nothing logged or requested, no wider than its window, readable, all controls visible."""
    open_page(browser, url, width, dark)
    assert browser.run("return matchMedia('(prefers-color-scheme: dark)').matches") is dark
    for state in ("empty", "drawn"):
        if state == "drawn":
            draw(browser, STROKES["2"])
            assert browser.find("#top").text == "2"
        assert browser.overflow() == []
        contrasts = browser.contrasts()
        assert len(contrasts) > 15
        assert contrasts[0][0] >= 4.5, contrasts[:5]
        bottom = browser.run("return document.querySelector('#image').getBoundingClientRect().bottom + scrollY")
        assert bottom <= browser.run("return innerHeight")
    browser.require_clean(f"{url}/")
    assert set(browser.requests) == {f"{url}/", f"{url}/network", f"{url}/read"}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("digit", STROKES)
def test_what_is_drawn_is_read(digit: str, width: int, url: str, browser: Browser) -> None:
    open_page(browser, url, width)
    draw(browser, STROKES[digit])
    assert browser.find("#top").text == digit
    assert browser.find("#bars .best").text.split()[0] == digit
    assert re.match(r"with (> )?\d+\.\d\s%\.", browser.find("#words").text)
    shares = browser.run("return shown.outputs")
    assert int(np.argmax(shares)) == int(digit)
    scales = browser.run("""
        return [...document.querySelectorAll('#bars i')].map(e => {
          e.style.transition = 'none';
          return e.getBoundingClientRect().width / e.parentNode.getBoundingClientRect().width;
        })""")
    assert np.allclose(scales, shares, atol=0.01)
    browser.require_clean(f"{url}/")


def test_the_image_shown_is_what_the_network_gets(url: str, model: Path, browser: Browser) -> None:
    """The network computes the numbers on the page from the pixels on the page."""
    open_page(browser, url)
    draw(browser, STROKES["4"])
    alphas = browser.run("""
        const pixels = document.querySelector('#image').getContext('2d').getImageData(0, 0, 28, 28).data;
        return [...pixels.filter((v, k) => k % 4 === 3)]""")
    image = np.array(alphas, np.uint8)[None]
    rows, columns = np.nonzero(image.reshape(28, 28))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    outputs = load_model(model, backend=select_backend("cpu", 1)).predict_proba(image)[0]
    assert browser.run("return shown.outputs") == outputs.tolist()


def test_the_answer_changes_while_one_draws(url: str, browser: Browser) -> None:
    """The page predicts while the pointer is still down."""
    open_page(browser, url)
    box = browser.box("#field")
    for k, (x, y) in enumerate(STROKES["7"][0]):
        place = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "button": "left", "buttons": 1}
        kind = "mouseMoved" if k else "mousePressed"
        browser.cdp("Input.dispatchMouseEvent", {"type": kind, "clickCount": 1, **place})
        if k == 2:
            before = wait(lambda: browser.run("return shown && shown.outputs"))
    wait(lambda: browser.find("#top").text == "7")
    assert browser.run("return pointer !== null")
    assert browser.run("return shown.outputs") != before
    browser.cdp("Input.dispatchMouseEvent", {"type": "mouseReleased", "clickCount": 1, **place})


@pytest.mark.parametrize("kind", ["touch", "pen"])
def test_fingers_and_pens_draw(kind: str, url: str, browser: Browser) -> None:
    open_page(browser, url, 390)
    draw(browser, STROKES["1"], kind)
    assert browser.find("#top").text == "1"
    assert browser.run("return scrollY") == 0
    assert browser.run("return getComputedStyle(document.querySelector('#field')).touchAction") == "none"


def test_clear_and_undo_by_button_and_by_key(url: str, browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, url)
    undo, clear, body = browser.find("#undo"), browser.find("#clear"), browser.find("body")
    assert not undo.is_enabled()
    assert not clear.is_enabled()

    def empty() -> bool:
        return browser.find("#top").text == "–" and not any(values(browser)) and not inked(browser, "#image")

    assert empty()
    for act in (clear.click, lambda: clear.send_keys(Keys.ENTER), lambda: clear.send_keys(Keys.SPACE),
                lambda: body.send_keys(Keys.ESCAPE)):  # fmt: skip
        draw(browser, STROKES["4"])
        assert clear.is_enabled()
        assert inked(browser, "#field") > 1000
        act()
        wait(empty)
        wait(lambda: not inked(browser, "#field"))
    for act in (undo.click, lambda: body.send_keys(Keys.CONTROL, "z")):
        draw(browser, STROKES["1"])
        one = browser.run("return shown.outputs")
        draw(browser, STROKES["7"])
        assert browser.run("return shown.outputs") != one
        act()
        wait(lambda: browser.run("return shown.outputs") == one)  # noqa: B023
        clear.click()
        wait(empty)
    # The keyboard reaches the buttons, and shows where it is.
    draw(browser, STROKES["1"])
    body.send_keys(Keys.TAB)
    assert browser.run("return document.activeElement.id") in ("undo", "clear")
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_drawing_follows_the_scheme_and_the_width(url: str, browser: Browser) -> None:
    script = """
        const canvas = document.querySelector(arguments[0]), {width, height} = canvas;
        const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        const k = pixels.findIndex((v, k) => k % 4 === 3 && v === 255);
        return k < 0 ? null : [...pixels.slice(k - 3, k)]"""
    open_page(browser, url)
    draw(browser, STROKES["0"])
    outputs = browser.run("return shown.outputs")
    for selector in ("#field", "#image"):
        browser.look(width=1280)
        wait(lambda: max(browser.run(script, selector)) < 80)  # noqa: B023
        browser.look(width=390, dark=True)
        wait(lambda: min(browser.run(script, selector)) > 180)  # noqa: B023
    assert browser.overflow() == []
    browser.run("changed()")
    wait(lambda: browser.run("return !painting && !asking && asked === drawing"))
    assert browser.run("return shown.outputs") == outputs


def test_names_of_classes_are_text(model: Path, browser: Browser) -> None:
    """Markup in a name is escaped, and long names fit."""
    names = ["<img src=x onerror=document.title='owned'>", "one hundred and twenty-three", *"23456789"]
    with served(model, "--classes", ",".join(names)) as (_, url):
        for width in (390, 1280):
            open_page(browser, url, width)
            draw(browser, STROKES["1"])
            assert browser.find("#top").text == names[1]
            assert browser.overflow() == []
        assert names[0] in browser.find("#bars").text
        assert browser.run("return document.images.length") == 0
        assert browser.run("return document.title") == "Draw · twostroke"
        browser.require_clean(f"{url}/")


def test_it_says_so_when_nobody_answers(model: Path, browser: Browser) -> None:
    with served(model) as (process, url):
        open_page(browser, url)
        process.terminate()
        process.wait(20)
        draw(browser, STROKES["1"])
        assert "twostroke draw has ended" in browser.find("#trouble").text
        assert browser.find("#trouble").get_attribute("role") == "alert"
        with pytest.raises(AssertionError, match="ERR_CONNECTION_REFUSED"):
            browser.require_clean(f"{url}/")


def test_another_page_gets_nothing(url: str, tmp_path: Path, browser: Browser) -> None:
    """A page of another origin (a file) can neither read the facts, nor send a drawing, nor frame the page."""
    page = tmp_path / "evil.html"
    page.write_text(f"<iframe src='{url}/'></iframe>", encoding="utf-8")
    browser.open(page)
    script = """
        const [url, done] = arguments;
        const body = new Uint8Array(280 * 280).fill(255, 0, 9000);
        Promise.allSettled([
          fetch(url + '/network').then(r => r.text()),
          fetch(url + '/read', {method: 'POST', body, headers: {'Content-Type': 'application/octet-stream'}}),
          fetch(url + '/read', {method: 'POST', body, mode: 'no-cors'}).then(r => r.type),
        ]).then(all => done(all.map(one => one.status === 'fulfilled' ? one.value : 'refused')));"""
    found = browser.driver.execute_async_script(script, url)
    assert found[:2] == ["refused", "refused"]
    assert found[2] in ("refused", "opaque")
    browser.collect()
    assert any("frame" in line for line in browser.console)
