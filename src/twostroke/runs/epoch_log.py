"""A run's epochs as a CSV file that grows while it trains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Final

from ..engine.training import EpochRecord
from ..errors import ConfigError, DataError
from ..files.atomic_file import write_atomically
from ..files.regular_file import open_regular
from .folder import FILES

COLUMNS: Final = tuple(each.name for each in fields(EpochRecord))
HEADER: Final = f"{','.join(COLUMNS)}\n".encode()


def epoch_row(record: EpochRecord) -> bytes:
    """A line of the file. What a run has not, such as a validation loss, is an empty cell; a float keeps all bits."""
    return f"{','.join('' if value is None else repr(value) for value in astuple(record))}\n".encode()


def log_path(path: str, argument: str, folder: Path) -> Path:
    """The file to log to, links followed. Writes nothing.

    Raises ``ConfigError`` if something else is there (an empty file is nothing), or if it is a file of the run itself.
    """
    found = Path(os.path.realpath(path))
    if found.parent == Path(os.path.realpath(folder)) and found.name in FILES:
        raise _refused(argument, path, f"a file that the run itself writes to {folder}")
    if not os.path.lexists(found):
        return found
    try:
        with open_regular(found) as file:
            first = file.readline(len(HEADER) + 1)
    except DataError as error:
        raise _refused(argument, path, error.found) from error
    if first not in (b"", HEADER):
        raise _refused(argument, path, f"another file, which begins with {first[:40]!r}")
    return found


class EpochLog:
    """The file, from now on with ``history`` only: a resumed run repeats what came after its checkpoint."""

    def __init__(self, path: Path, argument: str, history: Sequence[EpochRecord]) -> None:
        self.path, self._argument = path, argument
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, b"".join([HEADER, *map(epoch_row, history)]))
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, record: EpochRecord) -> None:
        """Add an epoch, for every reader to see at once. Raises ``ConfigError`` if the file cannot be written."""
        try:
            with open(os.open(self.path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as file:
                file.write(epoch_row(record))
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ConfigError:
        where = f"{self._argument} {self.path}"
        return ConfigError("cannot write the log", where=where, found=error.strerror, remedy="Choose another file.")


def _refused(argument: str, path: str, found: object) -> ConfigError:
    expected, remedy = "a log of epochs, or no file yet", "Choose another name."
    where = f"{argument} {path}"
    return ConfigError("not a log to write over", where=where, found=found, expected=expected, remedy=remedy)
