"""The folder that a run writes to: found writable before training starts, and held by one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import ConfigError

FILES = ("model.safetensors", "record.json", "checkpoint.safetensors", "checkpoint-previous.safetensors")


def writable_folder(folder: Path, argument: str) -> Path:
    """The folder, made and tried, before an hour of training depends on it. Raises ``ConfigError``."""
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if any((folder / name).is_dir() for name in FILES):
            problem = f"a folder in the place of {' or '.join(FILES)}"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        where = f"{argument} {folder}"
        remedy = "Choose another with --out DIR."
        raise ConfigError("cannot write to the output folder", where=where, found=problem, remedy=remedy)
    return folder


@contextlib.contextmanager
def locked(folder: Path, argument: str) -> Iterator[None]:
    """Hold the folder; ``ConfigError`` if another process does. The system frees it when the process ends.

    Correctness does not rest on it: some network file systems ignore locks, and files are written atomically.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            where = f"{argument} {folder}"
            raise ConfigError("another run writes here", where=where, remedy="Choose another, or wait.") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
