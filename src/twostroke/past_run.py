"""A finished run, known from the record in its folder: the record read back, and the command that repeats the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .errors import DataError, ModelError
from .idx import open_regular
from .settings import KEYS

MAX_RECORD_BYTES: Final = 1 << 26
APART: Final = ("data", "out", "threads", "tf32")  # settings that a record holds elsewhere, or not at all


def read_record(path: Path) -> dict[str, Any]:
    """A run's record.json. Only that it is a JSON object is known of it then. Raises ``ModelError``."""
    try:
        with open_regular(path) as file:
            text = file.read(MAX_RECORD_BYTES + 1)
        found = json.loads(text) if len(text) <= MAX_RECORD_BYTES else f"more than {MAX_RECORD_BYTES} bytes"
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        if isinstance(error, DataError):
            remedy = "Name the folder that a run of twostroke train wrote to."
            raise ModelError("no record of a run", where=path, found=error.found, remedy=remedy) from error
        found = f"{type(error).__name__}: {error}"
    if not isinstance(found, dict):
        raise ModelError("not the record of a run", where=path, found=str(found)[:200], expected="a JSON object")
    return found


def repeat_words(record: Mapping[str, Any]) -> list[str]:
    """The command that repeats a run: no setting left to a default. Empty if the record does not hold them all."""
    values = {key: record.get("learning_rate" if key == "lr" else key) for key in KEYS if key not in APART}
    source, history, machine = record.get("source"), record.get("history"), record.get("machine")
    if not isinstance(source, str) or None in values.values():
        return []
    if isinstance(history, list) and history and isinstance(history[-1], Mapping) and "epochs" in history[-1]:
        values["epochs"] = history[-1]["epochs"]  # that were meant: the schedule depends on them
    machine = machine if isinstance(machine, Mapping) else {}
    if record.get("threads") and not machine.get("threads_auto"):
        values["threads"] = record["threads"]
    words = ["twostroke", "train", source]
    for key, value in values.items():
        words += [f"--{key.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return [*words, "--tf32"] if machine.get("tf32") else words
