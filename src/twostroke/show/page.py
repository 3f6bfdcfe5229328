"""A run as one self-contained HTML page: styles, curves and images are inline; no script, no request.

``page.html`` is the template; Jinja2 escapes every text that comes from a file.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..engine.layers import parameter_count
from ..runs.settings import RECORDED
from . import pictures
from .findings import Findings, heat, number
from .judgement import decimals, of_samples, percent, repetition, scores

MACHINE: Final = ("backend", "device", "threads")
PLACES: Final = {"source": "data", "model": "model"}
ELSEWHERE: Final = {
    "class_names", "columns", "shape",
    "test_accuracy", "test_loss", "train_seconds", "samples_per_second", "history", "machine", "versions", "reason",
    "finished", "data", *MACHINE, *PLACES,
}  # fmt: skip
RECORDED_APART: Final = 5e-4  # in accuracy; two devices differ by less


def html(findings: Findings, command: Sequence[str]) -> str:
    """Render the page. ``command`` repeats the run, in parts between which a line may break; empty if unknown.

    Raises ``ImportError`` without Jinja2.
    """
    return render("page.html", {**_facts(findings), "command": command})


def render(template: str, facts: Mapping[str, Any]) -> str:
    """A template of this folder, with the pages' style. Every text of ``facts`` is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "percent": percent,
        "of_samples": of_samples,
        "significant": significant,
        "confidence": confidence,
    }
    text, style = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in (template, "page.css"))
    return environment.from_string(text).render(**facts, style=style)


def significant(value: Any) -> str:
    """A number with four significant digits, or with thousands separators; empty for None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def confidence(value: float, output: str) -> str:
    """An output: in per cent if it is a probability, else as it is."""
    return percent(value) if output in ("softmax", "sigmoid") else f"output {value:.3g}"


def _facts(findings: Findings) -> dict[str, Any]:
    """Every name that the template uses."""
    net, data, record = findings.net, findings.data, findings.record
    n_classes, many = net.layers[-1], findings.matrix is not None and net.layers[-1] > pictures.NUMBERED
    images = [_uri(image) for image in pictures.sample_images(findings)] if findings.pictures else []
    return {
        "data": data,
        "net": net,
        "n_parameters": parameter_count(net.layers),
        "n_classes": n_classes,
        "names": findings.names,
        "result": findings.result,
        "interval": findings.interval,
        "digits": decimals(*findings.interval),
        "judgement": findings.judgement,
        "scores": [] if findings.matrix is None else scores(findings.matrix),
        "errors": findings.errors,
        "n_test": len(data.test_labels),
        "shape": " × ".join(map(str, data.image_shape)),
        "facts": {name: number(record.get(name)) for name in ("epochs", "train_seconds", "samples_per_second")},
        "device": text_of(record.get("device")),
        "threads": text_of(record.get("threads")),
        "reason": text_of(record.get("reason")),
        "finished": _moment(record.get("finished")),
        "recorded": _recorded(findings),
        "history": findings.history,
        "parts": [part for part in pictures.SERIES if any(row[f"{part}_loss"] is not None for row in findings.history)],
        "series": pictures.SERIES,
        "curves": {
            quantity: _curve(findings, quantity) for quantity in pictures.quantities(findings) if findings.history
        },
        "matrix": findings.matrix,
        "heat": None if findings.matrix is None or many else heat(findings.matrix),
        "matrix_picture": _matrix(findings) if many else None,
        "pairs": findings.pairs,
        "pictures": findings.pictures,
        "mistakes": findings.mistakes,
        "images": images,
        "units": [(findings.unit_name(unit), _uri(pictures.tint(unit.weights))) for unit in findings.units],
        "n_units": net.layers[1],
        "settings": [(name, text_of(value)) for name, value in settings_of(record)],
        "environment": [(name, value) for name, value in _environment(record).items() if value],
        "places": [(name, text_of(record[key])) for key, name in PLACES.items() if record.get(key)],
        "repetition": repetition(record),
    }


def _uri(pixels: Any) -> str:
    return f"data:image/png;base64,{base64.b64encode(pictures.image_png(pixels)).decode()}"


def _curve(findings: Findings, quantity: str) -> str:
    first, last = findings.history[0], findings.history[-1]
    if quantity == pictures.RATE:
        ways = [f"from {significant(first['learning_rate'])} to {significant(last['learning_rate'])}"]
    else:
        ways = [
            f"{name} from {significant(first[key])} to {significant(last[key])}"
            for series, name in pictures.SERIES.items()
            if last[key := f"{series}_{quantity}"] is not None
        ]
    description = f"Line chart of the {quantity} over {len(findings.history)} epochs: {'; '.join(ways)}."
    return pictures.svg(pictures.curve(findings, quantity, pictures.THEMED), quantity, description)


def _matrix(findings: Findings) -> str:
    description = f"Confusion matrix of {findings.net.layers[-1]} classes; the table of the most frequent follows."
    return pictures.svg(pictures.matrix(findings, pictures.THEMED), "confusion", description)


def settings_of(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The record's settings by their labels, then whatever else it holds."""
    labels = {one.record_key: one.label for one in RECORDED if one.record_key in record}
    labels |= {key: str(key).replace("_", " ") for key in sorted(record.keys() - labels.keys() - ELSEWHERE)}
    return [(label, record[key]) for key, label in labels.items()]


def _environment(record: Mapping[str, Any]) -> dict[str, str]:
    tables = [{name: record.get(name) for name in MACHINE}, record.get("machine"), record.get("versions")]
    items = [item for table in tables if isinstance(table, Mapping) for item in table.items()]
    return {str(name).replace("_", " "): text_of(value) for name, value in items}


def text_of(value: Any) -> str:
    """A value of a record as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text_of(one)}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    return significant(value) if isinstance(value, float) else "" if value is None else str(value)


def _moment(value: Any) -> str:
    try:
        return f"{datetime.fromisoformat(value).astimezone(UTC):%d %B %Y, %H:%M} UTC".lstrip("0")
    except (TypeError, ValueError, OverflowError):
        return ""


def _recorded(findings: Findings) -> str:
    """A note if the record's test accuracy differs from the one measured now."""
    accuracy, name = number(findings.record.get("test_accuracy")), text_of(findings.record.get("data"))
    if accuracy is None or abs(accuracy - findings.result.accuracy) <= RECORDED_APART:
        return ""
    digits = decimals(*findings.interval)
    return f"The record of the run says {percent(accuracy, digits)}, on {name}."
