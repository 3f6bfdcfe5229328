"""A throughput measurement (``crossover.summarise``) as a table and as a picture."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

INK, GREY, GRID = "#1f2328", "#656d76", "#d8dee4"
COLOURS: Final = ("#0b62c4", "#c2410c", "#15803d", "#7e22ce", "#b45309", "#0e7490")  # legible as text on white
HEADER: Final = (
    f"{'device':<8} {'batch':>7} {'threads':>7} {'us/step':>10} {'quartiles':>17} {'samples/s':>12}"
    f" {'GFLOP/s':>9} {'roofline':>9} {'of it':>6} {'of best':>7} {'of limit':>12} {'blocks':>6}"
)


def table(result: Mapping[str, Any]) -> list[str]:
    """A line for each record, then a line for each fit."""
    lines = [HEADER]
    for row in result["records"]:
        low, high = (1e6 * seconds for seconds in row["step_seconds_quartiles"])
        limits = row.get("limits") or {}
        of_best = f"{limits['best_product_fraction']:.0%}" if limits else "-"
        suspect = " above its roofline: noise" if row["roofline_suspect"] else ""
        lines.append(
            f"{row['device']:<8} {row['batch_size']:>7,} {row['threads'] or '-':>7} {1e6 * row['step_seconds']:>10,.1f}"
            f" {f'{low:,.1f} - {high:,.1f}':>17} {row['samples_per_second']:>12,.0f} {row['gflops']:>9,.1f}"
            f" {row['roofline_gflops']:>9,.1f} {row['roofline_fraction']:>6.0%}"
            f" {of_best:>7} {limits.get('text', '-'):>12} {row['blocks']:>6}{suspect}"
        )
    apart = [one for row in result["records"] for one in row.get("core_latency_ns", []) if one]
    if apart:
        lines.append(
            f"the cores are {min(apart):.0f} to {max(apart):.0f} ns apart: some 40 share a cache, some 200 do not"
        )
    for device, fit in result["fits"].items():
        if fit:
            lines.append(
                f"fit {device}: t(B) = {1e6 * fit['t0']:,.1f} us + B / ({fit['rate']:,.0f} samples/s),"
                f" residual {fit['residual']:.0%} (root mean square over {fit['points']} batch sizes)"
            )
    return lines


def png(result: Mapping[str, Any]) -> bytes:
    """Samples/s over batch size for every device, both axes logarithmic, crossovers marked.

    Raises ``ImportError`` without matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = Figure(figsize=(8, 5), facecolor="white", layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(result["records"], key=lambda record: record["batch_size"]):
        curves.setdefault(record["device"], []).append(record)
    for colour, (device, rows) in zip(COLOURS * len(curves), curves.items(), strict=False):
        _draw_curve(axes, device, rows, colour)
    for place, crossover in enumerate(result["crossovers"]):
        if crossover["batch_size"]:
            _mark(axes, crossover, curves[crossover["device"]], place)
    sizes = sorted({record["batch_size"] for record in result["records"]})
    rates = [record["samples_per_second"] for record in result["records"]]
    axes.set_xlim(sizes[0] / 1.4, sizes[-1] * max(1.5, (sizes[-1] / sizes[0]) ** 0.18))  # room for the names
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if max(rates) > 100 * min(rates) else (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.minorticks_off()
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, length=0)
    axes.set_xlabel("batch size (samples per step)", color=INK)
    axes.set_ylabel("training throughput (samples/s)", color=INK)
    _write_title(axes, result)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _draw_curve(axes: Any, device: str, rows: list[Mapping[str, Any]], colour: str) -> None:
    sizes = [row["batch_size"] for row in rows]
    rates = [row["samples_per_second"] for row in rows]
    limits = [row["samples_per_second"] / row["roofline_fraction"] for row in rows]
    slow_and_fast = [[row["batch_size"] / row["step_seconds_quartiles"][end] for row in rows] for end in (1, 0)]
    axes.fill_between(sizes, *slow_and_fast, color=colour, alpha=0.18, linewidth=0)
    axes.plot(sizes, limits, color=colour, linewidth=1, linestyle=(0, (4, 3)), alpha=0.75)
    axes.plot(sizes, rates, color=colour, linewidth=2, marker="o", markersize=5)
    style = {"textcoords": "offset points", "color": colour, "va": "center", "annotation_clip": False}
    axes.annotate(device, (sizes[-1], rates[-1]), xytext=(8, -5), fontsize=11, fontweight="bold", **style)
    axes.annotate("products alone", (sizes[-1], limits[-1]), xytext=(8, 7), fontsize=8, **style)


def _mark(axes: Any, crossover: Mapping[str, Any], rows: list[Mapping[str, Any]], place: int) -> None:
    """Mark the batch size from which the device is faster than the CPU."""
    size = crossover["batch_size"]
    sizes, rates = ([math.log(row[key]) for row in rows] for key in ("batch_size", "samples_per_second"))
    rate = math.exp(np.interp(math.log(size), sizes, rates))
    axes.axvline(size, color=GREY, linewidth=1, linestyle=":")
    axes.plot([size], [rate], marker="o", markersize=11, markerfacecolor="none", markeredgecolor=INK, linestyle="")
    axes.annotate(
        f"{crossover['device']} is faster\nfrom batch {size:.3g} on", (size, 0.02 + 0.1 * place),
        xycoords=("data", "axes fraction"), xytext=(5, 0), textcoords="offset points", color=INK, fontsize=9,
        va="bottom",
    )  # fmt: skip


def _write_title(axes: Any, result: Mapping[str, Any]) -> None:
    records, lines = result["records"], []
    for record in {record["device"]: record for record in records}.values():
        machine = record["machine"]
        name = machine.get("gpu") or machine.get("processor") or record["backend"]
        counts = sorted({row["threads"] for row in records if row["device"] == record["device"]} - {None})
        threads = f", threads: {' or '.join(map(str, counts))}" if counts else ""
        lines.append(f"{record['device']}: {name}{threads}")
    for device, reason in result["not_measured"].items():
        lines.append(textwrap.shorten(f"{device}: not measured: {reason}", 115, placeholder=" ..."))
    lines.append(
        f"median of {min(record['blocks'] for record in records)} or more blocks in turns; band: quartiles;"
        " dashed: the step's matrix products alone"
    )
    title = f"Training throughput of {'-'.join(map(str, result['layers']))}, {records[0]['dtype']}"
    axes.set_title(title, loc="left", color=INK, fontsize=13, pad=14 + 11.5 * len(lines))
    axes.annotate(
        "\n".join(lines), (0, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points", color=GREY,
        fontsize=8.5, va="bottom", linespacing=1.25, annotation_clip=False,
    )  # fmt: skip


def _short(value: float) -> str:
    """1500000 as 1.5M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
