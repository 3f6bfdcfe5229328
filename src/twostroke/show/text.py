"""Text: a run, its epochs, an evaluation and a prediction as lines. Prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..backend import Backend
from ..data.dataset import Dataset
from ..engine.config import TrainConfig
from ..engine.layers import parameter_count
from ..engine.mlp import MLP
from ..engine.training import EpochRecord
from ..runs.settings import SETTINGS
from .judgement import NO_BREAK, decimals, interval, percent

BLOCKS, ASCII_BLOCKS = " ▄▀█", " .'#"
NAMED = 8  # classes in a line
BAR_WIDTH = 28
KEYS = 10  # the width of the first words of a run
PAYS = 1.3  # the least speed-up that makes twice the ranks worthwhile


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _loss(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def row(key: str, value: str) -> str:
    """A line of a run's head: what is told, aligned, and its value."""
    return f"{f'{key}:' if key else '':<{KEYS}}{value}"


def device_line(backend: Backend) -> str:
    """The device, its threads, and why it was chosen."""
    threads = f", {backend.threads} thread{_s(backend.threads)}" if backend.threads else ""
    if backend.auto:
        threads = f", as many of {backend.threads} threads as pay"
    return row("device", f"{backend.device}{threads}: {backend.reason}")


def data_lines(data: Dataset) -> list[str]:
    """The data set: sizes, shape, dtype, classes; and how it was read, if that was a choice."""
    shape = " x ".join(map(str, data.image_shape))
    sizes = f"{len(data.train_images):,} training and {len(data.test_images):,} test samples"
    named = f": {', '.join(data.classes[:NAMED])}{', ...' * (len(data.classes) > NAMED)}" if data.classes else ""
    kinds = f"{data.n_outputs} target{_s(data.n_outputs)}" if data.regression else f"{data.n_classes} classes"
    line = f"{data.name}, {sizes}, {shape} {data.train_images.dtype}, {kinds}{named}"
    return [row("data", line), *([row("", data.how)] if data.how else [])]


def network_line(net: MLP) -> str:
    """All settings of the network."""
    shape, count = "-".join(map(str, net.layers)), parameter_count(net.layers)
    kinds = f"{net.activation}, {net.output} output, {net.loss} loss, {net.init} weights, {net.dtype}, seed {net.seed}"
    return row("network", f"{shape}, {count:,} parameters, {'regression, ' if net.regression else ''}{kinds}")


def settings_line(config: TrainConfig, preset: str) -> str:
    """How it is trained; a setting without a phrase of its own is left out at its default."""
    values = asdict(config) | {"lr": config.learning_rate}
    parts = [one.in_line(values) for one in SETTINGS.values() if one.of_training]
    return row("settings", f"preset {preset}, {', '.join(part for part in parts if part)}")


def kept_words(history: Sequence[EpochRecord], epoch: int) -> str:
    """Which epoch's parameters the model has: that with the lowest validation loss."""
    loss = history[epoch - 1].val_loss
    shown = "" if loss is None else f", {_loss(loss)}"
    return f"of epoch {epoch} of {len(history)}, with the lowest validation loss{shown}"


def ranks_line(ranks: Mapping[str, Any], backend: Backend) -> str:
    """The ranks of a distributed run: ``DistributedRun.describe``."""
    threads = f", {backend.threads} thread{_s(backend.threads)} each" if backend.threads else ""
    hosts = f" on {ranks['hosts']} machine{_s(ranks['hosts'])} by {ranks['mpi']}" if "mpi" in ranks else ""
    return row("ranks", f"{ranks['ranks']}{hosts}{threads}; gradients are summed by {ranks['gradients_summed_by']}")


def crowded_line(ranks: int, cores: int) -> str:
    """The note for more ranks than cores."""
    return f"{ranks} ranks share {cores} core{_s(cores)} and wait for each other: {cores} would be faster"


def summing_line(ranks: Mapping[str, Any]) -> str:
    """The share of the time spent in all-reduce (with the wait for the slowest rank), and whether more ranks would pay.

    With n ranks a step spends c on computation and s on the all-reduce. With m ranks it takes at least c n / m + s;
    m is 2n, on one host at most its number of cores.
    """
    total, summing = ranks["step_seconds"], ranks["summing_seconds"]
    if not total or ranks["ranks"] == 1:
        return f"communication: none, {ranks['ranks']} rank"
    share = summing / total
    n, cores = ranks["ranks"], ranks.get("cores_of_host", 0)
    more = min(2 * n, cores) if ranks.get("hosts") == 1 else 2 * n
    gain = 1 / ((1 - share) * n / more + share) if more > n else 1.0
    if more > n:
        verdict = f"{more} ranks would be {gain:.2f} times as fast at most"
        if gain < PAYS:
            verdict += ": more ranks do not pay, a larger batch might"
    elif more == n:
        verdict = f"there are as many ranks as cores ({n})"
    else:
        verdict = f"{n} ranks share {cores} core{_s(cores)}: fewer are faster"
    return f"communication: {share:.0%} of the training time; {verdict}"


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """What ``plan_record`` adds to the first lines of a run."""
    done = f", {plan['done_steps']:,} of them done" if plan["done_steps"] else ""
    per_epoch, steps = plan["steps_per_epoch"], plan["steps"]
    used, data = plan["memory_bytes"] / 1e6, plan["data_bytes"] / 1e6
    lines = [
        row("steps", f"{per_epoch:,} an epoch, {steps:,} in all{done}, on {plan['training_samples']:,} samples"),
        row("memory", f"{used:,.1f} MB of arrays on {plan['device']}; the data as read: {data:,.1f} MB"),
        row("files", ", ".join(plan["files"])),
    ]
    if plan["replaced"]:
        lines.append(row("replaced", ", ".join(plan["replaced"])))
    return [*lines, "dry run: nothing was trained, nothing was written"]


def epoch_head(names: Sequence[str], epochs: int, *, regression: bool = False) -> str:
    """The head of the table of epochs; ``names`` are train, val, test, as far as they are measured."""
    if regression:
        shown, width = ", ".join(("loss", *_errors_shown(len(names)))), 8 * (len(names) < 3) + 16
        columns = "".join(f"{f'{name} {shown}':>{width}}" for name in names)
        return f"{'epoch':>{_width(epochs)}}{columns} left"
    columns = "".join(f"{f'{name} loss, acc':>16}" for name in names)
    return f"{'epoch':>{_width(epochs)}}{columns}{'' if len(names) > 2 else '  seconds'} left"


def epoch_line(record: EpochRecord) -> str:
    """One epoch as a row of the table, with the time that remains; up to 999 epochs fit in 60 columns."""
    cells = f"{f'{record.epoch}/{record.epochs}':>{_width(record.epochs)}}"
    shown = [name for name in ("train", "val", "test") if getattr(record, f"{name}_loss") is not None]
    if record.train_rmse is not None:
        for name in shown:
            values = [getattr(record, f"{name}_{one}".lower()) for one in ("loss", *_errors_shown(len(shown)))]
            cells += "".join(f" {_short(value):>7}" for value in values)
        return f"{cells}{_span(record.train_seconds * (record.epochs - record.epoch)):>5}"
    for name in shown:
        loss, accuracy = getattr(record, f"{name}_loss"), getattr(record, f"{name}_accuracy")
        cells += f" {f'{loss:.4f}' if abs(loss) < 99.9 else f'{loss:.3g}':>7}{accuracy:>8.2%}"
    if len(shown) < 3:
        cells += f"{record.train_seconds:>9.2f}"
    return f"{cells}{_span(record.train_seconds * (record.epochs - record.epoch)):>5}"


def _errors_shown(parts: int) -> tuple[str, ...]:
    """What a row says of a part of a regression beside the loss: R2 of three, which leave no more room."""
    return ("RMSE", "R2") if parts < 3 else ("R2",)


def _short(value: float) -> str:
    """A number in seven characters."""
    for limit, digits in ((99.9, 4), (9999, 1), (1e6 - 1, 0)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:.1e}"


def _width(epochs: int) -> int:
    return max(7, 2 * len(str(epochs)) + 1)


def _span(seconds: float) -> str:
    """A time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def result_line(record: Mapping[str, Any]) -> str:
    """The result in ``run_record``."""
    threads = f", {record['threads']} thread{_s(record['threads'])}" if record["threads"] else ""
    kept = f"of epoch {record['kept_epoch']}, " if "kept_epoch" in record else ""
    return (
        f"{outcome_words(record)} {kept}after {record['epochs']}"
        f" epoch{_s(record['epochs'])}, {record['train_seconds']:.2f} s of training,"
        f" {record['samples_per_second']:,.0f} samples/s on {record['device']}{threads}"
    )


def outcome_words(record: Mapping[str, Any]) -> str:
    """How good a result is."""
    if "test_rmse" in record:
        errors = f"test RMSE {record['test_rmse']:.5g}, MAE {record['test_mae']:.5g}, R2 {record['test_r2']:.4f}"
        return f"{errors}, test loss {_loss(record['test_loss'])}"
    return f"test accuracy {record['test_accuracy']:.2%}, test loss {_loss(record['test_loss'])}"


def target_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The errors of each target as lines."""
    width = max([6, *(len(row["target"]) for row in rows)])
    lines = [f"{'target':>{width}}  {'RMSE':>10}  {'MAE':>10}  {'R2':>8}"]
    for row in rows:
        lines.append(f"{row['target']:>{width}}  {row['rmse']:>10.5g}  {row['mae']:>10.5g}  {row['r2']:>8.4f}")
    return lines


def values_line(record: Mapping[str, Any]) -> str:
    """``values_record`` as a line."""
    known = record["target"] or [None] * len(record["prediction"])
    names = record.get("targets") or [""] * len(known)
    parts = []
    for name, value, target in zip(names, record["prediction"], known, strict=True):
        parts.append(f"{name} {value:.6g}".strip() + ("" if target is None else f" (is {target:.6g})"))
    return f"{record['source']}: {', '.join(parts)}"


def evaluation_line(record: Mapping[str, Any]) -> str:
    """The result in ``evaluation_record``, with as many digits as its 95 % interval allows."""
    errors, samples = record["errors"], record["samples"]
    low, high = interval(samples - errors, samples)
    digits = decimals(low, high)
    accuracy, *ends = (percent(share, digits).replace(NO_BREAK, "") for share in (1 - errors / samples, low, high))
    return (
        f"test accuracy {accuracy} ({errors:,} errors in {samples:,}), 95% interval {' to '.join(ends)},"
        f" test loss {_loss(record['test_loss'])}"
    )


def onnx_lines(record: Mapping[str, Any]) -> list[str]:
    """What ``export_onnx`` returns: names, types and shapes of inputs and outputs, and the file."""

    def described(values: Mapping[str, Any]) -> str:
        parts = [f"{name} {value['dtype']} ({', '.join(map(str, value['shape']))})" for name, value in values.items()]
        return ", ".join(part.replace("(batch)", "(batch,)") for part in parts)

    return [
        f"inputs: {described(record['inputs'])}, {record['input']}",
        f"outputs: {described(record['outputs'])}",
        f"written: {record['onnx']}, {record['bytes']:,} bytes, ONNX operator set {record['opset']}",
    ]


def class_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> list[str]:
    """``class_counts`` as lines; ``names`` of the classes, if they have names."""
    shown = {row["class"]: names[row["class"]] if names else str(row["class"]) for row in rows}
    width = max([5, *map(len, shown.values())])
    lines = [f"{'class':>{width}}  samples  errors  error rate  most often taken for"]
    for row in rows:
        rate = f"{row['errors'] / row['samples']:.2%}" if row["samples"] else "-"
        other = row["most_taken_for"]
        mistaken = "-" if other is None else names[other] if names else other
        name = shown[row["class"]]
        lines.append(f"{name:>{width}}  {row['samples']:>7}  {row['errors']:>6}  {rate:>10}  {mistaken:>20}")
    return lines


def prediction_lines(record: Mapping[str, Any], pixels: Any, *, plain: bool = False) -> list[str]:
    """``prediction_record`` with its picture, if it is one, and the largest outputs as sorted bars; or
    ``values_record``."""
    if "target" in record:
        return [values_line(record)]
    label, values, full = record["label"], record["probabilities"], "#" if plain else "█"
    names = record.get("classes") or [str(k) for k in range(len(values))]
    right = "right" if label == record["prediction"] else "wrong"
    truth = "" if label is None else f" (labelled {names[label]}: {right})"
    lines = [f"  {line}" for line in picture(pixels, plain=plain)] if pixels.ndim == 2 else []
    lines.append(f"{record['source']}: {names[record['prediction']]}{truth}")
    best = sorted(range(len(values)), key=lambda k: -values[k])[:10]
    width = max(len(names[k]) for k in best)
    for k in best:
        bar = full * round(BAR_WIDTH * min(max(values[k], 0.0), 1.0))
        lines.append(f"  {names[k]:>{width}} {values[k]:8.2%} {bar}".rstrip())
    return lines


def picture(pixels: Any, *, plain: bool = False) -> list[str]:
    """A grey image (H, W) as lines of W half blocks, two rows of pixels each, ink in the colour of the text."""
    on = pixels > (float(pixels.min()) + float(pixels.max())) / 2
    on = np.pad(on, ((0, len(on) % 2), (0, 0))).astype(int)
    glyphs = ASCII_BLOCKS if plain else BLOCKS
    return ["".join(glyphs[code] for code in codes) for codes in 2 * on[::2] + on[1::2]]
