"""The pictures of docs/tutorial.md, drawn from the variables of its own code.

    python docs/figures.py                  all of them, into docs/images
    python docs/figures.py bowl matrix      these
    python docs/figures.py --out FOLDER

Needs matplotlib: pip install -e ".[docs]"
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from tests.support import documentation
from twostroke.show.chart import COLOURS, GREY, GRID, INK

ROOT: Final = Path(__file__).resolve().parents[1]
BLUE, RED = COLOURS[0], COLOURS[1]
Page = Mapping[str, Any]


def bowl(of: Page) -> Any:
    """The five points with two lines, and the loss as a surface over (w, b)."""
    figure = _figure(9.2, 4.4)
    axes = figure.add_subplot(1, 2, 1)
    x, y, best = of["points_x"], of["points_y"], of["best"]
    ends = np.array([-0.1, 2.1])
    for w, b, colour, name in ((0.0, y.mean(), RED, "the flat line"), (*best, BLUE, "the best line")):
        axes.plot(ends, w * ends + b, color=colour, linewidth=2, label=f"{name}: loss {of['loss'](w, b):.3f}")
        axes.vlines(x, w * x + b, y, color=colour, linewidth=1, linestyle=(0, (2, 2)))
    axes.plot(x, y, "o", color=INK, markersize=7)
    _plain(axes, "x", "y", "Residuals: what a line misses")
    axes.legend(frameon=False, loc="upper left")

    space = figure.add_subplot(1, 2, 2, projection="3d", computed_zorder=False)
    # A grid of rings of equal loss, so that the rim is level: circles, drawn out along the axes of the bowl.
    curvatures, axes_of_bowl = np.linalg.eigh([[np.mean(x**2), x.mean()], [x.mean(), 1.0]])
    angle, radius = np.meshgrid(np.linspace(0, 2 * np.pi, 91), np.linspace(0, 1.5, 31))
    circles = np.stack([np.cos(angle), np.sin(angle)]) * radius
    w, b = np.einsum("ij,jkl->ikl", axes_of_bowl / np.sqrt(curvatures), circles) + best[:, None, None]
    height = _losses(of, w, b)
    space.plot_surface(w, b, height, cmap="Blues_r", linewidth=0, rcount=31, ccount=91)
    for ring in range(5, 31, 5):
        space.plot(w[ring], b[ring], height[ring], color="white", linewidth=0.7)
    for place, colour in (((0.0, y.mean()), RED), (tuple(best), BLUE)):
        space.plot([place[0]], [place[1]], [of["loss"](*place)], "o", color=colour, markeredgecolor="white", zorder=9)
    space.set(xlabel="w", ylabel="b", title="The loss of every line: a bowl")
    space.title.set(color=INK, fontsize=12)
    space.set_zlabel("loss")
    space.view_init(elev=38, azim=-118)
    space.set_box_aspect(None, zoom=0.86)  # or the axis' name is cut off
    return figure


def descent(of: Page) -> Any:
    """Both walks in one direction, and what each precision costs."""
    figure = _figure(9.2, 4.2)
    axes, costs = figure.subplots(1, 2)
    w = np.linspace(-1.25, 3.3, 200)
    axes.plot(w, [of["loss"](value, 0.0) for value in w], color=GREY, linewidth=1.5)
    walked, _ = of["compare_and_move"](lambda value: of["loss"](value, 0.0), -1.0, 0.1)
    for path, lift, colour, mark, name in (
        (walked, 0.0, RED, "|", "compare and move, step 0.1"),
        (of["follow_the_slope"](-1.0, eta=0.3, steps=7), 0.0, BLUE, "o", "follow the slope, eta 0.3"),
    ):
        axes.plot(path, [of["loss"](value, 0.0) + lift for value in path], mark, color=colour, label=name, markersize=8)
    axes.axvline(of["bottom"], color=GREY, linewidth=1, linestyle=":")
    _plain(axes, "w (b = 0)", "loss", "Two ways down")
    axes.legend(facecolor="white", framealpha=1, edgecolor="white", loc="upper right")

    within = [cost[0] for cost in of["costs"]]
    for column, colour, name in ((1, RED, "compare and move"), (2, BLUE, "follow the slope")):
        counts = [cost[column] for cost in of["costs"]]
        costs.plot(within, counts, "o-", color=colour, linewidth=2)
        for place, count in zip(within, counts, strict=True):
            costs.annotate(f"{count:,}", (place, count), xytext=(0, 7), textcoords="offset points", color=colour,
                           ha="center", fontsize=9)  # fmt: skip
        costs.annotate(name, (within[0], counts[0]), xytext=(-8, -14), textcoords="offset points", color=colour)
    costs.set(xscale="log", yscale="log", xlim=(0.2, 0.0002), ylim=(3, 12_000))
    costs.set_xticks(within, [f"{value:g}" for value in within])
    costs.minorticks_off()
    _plain(costs, "distance to the bottom that is allowed", "evaluations", "The price of precision")
    return figure


def paths(of: Page) -> Any:
    """Both walks on the bowl, from above."""
    figure = _figure(7, 5)
    axes = figure.add_subplot()
    w, b = np.meshgrid(np.linspace(-1.4, 2.2, 121), np.linspace(-0.8, 1.5, 121))
    levels = np.geomspace(0.0105, 4.5, 13)
    axes.contour(w, b, _losses(of, w, b), levels=levels, colors=GREY, linewidths=0.8, alpha=0.7)
    blind, downhill = np.array(of["blind"]), np.array(of["downhill"])
    corners = np.repeat(blind, 2, axis=0)[:-1]
    corners[1::2, 0] = blind[1:, 0]  # first the move along w, then the one along b
    axes.plot(*corners.T, ".-", color=RED, linewidth=1, label="compare and move, step 0.1")
    axes.plot(*downhill.T, "o-", color=BLUE, linewidth=1.4, markersize=5, label="gradient step, eta 0.4")
    axes.plot(*of["best"], "x", color=INK, markersize=9, markeredgewidth=2)
    axes.annotate("bottom", of["best"], xytext=(9, -12), textcoords="offset points", color=INK)
    axes.annotate("start", of["blind"][0], xytext=(-4, -16), textcoords="offset points", color=INK)
    _plain(axes, "w", "b", "Two walks on the bowl, from above")
    axes.legend(facecolor="white", framealpha=1, edgecolor="white", loc="lower right")
    return figure


def matrix(of: Page) -> Any:
    """The newest duel of the matrix form with the loop over samples."""
    duel = loop_duel()
    figure = _figure(7, 4.4)
    axes = figure.add_subplot(xscale="log", yscale="log")
    networks = sorted({tuple(row["layers"]) for row in duel["rows"]})
    for colour, layers in zip(COLOURS, networks, strict=False):
        rows = sorted((row for row in duel["rows"] if tuple(row["layers"]) == layers), key=lambda r: r["batch_size"])
        sizes, ratios = [row["batch_size"] for row in rows], [row["ratio"] for row in rows]
        axes.fill_between(sizes, *zip(*(row["interval"] for row in rows), strict=True), color=colour, alpha=0.15)
        axes.plot(sizes, ratios, color=colour, linewidth=2, label="-".join(map(str, layers)))
        for row in rows:
            face = colour if row["status"] == "ok" else "white"
            axes.plot(row["batch_size"], row["ratio"], "o", color=colour, markerfacecolor=face, markersize=7)
    axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
    axes.annotate("as fast as the loop", (1, 1), xytext=(0, 5), textcoords="offset points", color=GREY, fontsize=9)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_ylim(0.8, 75)
    axes.minorticks_off()
    _plain(axes, "batch size", "matrix form / loop, samples per second", "The same CPU, the same work")
    axes.annotate(
        f"{duel['processor']}, {rows[0]['threads']} threads. Band: 95 % interval. Hollow: noisy, claims nothing.",
        (0, 1), xycoords="axes fraction", xytext=(0, -2), textcoords="offset points", fontsize=8, color=GREY, va="top",
    )  # fmt: skip
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.1))
    return figure


FIGURES: Final[dict[str, Callable[[Page], Any]]] = {draw.__name__: draw for draw in (bowl, descent, paths, matrix)}


def loop_duel() -> dict[str, Any]:
    """The newest duel with the loop over samples in bench/results, with the rows of that peer alone."""
    found = []
    for file in (ROOT / "bench" / "results").glob("*/duel-*.json"):
        duel = json.loads(file.read_text(encoding="utf-8"))
        duel["rows"] = [row for row in duel["rows"] if row["peer"] == "seed-loop" and row["ratio"]]
        if duel["rows"]:
            found.append(duel)
    newest: dict[str, Any] = max(found, key=lambda duel: duel["time"])
    return newest


def _losses(of: Page, w: Any, b: Any) -> Any:
    return np.vectorize(of["loss"])(w, b)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def _plain(axes: Any, x: str, y: str, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=12)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, length=0)


def draw_figures(names: Sequence[str], out: Path) -> list[Path]:
    """Run the tutorial in an empty folder, draw the figures ``names`` from it, and return the files written."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as empty, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(empty)
        try:
            variables = documentation.run(ROOT / "docs" / "tutorial.md")
        finally:
            os.chdir(here)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names:
        path = out / f"tutorial-{name}.png"
        FIGURES[name](variables).savefig(path, dpi=130, metadata={"Software": None})
        with Image.open(path) as drawn:
            drawn.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        written.append(path)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the tutorial's figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="the folder (default: docs/images)")
    asked = parser.parse_args()
    if unknown := set(asked.names) - FIGURES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}; there are: {', '.join(FIGURES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        parser.error('matplotlib is needed: pip install -e ".[docs]"')
    for file in draw_figures(asked.names or list(FIGURES), asked.out):
        print(file)
