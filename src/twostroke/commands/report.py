"""``twostroke report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..backend import Backend
from ..errors import ConfigError, need
from ..models.model_file import load_model
from ..runs.folder import MODEL, PAGE, RECORD, writable_folder, write_file
from ..runs.own_kernel import own_kernels
from ..runs.record import read_record, repeat_words
from ..show import comparison, page, pictures
from ..show.card import card as draw_card
from ..show.findings import Findings, examine
from . import load_for, no_page, options, select
from .terminal import Say, in_shell, say

COMPARISON: Final = "comparison.html"


def report(
    runs: options.RunFolders,
    data: options.ReportData = None,
    png: options.Png = False,
    card: options.Card = None,
    out: options.ReportOut = None,
    device: options.Device = None,
    threads: options.Threads = None,
    kernel: options.Kernels = None,
    debug: options.Debug = False,
) -> None:
    """Show a finished run as one web page: curves, confusion, worst mistakes, weights, settings.

    Two or more runs are compared: settings that differ, results, cost, and whether one is better by more than chance.
    """
    need("plot", "twostroke report")
    if card:
        if card.suffix.lower() != ".png":
            raise ConfigError("the card is a PNG file", where="--card", found=card, expected="FILE.png")
        if card.is_dir():
            raise ConfigError("a folder is in the place of the card", where="--card", found=card)
    backend = select(device, threads)
    if len(runs) > 1:
        if png or card:
            raise ConfigError(f"{'--png' if png else '--card'} is for one run", found=f"{len(runs)} runs")
        write_comparison(_distinct(runs), backend, data, out, kernel)
        return
    run = runs[0]
    found = _examined(run, backend, data, kernel)
    folder = writable_folder(out or run, "--out" if out else "RUN")
    if card:
        write_file(writable_folder(card.parent, "--card") / card.name, draw_card(found), "the card")
        say(f"card: {card}")
    write_page(found, folder, say, png=png)


def _examined(run: Path, backend: Backend, data: str | None, kernel: list[str] | None) -> Findings:
    found = read_record(run / RECORD)
    no_page(found.get("task"), run)
    net = load_model(run / MODEL, backend=backend, kernels=own_kernels(kernel))
    source = data or found.get("source")
    if not isinstance(source, str):
        raise ConfigError("the record does not say where its data are", where=run, remedy="Add --data mnist|PATH.")
    return examine(found, net, load_for(net, run / MODEL, source))


def _distinct(runs: list[Path]) -> dict[str, Path]:
    """The runs by names that tell them apart. Raises ``ConfigError`` for a run named twice, or too many."""
    seen: dict[Path, Path] = {}
    for run in runs:
        if (place := run.resolve()) in seen:
            raise ConfigError("one run is named twice", where="RUN", found=f"{seen[place]} and {run}")
        seen[place] = run
    if len(runs) > comparison.MOST_RUNS:
        raise ConfigError("too many runs", where="RUN", found=len(runs), expected=f"<= {comparison.MOST_RUNS}")
    names = [place.name for place in seen]
    return {str(run) if names.count(place.name) > 1 else place.name: run for place, run in seen.items()}


def write_comparison(
    runs: Mapping[str, Path], backend: Backend, data: str | None, out: Path | None, kernel: list[str] | None
) -> None:
    """Say the comparison and write comparison.html, into ``out`` or the folder of the first run."""
    found = [comparison.compared(name, _examined(run, backend, data, kernel)) for name, run in runs.items()]
    folder = writable_folder(out or next(iter(runs.values())), "--out" if out else "RUN")
    content = comparison.html(found).encode(errors="backslashreplace")
    for line in comparison.lines(found):
        say(line)
    write_file(folder / COMPARISON, content, "the page")
    say(f"comparison: {folder / COMPARISON}")


def write_page(findings: Findings, folder: Path, tell: Say, *, png: bool = False) -> None:
    """Write report.html, and with ``png`` every picture as a file of its own, into ``folder``."""
    command: list[str] = []
    for word in repeat_words(findings.record):
        # A flag and its value stay on one line.
        if word.startswith("--") or not command:
            command.append(in_shell(word))
        else:
            command[-1] += f" {in_shell(word)}"
    if findings.judgement:
        tell(findings.judgement)
    content = {PAGE: page.html(findings, command).encode(errors="backslashreplace")}
    if png:
        content |= {name: pictures.png(figure) for name, figure in pictures.files(findings).items()}
    for name, data in content.items():
        write_file(folder / name, data, "the page")
        tell(f"{'report' if name == PAGE else 'picture'}: {folder / name}")
