"""A run as one picture of 1200 x 630 pixels, the size in which links are previewed."""

from __future__ import annotations

import io
from typing import Any, Final

from ..engine.layers import parameter_count
from . import pictures
from .chart import GREY, GRID, INK
from .findings import Findings, number
from .judgement import decimals, percent
from .page import significant

WIDTH, HEIGHT, DPI = 1200, 630, 100
SHOWN: Final = 10  # test pictures
LEFT, RIGHT = 0.05, 0.95
RED: Final = "#c2410c"


def card(findings: Findings) -> bytes:
    """The card as a PNG file: name, accuracy with its interval, network, cost, the curve, and of pictures the first of
    the test part with what each was taken for. Raises ``ImportError`` without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), facecolor="white")
    with_pictures = findings.pictures
    for height, size, colour, text in _texts(findings):
        weight = "bold" if size > 30 else "normal"
        _fitted(figure, height, text, {"fontsize": size, "color": colour, "fontweight": weight})
    figure.text(RIGHT, 0.935, "twostroke", ha="right", va="center", color=GREY, fontsize=15)
    if findings.history:
        low = 0.4 if with_pictures else 0.14
        axes = figure.add_axes((0.55, low, 0.33, 0.87 - low))
        pictures.draw_curve(axes, findings.history, "accuracy", pictures.PAPER)
    if with_pictures:
        _draw_pictures(figure, findings)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _texts(findings: Findings) -> list[tuple[float, float, str, str]]:
    """Height (0..1), size, colour and text of each line."""
    record, layers, digits = findings.record, findings.net.layers, decimals(*findings.interval)
    low, high = (percent(end, digits) for end in findings.interval)
    count = len(findings.data.test_labels)
    epochs, seconds, rate = (number(record.get(key)) for key in ("epochs", "train_seconds", "samples_per_second"))
    device = record.get("device")
    cost = [
        f"{epochs:,.0f} epoch{'' if epochs == 1 else 's'}" if epochs is not None else "",
        f"{significant(seconds)} s" if seconds is not None else "",
        f"{significant(rate)} samples/s" if rate is not None else "",
        f"on {device}" if isinstance(device, str) else "",
    ]
    network = f"{'-'.join(map(str, layers))}, {parameter_count(layers):,} parameters"
    return [
        (0.935, 22, INK, findings.data.name),
        (0.77, 68, INK, percent(findings.result.accuracy, digits)),
        (0.645, 15, INK, f"of {count:,} test samples are right"),
        (0.585, 15, INK, f"95 % interval: {low} to {high}"),
        (0.485, 15, GREY, network),
        (0.425, 15, GREY, ", ".join(part for part in cost if part)),
    ]


def _fitted(figure: Any, height: float, text: str, style: dict[str, Any]) -> None:
    """A line of text, cut until it fits beside the curve."""
    shown = "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else ascii(c)[1:-1] for c in text)
    label = figure.text(LEFT, height, shown, va="center", parse_math=False, **style)
    while label.get_window_extent().x1 > 0.53 * WIDTH and len(shown) > 1:
        shown = shown[:-1]
        label.set_text(f"{shown}\N{HORIZONTAL ELLIPSIS}")


def _draw_pictures(figure: Any, findings: Findings) -> None:
    """The first test pictures, not chosen ones, each above its predicted class; red where that is wrong."""
    images = pictures.sample_images(findings, range(min(SHOWN, len(findings.data.test_labels))))
    step = (RIGHT - LEFT) / SHOWN
    for place, image in enumerate(images):
        axes = figure.add_axes((LEFT + place * step, 0.1, 0.85 * step, 0.17))
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
        axes.set_xticks([])
        axes.set_yticks([])
        prediction, label = int(findings.predictions[place]), int(findings.data.test_labels[place])
        colour = INK if prediction == label else RED
        axes.spines[:].set_color(GRID if prediction == label else RED)
        name = pictures.cut(findings.names[prediction])
        axes.set_xlabel(name, color=colour, fontsize=13 if len(name) < 8 else 9, parse_math=False)
