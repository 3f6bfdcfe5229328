"""The pictures of a page: curves, confusion matrix, mistakes, weights; as PNG files, or as SVG in the page's colours.

Figures are matplotlib's (the extra ``plot``); single samples and weights are small PNG images.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .chart import COLOURS, GREY, GRID, INK
from .findings import Findings, heat

BLUE, ORANGE = (59, 125, 216), (224, 112, 32)  # visible on white and on black
SERIES: Final = {"train": "training", "val": "validation", "test": "test"}
QUANTITIES: Final = ("loss", "accuracy")
RATE: Final = "learning rate"
RUNS: Final = (*SERIES, "fourth", "fifth", "sixth")  # the names of the colours of as many runs
PAPER: Final = {"ink": INK, "muted": GREY, "grid": GRID, **dict(zip(RUNS, COLOURS, strict=True))}
# Placeholder colours that occur nowhere else: ``svg`` replaces them by var(--NAME).
THEMED: Final = {name: f"#0{place}f{place}a{place}" for place, name in enumerate(PAPER)}
NUMBERED: Final = 20  # with more classes, cells have no room for numbers
SHORT: Final = 12  # characters of a name beside the matrix or a curve
Line: TypeAlias = tuple[str, dict[str, Any], list[tuple[Any, Any]]]  # name, style, points
THUMBNAIL: Final = 160  # pixels of a longer side, at most
FAINT: Final = 0.28  # opacity of the diagonal
LABEL_GAP: Final = 13.0  # points between the names of two curves

# --- figures -----------------------------------------------------------------------------------------------------


def quantities(findings: Findings) -> list[str]:
    """What is drawn over epochs: loss, accuracy, and the learning rate where a schedule changes it."""
    rates = {row["learning_rate"] for row in findings.history} - {None}
    return [*QUANTITIES, RATE][: 2 + (len(rates) > 1)]


def curve(findings: Findings, quantity: str, colours: Mapping[str, str]) -> Any:
    """A quantity over epochs: one labelled line for each part of the data, or the learning rate's."""
    figure = _figure(4.4, 1.8 if quantity == RATE else 3.0)
    draw_curve(figure.add_subplot(), findings.history, quantity, colours)
    return figure


def comparison(histories: Mapping[str, Sequence[Mapping[str, Any]]], key: str, colours: Mapping[str, str]) -> Any:
    """The column ``key`` of each run's epochs as a line of the run's name; from the seventh on dashed."""
    figure = _figure(4.4, 3.0)
    lines = []
    for place, (name, history) in enumerate(histories.items()):
        style = {"color": colours[RUNS[place % len(RUNS)]], "linestyle": "--" if place >= len(RUNS) else "-"}
        lines.append((cut(name), style, [(row["epoch"], row[key]) for row in history]))
    _draw_lines(figure.add_subplot(), lines, key.rpartition("_")[2], colours)
    return figure


def curves(findings: Findings) -> Any:
    """Loss and accuracy side by side, and the learning rate where it changes."""
    shown = quantities(findings)
    figure = _figure(4.6 * len(shown), 3.4)
    for place, quantity in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        draw_curve(axes, findings.history, quantity, PAPER)
        axes.set_title(quantity, loc="left", color=INK, fontsize=11)
    return figure


def matrix(findings: Findings, colours: Mapping[str, str]) -> Any:
    """The confusion matrix, true class by row, tinted by the share of the class."""
    counts = findings.matrix
    assert counts is not None
    size = len(counts)
    figure = _figure(6.6, 6.2)
    axes = figure.add_subplot()
    rgba = tint(heat(counts))
    rgba[np.diag_indices(size)] = (*BLUE, round(255 * FAINT))
    axes.imshow(rgba, interpolation="none")
    step = max(1, -(-size // NUMBERED))
    shown = [cut(name) for name in findings.names]
    turned = 90 if max(map(len, shown)) > 3 else 0
    axes.set_xticks(range(0, size, step), shown[::step], rotation=turned, parse_math=False)
    axes.set_yticks(range(0, size, step), shown[::step], parse_math=False)
    if size <= NUMBERED:
        for label, row in enumerate(counts):
            for taken, number in enumerate(row):
                colour = colours["ink" if number else "muted"]
                axes.text(taken, label, f"{number}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("taken for", color=colours["ink"])
    axes.set_ylabel("class", color=colours["ink"])
    axes.xaxis.set_label_position("top")
    axes.tick_params(colors=colours["muted"], length=0, labeltop=True, labelbottom=False, labelsize=9)
    axes.spines[:].set_color(colours["grid"])
    return figure


def mistakes(findings: Findings) -> Any:
    """The worst mistakes as images."""
    images = sample_images(findings)
    titles = [f"{findings.names[one.label]} as {findings.names[one.prediction]}" for one in findings.mistakes]
    return _gallery(list(zip(images, titles, strict=True)), {"cmap": "gray", "vmin": 0, "vmax": 255})


def weights(findings: Findings) -> Any:
    """The first layer's weights as images."""
    return _gallery([(tint(unit.weights), findings.unit_name(unit)) for unit in findings.units], {})


def files(findings: Findings) -> dict[str, Any]:
    """Every figure of a run, by file name."""
    found: dict[str, Callable[[], Any]] = {}
    if findings.history:
        found["curves.png"] = lambda: curves(findings)
    if findings.matrix is not None:
        found["confusion.png"] = lambda: matrix(findings, PAPER)
    if findings.pictures and findings.mistakes:
        found["mistakes.png"] = lambda: mistakes(findings)
    if findings.units:
        found["weights.png"] = lambda: weights(findings)
    return {name: draw() for name, draw in found.items()}


def png(figure: Any) -> bytes:
    """A figure as a PNG file on white."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")
    return file.getvalue()


def svg(figure: Any, name: str, description: str) -> str:
    """A figure drawn in ``THEMED`` colours as an inline ``<svg>`` that uses the page's colours, e.g. var(--ink).

    ``name`` prefixes its ids, so that they are unique in the page. ``description`` is its alternative text.
    """
    from html import escape

    import matplotlib as mpl

    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for key, colour in THEMED.items():
        text = text.replace(colour, f"var(--{key})")
    width, height = figure.get_size_inches()
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 xmlns:xlink="{XLINK}">', text, count=1)
    head = f'<svg role="img" aria-label="{escape(description)}" width="{width * 72:g}" height="{height * 72:g}" '
    return head + text.removeprefix("<svg ")


XLINK: Final = "http://www.w3.org/1999/xlink"


def cut(name: str) -> str:
    """A name, cut to SHORT characters."""
    return name if len(name) <= SHORT else f"{name[:SHORT]}\N{HORIZONTAL ELLIPSIS}"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_curve(axes: Any, history: Sequence[Mapping[str, Any]], quantity: str, colours: Mapping[str, str]) -> None:
    """Draw a quantity over epochs into matplotlib's ``axes``."""
    keys = {part: f"{part}_{quantity}" for part in SERIES}
    if quantity == RATE:  # its panel has its name
        keys, names = {"train": RATE.replace(" ", "_")}, {"train": ""}
    else:
        names = SERIES
    lines = [
        (names[part], {"color": colours[part]}, [(row["epoch"], row[key]) for row in history])
        for part, key in keys.items()
    ]
    _draw_lines(axes, lines, quantity, colours)


def _draw_lines(axes: Any, lines: Sequence[Line], quantity: str, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    ends, known = [], []
    for name, style, all_points in lines:
        points = [point for point in all_points if point[1] is not None]
        if points:
            marker = {"marker": "o", "markersize": 4} if len(points) <= NUMBERED else {}
            axes.plot(*zip(*points, strict=True), linewidth=1.8, clip_on=False, **style, **marker)
            ends.append((*points[-1], name, style["color"]))
            known += [value for _, value in points]
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}\N{NO-BREAK SPACE}%"))
    elif quantity != RATE and known and min(known) > 0 and max(known) > 30 * min(known):
        axes.set_yscale("log")
        few = max(known) > 300 * min(known)
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    epochs = sorted(epoch for _, _, points in lines for epoch, _ in points)
    if epochs and epochs[-1] > epochs[0]:
        axes.set_xlim(epochs[0] - 0.02 * (epochs[-1] - epochs[0]))
    axes.set_xlabel("epoch", color=colours["muted"], fontsize=9)
    axes.grid(axis="y", color=colours["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colours["grid"])
    axes.tick_params(which="both", colors=colours["muted"], length=0, labelsize=9)
    _name_curves(axes, ends)


def _name_curves(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Label each curve at its last point; labels are moved up or down until none overlap."""
    axes.autoscale_view()
    axes.set_ylim(axes.get_ylim())  # fixed now: what follows depends on it
    height = (
        axes.figure.get_size_inches()[1] * 72 * axes.get_position().height
    )  # in points, roughly: the layout is not computed yet
    scale = axes.transScale.transform
    low, high = (scale((0, value))[1] for value in axes.get_ylim())
    places = [(scale((0, value))[1] - low) / (high - low) * height for _, value, *_ in ends]
    above = -LABEL_GAP
    for k in sorted(range(len(ends)), key=places.__getitem__):
        place = max(places[k], above + LABEL_GAP)
        x, y, name, colour = ends[k]
        axes.annotate(
            name, (x, y), xytext=(7, place - places[k]), textcoords="offset points", color=colour, va="center",
            fontsize=9.5, fontweight="bold", annotation_clip=False, parse_math=False,
        )  # fmt: skip
        above = place


def _gallery(items: Sequence[tuple[Any, str]], style: Mapping[str, Any]) -> Any:
    columns = 8
    rows = -(-len(items) // columns)
    figure = _figure(10, 1.55 * rows)
    for place, (image, title) in zip(count(1), items, strict=False):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image, interpolation="none", **style)
        axes.set_title(title, fontsize=8, color=INK, pad=3, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(GRID)
    return figure


# --- images ------------------------------------------------------------------------------------------------------


def sample_images(findings: Findings, indices: Sequence[int] | None = None) -> list[NDArray[np.uint8]]:
    """Test samples, those of the worst mistakes if none are named, (H, W) uint8 each: uint8 as they are, floats scaled
    from their common minimum and maximum."""
    images = findings.data.test_images[[one.index for one in findings.mistakes] if indices is None else list(indices)]
    if images.dtype != np.uint8:
        low, high = (float(bound) for bound in (images.min(), images.max()))
        images = np.round((images.astype(np.float64) - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    return [image.reshape(findings.data.image_shape) for image in images]


def tint(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """-1..1 (H, W) as RGBA (H, W, 4), for light and dark pages: blue below 0, orange above, opacity by magnitude, NaN
    transparent."""
    known = np.nan_to_num(values)
    rgba = np.empty((*values.shape, 4), np.uint8)
    rgba[..., :3] = np.where((known < 0)[..., None], BLUE, ORANGE)
    rgba[..., 3] = np.round(255 * np.abs(known))
    return rgba


def image_png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W) grey or (H, W, 4) pixels as a small PNG file: no side longer than THUMBNAIL."""
    image = Image.fromarray(pixels)
    if max(image.size) > THUMBNAIL:
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
