"""Opens regular files only, and limits what a file may unpack to."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from ..errors import DataError

MAX_BYTES = 16 << 30
# Images compress 2 to 30 times; a file that unpacks to more than both limits is taken for a decompression bomb.
MAX_RATIO, MAX_UNASKED = 100, 64 << 20


def absolute(path: str | os.PathLike[str]) -> str:
    """The absolute path, as errors show it."""
    return os.path.abspath(os.fsdecode(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading. Raises DataError if it is missing, unreadable or not a regular file."""
    where = absolute(path)
    try:
        if stat.S_ISREG(os.stat(where).st_mode):
            # O_NONBLOCK: opening a FIFO blocks. fstat: the path may have been replaced since the stat.
            descriptor = os.open(where, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return os.fdopen(descriptor, "rb")
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        what, expected, remedy = "cannot open the file", "a readable file", "Check the path."
        raise DataError(what, where=where, found=reason, expected=expected, remedy=remedy) from error
    found, remedy = "a folder, pipe or device", "Name the file itself."
    raise DataError("not a regular file", where=where, found=found, expected="a file", remedy=remedy)


def check_size(promised: int, stored: int, where: str) -> None:
    """Raise DataError if ``promised`` bytes are too many for a file of ``stored`` bytes to unpack to."""
    limit = min(MAX_BYTES, max(MAX_UNASKED, MAX_RATIO * stored))
    if promised > limit:
        found, expected = f"{promised} bytes from a file of {stored}", f"at most {limit}"
        what, remedy = "the header promises too much", "If the file is right, store it uncompressed."
        raise DataError(what, where=where, found=found, expected=expected, remedy=remedy)
