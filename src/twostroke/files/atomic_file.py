"""Atomic, durable writes: after a crash or a power cut a file is the old one or the new one, never a mixture."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary file beside ``path``, fsync, rename over ``path``, fsync the folder. Raises ``OSError``."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        # O_EXCL refuses existing files and symbolic links. The umask reduces 0o666, as for any other file.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """fsync a folder: makes renames in it durable."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; its file system's journal must do
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def previous(path: Path) -> Path:
    """The path of the checkpoint before the newest."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")
