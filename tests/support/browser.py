"""A real Chromium for tests of pages: ``browser`` loads them, draws on them, and notes what they log and request.

It needs Debian's ``chromium`` and ``chromium-driver`` (or Chrome and its driver) and Selenium. A test without them is
skipped with the reason; REQUIRE_BROWSER=1 makes that a failure.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

# Nothing but pages: no first-run tour, no updates, no sync, and no host name leads anywhere but here.
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
# The contrast (WCAG 2.1, 1.4.3) of every text with what is painted below it, by the browser's own mixing of colours.
CONTRAST = """
const painter = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const paint = colours => {
  for (const colour of colours) { painter.fillStyle = colour; painter.fillRect(0, 0, 1, 1); }
  return [...painter.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255);
};
const luminance = rgb => rgb.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const found = [];
for (const element of document.body.querySelectorAll('*')) {
  const words = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
  if (!words || !element.getClientRects().length) continue;
  const style = getComputedStyle(element), below = [];
  for (let e = element; e; e = e.parentElement) below.unshift(getComputedStyle(e).backgroundColor);
  const text = element instanceof SVGElement ? style.fill : style.color;
  const pair = [paint(below), paint([...below, text])].map(luminance);
  found.push([(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), words]);
}
return found.sort((a, b) => a[0] - b[0]);
"""
INSIDE = ("data:", "about:", "blob:")  # what nobody outside the page hears of


def _lacking(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_BROWSER", "0") not in ("", "0"):
        pytest.fail(f"a browser is required: {reason}", pytrace=False)
    pytest.skip(f"no browser: {reason}")


def _program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    return found or _lacking(f"{names[0]} is not installed: apt-get install chromium chromium-driver")


class Browser:
    """One Chromium window. Sizes and places are in CSS pixels, from the window's top left corner."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.console: list[str] = []  # "SEVERE ...": errors and refusals by a Content-Security-Policy too
        self.requests: list[str] = []  # every address asked for since ``open``, the page's own first

    def open(self, page: Path | str, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Load a file or an address, freshly, in a window of this size and colour scheme."""
        self.driver.get("about:blank")
        self.look(width=width, height=height, dark=dark)
        self.collect()
        self.console, self.requests = [], []
        self.driver.get(page.absolute().as_uri() if isinstance(page, Path) else page)
        self.collect()

    def look(self, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Change the window's size and the reader's colour scheme, without loading the page again."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", {"features": [scheme]})

    def cdp(self, method: str, parameters: dict[str, Any]) -> Any:
        """A call of Chromium's DevTools protocol."""
        return self.driver.execute_cdp_cmd(method, parameters)

    def collect(self) -> None:
        """Bring ``console`` and ``requests`` up to date."""
        self.console += [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                url = event["params"].get("url") or event["params"]["request"]["url"]
                self.requests += [] if url.startswith(INSIDE) else [url]

    def require_clean(self, *origins: str) -> None:
        """Nothing was logged, and every request began with one of ``origins``."""
        self.collect()
        foreign = [url for url in self.requests if not url.startswith(origins)]
        assert not self.console + foreign, "\n".join(self.console + foreign)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that the page's own JavaScript ``return``s; the arguments are ``arguments``."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """The first element of a CSS selector."""
        return self.driver.find_element("css selector", selector)

    def box(self, selector: str) -> dict[str, float]:
        """Where an element lies in the window, scrolled into it: x, y, width, height."""
        script = "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'nearest'});"
        return dict(self.run(f"{script} return e.getBoundingClientRect().toJSON()", selector))

    def overflow(self) -> list[str]:
        """The elements that make the page wider than its window, if it is."""
        return list(
            self.run("""
                const wide = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= wide) return [];
                const name = e => `${e.tagName}.${e.getAttribute('class')}`;
                const outside = [...document.body.querySelectorAll('*')].filter(
                    e => e.getBoundingClientRect().right > wide + 0.5);
                return outside.length ? outside.map(name) : ['something'];
            """)
        )

    def contrasts(self) -> list[tuple[float, str]]:
        """Every text that is shown and its contrast with what is below it, the faintest first."""
        return [(ratio, words) for ratio, words in self.run(CONTRAST)]

    def stroke(self, points: Sequence[tuple[float, float]], *, kind: str = "mouse") -> None:
        """Press at the first point, move through the others, release. ``kind``: mouse, touch or pen."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        actions = ActionBuilder(self.driver, mouse=PointerInput(kind, kind), duration=10)
        pointer = actions.pointer_action
        pointer.move_to_location(*points[0]).pointer_down()
        for point in points[1:]:
            pointer.move_to_location(*point)
        pointer.pointer_up()
        actions.perform()

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as a PNG file: the whole of it, or what the window shows."""
        shot = self.cdp("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))


def start(profile: Path, flags: Iterable[str] = FLAGS) -> Browser:
    """A Chromium with these flags and a fresh profile in ``profile``; end it with ``browser.driver.quit()``."""
    try:
        from selenium import webdriver
    except ImportError:
        _lacking("selenium is not installed: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
    service = webdriver.ChromeService(_program("chromedriver"))
    for flag in [*flags, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Browser(webdriver.Chrome(options=options, service=service))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests; ``browser.open`` forgets what the last one did."""
    browser = start(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()
