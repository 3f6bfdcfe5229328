"""Opening regular files, and no others."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from ..errors import DataError

MAX_BYTES = 16 << 30
# Image sets shrink 2 to 30 times; a file that unpacks to more than both of these is taken for a bomb.
MAX_RATIO, MAX_UNASKED = 100, 64 << 20


def absolute(path: str | os.PathLike[str]) -> str:
    """The path as messages show it."""
    return os.path.abspath(os.fsdecode(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The file opened for reading; DataError if it is missing, unreadable or not a regular file."""
    where = absolute(path)
    try:
        if stat.S_ISREG(os.stat(where).st_mode):
            # Opening a FIFO waits for a writer, and the name may mean another file since the look.
            descriptor = os.open(where, os.O_RDONLY | os.O_NONBLOCK)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return os.fdopen(descriptor, "rb")
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            "cannot open the file", where=where, found=reason, expected="a readable file", remedy="Check the path."
        ) from error
    raise DataError(
        "not a regular file",
        where=where,
        found="a folder, pipe or device",
        expected="a file",
        remedy="Name the file itself.",
    )


def check_size(promised: int, stored: int, where: str) -> None:
    """DataError if ``promised`` bytes are too many for a file of ``stored`` bytes to unpack to."""
    limit = min(MAX_BYTES, max(MAX_UNASKED, MAX_RATIO * stored))
    if promised > limit:
        found, remedy = f"{promised} bytes from a file of {stored}", "If it is meant, store it uncompressed."
        raise DataError(
            "the header promises too much", where=where, found=found, expected=f"at most {limit}", remedy=remedy
        )
