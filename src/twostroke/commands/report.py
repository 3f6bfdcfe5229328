"""``twostroke report``."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, need
from ..models.model_file import load_model
from ..runs.folder import MODEL, PAGE, RECORD, writable_folder, write_file
from ..runs.own_kernel import own_kernels
from ..runs.record import read_record, repeat_words
from ..show import page, pictures
from ..show.findings import Findings, examine
from . import load_for, options, select
from .terminal import Say, in_shell, say


def report(
    run: options.RunFolder,
    data: options.ReportData = None,
    png: options.Png = False,
    out: options.ReportOut = None,
    device: options.Device = None,
    threads: options.Threads = None,
    kernel: options.Kernels = None,
    debug: options.Debug = False,
) -> None:
    """Show a finished run as one web page: curves, confusion, worst mistakes, weights, settings."""
    need("plot", "twostroke report")
    found = read_record(run / RECORD)
    net = load_model(run / MODEL, backend=select(device, threads), kernels=own_kernels(kernel))
    source = data or found.get("source")
    if not isinstance(source, str):
        raise ConfigError("the record does not say where its data are", where=run, remedy="Add --data mnist|PATH.")
    samples = load_for(net, run / MODEL, source)
    folder = writable_folder(out or run, "--out" if out else "RUN")
    write_page(examine(found, net, samples), folder, say, png=png)


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
