"""The pictures of the tutorial (docs/tutorial/), drawn from the variables of its own code.

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
    figure = _figure(9.2, 4.2)
    axes = figure.add_subplot(1, 2, 1)
    x, y, best = of["points_x"], of["points_y"], of["best"]
    ends = np.array([-0.1, 2.1])
    for w, b, colour in ((0.0, y.mean(), RED), (*best, BLUE)):
        axes.plot(ends, w * ends + b, color=colour, linewidth=2, label=f"$L$ = {of['loss'](w, b):.3f}")
        axes.vlines(x, w * x + b, y, color=colour, linewidth=1, linestyle=(0, (2, 2)))
    axes.plot(x, y, "o", color=INK, markersize=7)
    _plain(axes, "$x$", "$y$")
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
    space.set(xlabel="$w$", ylabel="$b$")
    space.set_zlabel("$L$")
    space.view_init(elev=38, azim=-118)
    space.set_box_aspect(None, zoom=0.86)  # or the axis' name is cut off
    return figure


def descent(of: Page) -> Any:
    """Both walks in one direction, and what each precision costs."""
    figure = _figure(9.2, 4)
    axes, costs = figure.subplots(1, 2)
    w = np.linspace(-1.25, 3.3, 200)
    axes.plot(w, [of["loss"](value, 0.0) for value in w], color=GREY, linewidth=1.5)
    walked, _ = of["compare_and_move"](lambda value: of["loss"](value, 0.0), -1.0, 0.1)
    slope = of["follow_the_slope"](-1.0, eta=0.3, steps=7)
    for path, colour, mark, name in (
        (walked, RED, "|", r"$w \pm 0.1$"),
        (slope, BLUE, "o", r"$w - 0.3\,L\,'(w)$"),
    ):
        axes.plot(path, [of["loss"](value, 0.0) for value in path], mark, color=colour, label=name, markersize=8)
    axes.axvline(of["bottom"], color=GREY, linewidth=1, linestyle=":")
    _plain(axes, "$w$", "$L(w, 0)$")
    axes.legend(facecolor="white", framealpha=1, edgecolor="white", loc="upper right")

    within = [cost[0] for cost in of["costs"]]
    for column, colour in ((1, RED), (2, BLUE)):
        counts = [cost[column] for cost in of["costs"]]
        costs.plot(within, counts, "o-", color=colour, linewidth=2)
        for place, count in zip(within, counts, strict=True):
            costs.annotate(f"{count:,}", (place, count), xytext=(0, 7), textcoords="offset points", color=colour,
                           ha="center", fontsize=9)  # fmt: skip
    costs.set(xscale="log", yscale="log", xlim=(0.2, 0.0002), ylim=(3, 12_000))
    costs.set_xticks(within, [f"{value:g}" for value in within])
    costs.set_yticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
    costs.minorticks_off()
    _plain(costs, "$|w - w^*|$", "$n$")
    return figure


def paths(of: Page) -> Any:
    """Both walks on the bowl, from above; and the place where the first one stops, larger."""
    figure = _figure(9.2, 4.4)
    whole, end = figure.subplots(1, 2, width_ratios=(1.25, 1))
    blind, downhill, best = np.array(of["blind"]), np.array(of["downhill"]), of["best"]
    corners = np.repeat(blind, 2, axis=0)[:-1]
    corners[1::2, 0] = blind[1:, 0]  # first the move along w, then the one along b
    stop, step = blind[-1], of["step"]
    looked = [stop + step * np.array(move) for move in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    for axes, left, bottom, width, height, levels in (
        (whole, -1.4, -0.8, 3.4, 2.3, np.geomspace(0.0105, 4.5, 13)),
        (end, 0.62, 0.23, 0.46, 0.46, np.geomspace(0.0092, 0.03, 12)),
    ):
        w, b = np.meshgrid(np.linspace(left, left + width, 161), np.linspace(bottom, bottom + height, 161))
        axes.contour(w, b, _losses(of, w, b), levels=levels, colors=GREY, linewidths=0.8, alpha=0.55)
        axes.plot(*downhill.T, "o-", color=BLUE, linewidth=1.4, markersize=4.5, label=r"$-\,0.4\,\nabla L$")
        axes.plot(*corners.T, ".-", color=RED, linewidth=1.4, label=r"$\pm\,0.1$", zorder=4)
        axes.plot(*best, "x", color=INK, markersize=10, markeredgewidth=2.2, zorder=6)
        axes.set(xlim=(left, left + width), ylim=(bottom, bottom + height))
        _plain(axes, "$w$", "$b$")
    for place in looked:
        end.plot(*np.transpose([stop, place]), color=RED, linewidth=1, linestyle=(0, (3, 3)))
        end.plot(*place, "o", color=RED, markerfacecolor="white", markersize=6, zorder=5)
        end.annotate(f"{of['loss'](*place):.4f}", place, xytext=(6, 5), textcoords="offset points", color=RED,
                     fontsize=9)  # fmt: skip
    end.plot(*stop, "o", color=RED, markerfacecolor="none", markersize=13, markeredgewidth=2, zorder=6)
    end.annotate(f"{of['loss'](*stop):.4f}", stop, xytext=(-11, -17), textcoords="offset points", color=RED, ha="right",
                 weight="bold")  # fmt: skip
    whole.indicate_inset([0.62, 0.23, 0.46, 0.46], edgecolor=INK, alpha=0.8)
    whole.legend(facecolor="white", framealpha=1, edgecolor="white", loc="lower right")
    return figure


def matrix(of: Page) -> Any:
    """The newest duel of the matrix form with the loop over samples."""
    duel = loop_duel()
    figure = _figure(7, 4.2)
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
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_ylim(0.8, 75)
    axes.minorticks_off()
    _plain(axes, "$B$", r"$\times$")
    axes.set_title(duel["processor"], loc="right", color=GREY, fontsize=8)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.1))
    return figure


def entropy(of: Page) -> Any:
    """The answer of one neuron that begins wrong, with either loss."""
    figure = _figure(7, 3.4)
    axes = figure.add_subplot()
    for answers, colour, name in (
        (of["squared"], RED, r"$L = \frac{1}{2}\,y^2$"),
        (of["entropy"], BLUE, r"$L = -\ln(1 - y)$"),
    ):
        axes.plot(answers, color=colour, linewidth=2.2, label=name)
    axes.set(xlim=(0, len(of["squared"]) - 1), ylim=(0, 1.03))
    _plain(axes, "$n$", "$y$")
    axes.legend(frameon=False, loc="center", bbox_to_anchor=(0.4, 0.5))
    return figure


def momentum(of: Page) -> Any:
    """The walk in the valley with three momenta."""
    figure = _figure(7, 4.4)
    axes = figure.add_subplot()
    best, roll = of["best"], of["roll"]
    w, b = np.meshgrid(np.linspace(-1.2, 2.7, 161), np.linspace(-0.8, 2.0, 161))
    errors = w[..., None] * of["points_x"] + b[..., None] - of["points_y"]
    levels = np.geomspace(0.0105, 4.5, 13)
    axes.contour(w, b, np.mean(errors**2, axis=-1) / 2, levels=levels, colors=GREY, linewidths=0.7, alpha=0.4)
    for mu, colour, width, size in ((0.9, GREY, 0.8, 2.5), (0.5, BLUE, 1.7, 5), (0.0, RED, 1.7, 5)):
        path = np.array(roll(0.4, mu, within=0.05))
        axes.plot(*path.T, "o-", color=colour, linewidth=width, markersize=size, label=rf"$\mu = {mu:g}$")
    axes.plot(*best, "x", color=INK, markersize=10, markeredgewidth=2.2, zorder=6)
    axes.set(xlim=(-1.2, 2.7), ylim=(-0.8, 2.0))
    _plain(axes, "$w$", "$b$")
    handles, labels = axes.get_legend_handles_labels()
    order = (2, 1, 0)
    axes.legend([handles[k] for k in order], [labels[k] for k in order], facecolor="white", framealpha=1,
                edgecolor="white", loc="upper left")  # fmt: skip
    return figure


def overfitting(of: Page) -> Any:
    """Training and test loss over epochs, with and without dropout."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for records, colour, name in ((of["plain"], RED, "$p = 0$"), (of["dropped"], BLUE, "$p = 0.5$")):
        epochs = [record.epoch for record in records]
        axes.plot(epochs, [record.test_loss for record in records], color=colour, linewidth=2.2, label=name)
        axes.plot(epochs, [record.train_loss for record in records], color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
        lowest = min(records, key=lambda record: record.test_loss)
        axes.plot(lowest.epoch, lowest.test_loss, "o", color=colour, markersize=8)
    axes.set(xlim=(1, 60), ylim=(0, 0.72))
    axes.set_xticks([1, 10, 20, 30, 40, 50, 60])
    _plain(axes, "", "$L$")
    axes.legend(frameon=False, loc="upper right", ncols=2)
    return figure


def network(of: Page) -> Any:
    """A digit in a small network: the hidden units with their weights and outputs, what they add, the probabilities."""
    from matplotlib.patches import ConnectionPatch

    figure = _figure(9.2, 6.2)
    figure.set_layout_engine("none")
    net, hidden, outputs = of["small"], of["hidden"][0], of["outputs"][0]
    digit = figure.add_axes((0.02, 0.34, 0.2, 0.3))
    digit.imshow(of["digit"].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    units = []
    for k, value in enumerate(hidden):
        row, column = k // 2, k % 2
        unit = figure.add_axes((0.31 + 0.2 * column, 0.885 - 0.122 * row, 0.075, 0.108))
        weights = net.weights[0][:, k].reshape(28, 28)
        seen = of["mnist"].train_images.max(axis=0).reshape(28, 28) > 0  # the other weights are as they began
        most = np.abs(weights[seen]).max()
        unit.imshow(np.where(seen, weights, 0), cmap="RdBu", vmin=-most, vmax=most)
        bar = figure.add_axes((0.39 + 0.2 * column, 0.885 - 0.122 * row, 0.012, 0.108))
        bar.bar(0, value / hidden.max(), color=INK, width=1)
        bar.set(ylim=(0, 1), xlim=(-0.5, 0.5))
        units.append(bar)
        for axes in (unit, bar):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(GRID)
    digit.set(xticks=[], yticks=[])
    digit.spines[:].set_color(GREY)
    bars = figure.add_axes((0.8, 0.06, 0.17, 0.88))
    bars.barh(range(10), outputs, color=[BLUE if k == outputs.argmax() else GREY for k in range(10)], height=0.55)
    bars.set(xlim=(0, 1.0), ylim=(9.6, -0.6), xticks=[])
    bars.set_yticks(range(10), [str(k) for k in range(10)], fontsize=13)
    bars.tick_params(length=0, colors=INK)
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    for k, share in enumerate(outputs):
        bars.annotate(f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %", (1, k), xytext=(0, 12),
                      textcoords="offset points", ha="right", fontsize=8, color=GREY)  # fmt: skip
    added = hidden[:, None] * net.weights[1]
    for k, c in zip(*np.unravel_index(np.argsort(np.abs(added), axis=None)[-24:], added.shape), strict=True):
        strength = abs(added[k, c]) / np.abs(added).max()
        figure.add_artist(ConnectionPatch((0.5, 0.5), (-0.1, c), units[k].transData, bars.get_yaxis_transform(),
                          color=BLUE if added[k, c] > 0 else RED, linewidth=0.4 + 2.2 * strength,
                          alpha=0.25 + 0.6 * strength))  # fmt: skip
    for k, value in enumerate(hidden):
        if value > 0:
            figure.add_artist(ConnectionPatch((1, 0.5), (0, 0.5), digit.transAxes, figure.axes[1 + 2 * k].transAxes,
                              color=GREY, linewidth=0.3 + 1.2 * value / hidden.max(), alpha=0.5))  # fmt: skip
    return figure


# Of each chapter, the figures drawn from its variables. There are no words in them: pages in both languages show them.
CHAPTERS: Final[dict[str, tuple[Callable[[Page], Any], ...]]] = {
    "1-the-bowl": (bowl, descent, paths),
    "3-the-matrix": (matrix,),
    "4-what-train-adds": (entropy, momentum, overfitting, network),
}
FIGURES: Final = {draw.__name__: (chapter, draw) for chapter, drawn in CHAPTERS.items() for draw in drawn}


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


def _plain(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK, rotation=0 if len(y) < 5 else 90)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, length=0)


def variables_of(chapter: str) -> Page:
    """What a chapter's code leaves, run in an empty folder."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as empty, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(empty)
        try:
            return documentation.run(ROOT / "docs" / "tutorial" / f"{chapter}.md")
        finally:
            os.chdir(here)


def draw_figures(names: Sequence[str], out: Path) -> list[Path]:
    """Run the chapters of the figures ``names``, draw these, and return the files written."""
    out.mkdir(parents=True, exist_ok=True)
    pages = {chapter: variables_of(chapter) for chapter in dict.fromkeys(FIGURES[name][0] for name in names)}
    written = []
    for name in names:
        path = out / f"tutorial-{name}.png"
        chapter, draw = FIGURES[name]
        draw(pages[chapter]).savefig(path, dpi=130, metadata={"Software": None})
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
