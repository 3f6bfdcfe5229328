"""The pictures of the pages that ``report`` and ``draw`` show: docs/images/report.png and draw.png.

    python docs/screenshots.py
    python docs/screenshots.py --out FOLDER

Trains MNIST in an empty folder, as `twostroke train` does, opens both pages in Chromium and writes what it shows.
Needs Debian's chromium and chromium-driver, and: pip install -e ".[browser]"
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.browser import Browser, start

ROOT: Final = Path(__file__).resolve().parents[1]
# A 4 that is open at the top, nearly a 9: the strokes as shares of the field.
STROKES: Final = (
    ((0.46, 0.17), (0.39, 0.22), (0.33, 0.29), (0.3, 0.38), (0.33, 0.46), (0.42, 0.49), (0.53, 0.47), (0.62, 0.43)),
    ((0.66, 0.18), (0.65, 0.4), (0.63, 0.58), (0.61, 0.85)),
)
MOST_BYTES: Final = 150_000
WAIT_S: Final = 20


def twostroke(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command, started in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MPLBACKEND": "Agg"}
    run = [sys.executable, "-m", "twostroke", *words]
    return subprocess.Popen(run, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


@contextmanager
def drawing_page(folder: Path) -> Iterator[str]:
    """The address of the page of ``twostroke draw``, while it is served."""
    process = twostroke(folder, "draw", "--no-browser", "--port", "0")
    assert process.stdout
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.removeprefix("page: ").strip() for line in lines if line.startswith("page: "))
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_S)


def wait(true: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"the page did not answer within {WAIT_S} s")
        time.sleep(0.05)


def draw(browser: Browser, folder: Path, out: Path) -> None:
    """The page to draw on, with a digit drawn by mouse."""
    with drawing_page(folder) as address:
        browser.open(address, width=1120, height=700)
        wait(lambda: browser.run("return document.querySelectorAll('#bars li').length"))
        field = browser.box("#field")
        for stroke in STROKES:
            points = [(field["x"] + x * field["width"], field["y"] + y * field["height"]) for x, y in stroke]
            browser.stroke([(round(x), round(y)) for x, y in points])
        wait(lambda: browser.run("return !painting && !asking && asked === drawing"))
        wait(lambda: browser.run("return !document.getAnimations().length"))
        print("draw:", browser.find("#top").text, browser.find("#words").text)
        browser.screenshot(out / "draw.png")


def report(browser: Browser, folder: Path, out: Path) -> None:
    """The page about the run, down to its confusion matrix."""
    (page,) = (folder / "runs").glob("*/report.html")
    browser.open(page, width=1120, height=700)
    bottom = browser.run(
        "const table = [...document.querySelectorAll('section table')].find(t => t.rows.length > 10);"
        "return table.getBoundingClientRect().bottom + scrollY"
    )
    browser.look(width=1120, height=round(bottom) + 12)
    browser.screenshot(out / "report.png", whole=False)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(empty)
        training = twostroke(folder, "train", "--report")
        print(training.communicate()[0])
        if training.returncode:
            sys.exit(training.returncode)
        browser = start(folder / "chromium")
        try:
            for take in (draw, report):
                take(browser, folder, out)
        finally:
            browser.driver.quit()
    for name in ("draw.png", "report.png"):
        with Image.open(out / name) as shot:
            shot.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out / name, optimize=True)
        size = (out / name).stat().st_size
        print(f"{out / name}: {size:,} bytes")
        if size > MOST_BYTES:
            sys.exit(f"{name} has {size:,} bytes, at most {MOST_BYTES:,} are wanted")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take the pictures of the pages of report and draw.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="the folder (default: docs/images)")
    main(parser.parse_args().out)
